"""`attune measure`: how far a policy, or any model, is from a target."""

from __future__ import annotations

from typing import Annotated

import typer

from attunement.cli.grouping import flat
from attunement.cli.options import (
    CompletionOptions,
    ContextOptions,
    Json,
    MachineOptions,
    TargetOptions,
    begin,
    model_settings,
    print_json,
    usage,
)


@flat
def measure(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub id.")],
    target: TargetOptions,
    given: ContextOptions,
    completion: CompletionOptions,
    machine: MachineOptions,
    n: Annotated[int, typer.Option("-n", min=8, help="Samples, half of base and policy.")] = 4096,
    base: Annotated[str | None, typer.Option(help="The base; of a run, its own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure how far a run's policy, or any model, is from a target."""
    from attunement import jobs
    from attunement.console import print_measurement
    from attunement.distributions.language import require_same_tokens
    from attunement.measuring import MeasuredOn
    from attunement.measuring import measure as measure_policy
    from attunement.runs import Run, generator_for

    begin(machine.threads)
    with usage():
        wanted = target.settings()
        contexts = given.read(seed)
        is_run = jobs.is_run(model)
        if is_run and (wanted.has_factors or base is not None):
            raise typer.BadParameter("a run has its own base and target: leave those options out")
        if not is_run and not wanted.has_factors:
            raise typer.BadParameter(
                f"{model} is no run: say what to measure it against, "
                "e.g. --base tiny-python --constrain compiles"
            )
        wanted.check()
    if is_run:
        run = Run.open(model)
        measured = jobs.measure_run(run, n, seed, contexts)
        own = jobs.measured_on(jobs.read_recipe(run))
    else:
        settings = model_settings(base or model, completion, machine)
        generator = generator_for(seed)
        loaded = settings.load()
        policy = loaded if base is None else settings.resolved(loaded).load(model, base=loaded)
        require_same_tokens(loaded, policy, model)
        built = wanted.build(loaded).fit(contexts, generator=generator)
        measured = measure_policy(built, policy, contexts, n=n, generator=generator)
        own = MeasuredOn.EMPTY
    on = own if contexts is None else MeasuredOn.GIVEN
    if as_json:
        print_json(measured.to_json(model) | {"measured_on": on})
    else:
        print_measurement(measured, on=on)
