"""`attune measure`: how far a policy, or any model, is from a target."""

from __future__ import annotations

from typing import Annotated

import typer

from attunement.cli.options import (
    Beta,
    Constrain,
    Device,
    Dtype,
    Floor,
    Json,
    Match,
    MatchEach,
    MaxNewTokens,
    Prompt,
    Prompts,
    Stop,
    StopPreset,
    Threads,
    Tilt,
    begin,
    model_settings,
    print_json,
    read_prompts,
    target_settings,
    usage,
)


def measure(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub id.")],
    n: Annotated[int, typer.Option("-n", min=8, help="Samples, half of base and policy.")] = 4096,
    base: Annotated[str | None, typer.Option(help="The base; of a run, its own.")] = None,
    constrain: Constrain = None,
    floor: Floor = None,
    match: Match = None,
    match_each: MatchEach = None,
    tilt: Tilt = None,
    beta: Beta = None,
    max_new_tokens: MaxNewTokens = None,
    stop: Stop = None,
    stop_preset: StopPreset = None,
    prompt: Prompt = None,
    prompts: Prompts = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 1,
    threads: Threads = None,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Measure how far a run's policy, or any model, is from a target."""
    from attunement import jobs
    from attunement.console import print_measurement
    from attunement.distributions.language import require_same_tokens
    from attunement.measuring import measure as measure_policy
    from attunement.runs import Run, generator_for

    begin(threads)
    with usage():
        wanted = target_settings(constrain, floor, match, match_each, tilt, beta)
        contexts = read_prompts(prompt, prompts)
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
        measured = jobs.measure_run(Run.open(model), n, seed)
    else:
        settings = model_settings(base or model, max_new_tokens, stop, stop_preset, dtype, device)
        generator = generator_for(seed)
        loaded = settings.load()
        policy = loaded if base is None else settings.resolved(loaded).load(model, base=loaded)
        require_same_tokens(loaded, policy, model)
        built = wanted.build(loaded).fit(contexts, generator=generator)
        measured = measure_policy(built, policy, contexts, n=n, generator=generator)
    if as_json:
        print_json(measured.to_json(model))
    else:
        print_measurement(measured)
