"""`attune sample`: of a model, of a run's policy, or of a target without any training."""

from __future__ import annotations

import json
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
    read_prompts,
    target_settings,
    usage,
)


def sample(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub id.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Samples for each context.")] = 20,
    target: Annotated[
        bool, typer.Option("--target", help="Of a run: sample its target, not its policy.")
    ] = False,
    constrain: Constrain = None,
    floor: Floor = None,
    match: Match = None,
    match_each: MatchEach = None,
    tilt: Tilt = None,
    beta: Beta = None,
    acceptance: Annotated[
        float, typer.Option(help="Acceptance rate of quasi-rejection, where exact isn't possible.")
    ] = 0.05,
    max_new_tokens: MaxNewTokens = None,
    stop: Stop = None,
    stop_preset: StopPreset = None,
    prompt: Prompt = None,
    prompts: Prompts = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    threads: Threads = None,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Draw samples of a model, of a run's policy, or of a target without any training."""
    from attunement import jobs
    from attunement.runs import Run, generator_for

    begin(threads)
    generator = generator_for(seed)
    with usage():
        wanted = target_settings(constrain, floor, match, match_each, tilt, beta)
        contexts = read_prompts(prompt, prompts)
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
        base = model_settings(model, max_new_tokens, stop, stop_preset, dtype, device).load()
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
