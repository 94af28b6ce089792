"""`attune sample`: of a model, of a run's policy, or of a target without any training."""

from __future__ import annotations

import json
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
    usage,
)


@flat
def sample(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub id.")],
    factors: TargetOptions,
    given: ContextOptions,
    completion: CompletionOptions,
    machine: MachineOptions,
    n: Annotated[int, typer.Option("-n", min=1, help="Samples for each context.")] = 20,
    target: Annotated[
        bool, typer.Option("--target", help="Of a run: sample its target, not its policy.")
    ] = False,
    acceptance: Annotated[
        float, typer.Option(help="Acceptance rate of quasi-rejection, where exact isn't possible.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw samples of a model, of a run's policy, or of a target without any training."""
    from attunement import jobs
    from attunement.runs import Run, generator_for

    begin(machine.threads)
    generator = generator_for(seed)
    with usage():
        wanted = factors.settings()
        contexts = given.read(seed)
        is_run = jobs.is_run(model)
        if is_run and wanted.has_factors:
            raise typer.BadParameter("a run has its own target: use --target, or name a model")
        if target and not is_run:
            raise typer.BadParameter(
                f"{model} is no run: give --constrain, --match, --match-each or --tilt"
            )
        wanted.check()
    if is_run:
        run = Run.open(model)
        own = jobs.contexts_of(run) if contexts is None else contexts
        if target:
            _, built, _ = jobs.open_target(run)
            drawn, note = jobs.draw_from(built, own, n, acceptance, generator)
        else:
            drawn, note = jobs.open_policy(run).sample(own, n, generator=generator), None
    else:
        base = model_settings(model, completion, machine).load()
        if wanted.has_factors:
            built = wanted.build(base).fit(contexts, generator=generator)
            drawn, note = jobs.draw_from(built, contexts, n, acceptance, generator)
        else:
            drawn, note = base.sample(contexts, n, generator=generator), None
    if as_json:
        rows = zip(drawn.texts, drawn.log_prob.tolist(), drawn.finished.tolist(), strict=True)
        for text, log_prob, finished in rows:
            typer.echo(json.dumps({"text": text, "log_prob": log_prob, "finished": finished}))
    else:
        for number, text in enumerate(drawn.full_texts, 1):
            typer.echo(f"--- {number}\n{text}")
    if note is not None:
        typer.echo(note, err=True)
