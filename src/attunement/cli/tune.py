"""`attune tune`: move a model towards a target and report the distance left."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    as_option,
    begin,
    model_settings,
    print_json,
    read_prompts,
    target_settings,
    usage,
)

if TYPE_CHECKING:
    from attunement.core import Context, Scorer
    from attunement.distributions.adapters import AdapterSettings
    from attunement.recipes import TuneRecipe
    from attunement.runs import Run

_BESIDE_A_RECIPE = {"output_dir", "resume", "recipe", "threads", "as_json"}


def tune(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option(help="A new folder for the run.")],
    base: Annotated[str, typer.Option(help="A hub id, a folder, or tiny-python.")] = "tiny-python",
    policy: Annotated[
        str | None, typer.Option(help="Where to start: a run, a folder or a hub id [the base].")
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(help="Train a LoRA adapter of this rank, not all weights.")
    ] = None,
    lora_alpha: Annotated[
        int | None, typer.Option(help="The adapter counts alpha / rank times [16].")
    ] = None,
    lora_target_modules: Annotated[
        list[str] | None,
        typer.Option(help="A linear layer that gets one; may be repeated [all but the head]."),
    ] = None,
    constrain: Constrain = None,
    floor: Floor = None,
    match: Match = None,
    match_each: MatchEach = None,
    tilt: Tilt = None,
    beta: Beta = None,
    objective: Annotated[
        str | None,
        typer.Option(help="policy_gradient, trajectory_balance or reward [policy_gradient]."),
    ] = None,
    divergence: Annotated[
        str | None, typer.Option(help="jensen_shannon, reverse_kl, ..., alpha:0.5 [forward_kl].")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="none, analytic or leave_one_out [analytic].")
    ] = None,
    reward_to_go: Annotated[
        bool | None,
        typer.Option("--reward-to-go", help="A token answers for what follows it; reverse_kl."),
    ] = None,
    closed_form_kl: Annotated[
        bool | None,
        typer.Option("--closed-form-kl", help="KL summed over the vocabulary; reverse_kl."),
    ] = None,
    proposal: Annotated[
        str | None,
        typer.Option(help="policy, base, mixture, kl_adaptive or other [mixture]."),
    ] = None,
    proposal_model: Annotated[
        str | None, typer.Option(help="What --proposal other draws from: a run, folder or hub id.")
    ] = None,
    proposal_temperature: Annotated[
        float | None, typer.Option(help="Temperature of what is drawn from [1].")
    ] = None,
    proposal_top_p: Annotated[
        float | None, typer.Option(help="Top-p of the policy's half of a mixture [1].")
    ] = None,
    fully_shard: Annotated[
        bool | None,
        typer.Option("--fully-shard", help="Split parameters among several processes (FSDP2)."),
    ] = None,
    replay: Annotated[
        int | None, typer.Option(help="Earlier batches that a step learns from again [0].")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Updates.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a step.")] = None,
    samples_per_context: Annotated[
        int | None, typer.Option(help="Samples of each context in a step.")
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Samples in one forward and backward pass.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the schedule.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps of linear increase.")] = None,
    max_grad_norm: Annotated[float | None, typer.Option(help="Where gradients are cut.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's.")] = None,
    averaging: Annotated[
        float | None, typer.Option(help="Weight of the past in the delivered average; 0 is none.")
    ] = None,
    bank_size: Annotated[
        int | None, typer.Option(help="Base samples on which the distance is followed.")
    ] = None,
    evaluation_size: Annotated[
        int | None, typer.Option(help="Fresh policy samples at each evaluation.")
    ] = None,
    gradient_variance: Annotated[
        bool | None,
        typer.Option("--gradient-variance", help="Estimate the gradient's variance as well."),
    ] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    keep: Annotated[str | None, typer.Option(help="best or last weights [best].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random [0].")] = None,
    measure_size: Annotated[
        int | None, typer.Option(help="Samples of the final measurement [4096].")
    ] = None,
    fit_size: Annotated[
        int | None, typer.Option(help="Base samples that λ is solved on [8192].")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    stop: Stop = None,
    stop_preset: StopPreset = None,
    prompt: Prompt = None,
    prompts: Prompts = None,
    threads: Threads = None,
    device: Device = None,
    dtype: Dtype = "float32",
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json to run again; nothing else is asked then.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output-dir.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Move a model towards a target and report the distance left."""
    begin(threads)
    if resume or recipe is not None:
        _refuse_others(context)
    if resume:
        run = _resume(output_dir)
    else:
        with usage():
            _require_vacant(output_dir)
            if recipe is not None:
                asked, contexts = _read_again(recipe, output_dir)
            else:
                model = model_settings(base, max_new_tokens, stop, stop_preset, dtype, device)
                target = target_settings(constrain, floor, match, match_each, tilt, beta)
                asked = _recipe(
                    context,
                    model=model,
                    target=target,
                    policy=policy,
                    proposal_model=proposal_model,
                    adapter=_adapter(context),
                )
                contexts = read_prompts(prompt, prompts)
            scorer_of = _scorer_of(asked, recipe)
            asked.check(scorer_of)
        run = _start(asked, output_dir, contexts, scorer_of)
    _conclude(run, as_json)


def _refuse_others(context: typer.Context) -> None:
    """With --resume or --recipe everything stands in the recipe; an option beside is an error."""
    for name in context.params.keys() - _BESIDE_A_RECIPE:
        if _is_given(context, name):
            raise typer.BadParameter(
                f"{as_option(name)} has no use here: the recipe says everything"
            )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _require_vacant(folder: Path) -> None:
    from attunement.runs import Run

    Run.require_vacant(folder)


def _recipe(context: typer.Context, **asked: object) -> TuneRecipe:
    """What was asked: every option that was given has the name of its setting."""
    from attunement.recipes import TuneRecipe
    from attunement.tuning import TuningSettings

    given = {name: value for name, value in context.params.items() if value is not None}
    settings = {name: given[name] for name in TuningSettings.model_fields if name in given}
    sizes = {name: given[name] for name in ("measure_size", "fit_size") if name in given}
    return TuneRecipe.model_validate(
        {
            **asked,
            **sizes,
            "settings": TuningSettings.model_validate(settings),
            "command": shlex.join(["attune", *sys.argv[1:]]),
        }
    )


def _adapter(context: typer.Context) -> AdapterSettings | None:
    """The adapter that was asked for, or None."""
    from attunement.distributions.adapters import AdapterSettings

    given = [name for name in AdapterSettings.model_fields if _is_given(context, name)]
    if given and "lora_rank" not in given:
        raise typer.BadParameter(f"{as_option(given[0])} has no use without --lora-rank")
    asked = {name: context.params[name] for name in given}
    return AdapterSettings.model_validate(asked) if given else None


def _read_again(path: Path, output_dir: Path) -> tuple[TuneRecipe, tuple[Context, ...] | None]:
    """The recipe of an earlier run, and its contexts."""
    from attunement.recipes import TuneRecipe
    from attunement.runs import read_contexts, read_json

    recipe = TuneRecipe.parse(read_json(path), path)
    command = shlex.join(["attune", "tune", "--recipe", str(path), "--output-dir", str(output_dir)])
    contexts = None if recipe.prompts is None else read_contexts(path.parent / recipe.prompts)
    return recipe.model_copy(update={"command": command}), contexts


def _scorer_of(asked: TuneRecipe, recipe: Path | None) -> Callable[[str], Scorer]:
    """From SPEC to scorer; a run's recipe has the files of its scorers beside it."""
    from attunement.scorers import parse_scorer, scorers_of

    return parse_scorer if recipe is None else scorers_of(recipe.parent, asked.scorer_files)


def _start(
    asked: TuneRecipe,
    folder: Path,
    contexts: tuple[Context, ...] | None,
    scorer_of: Callable[[str], Scorer],
) -> Run:
    from attunement import jobs
    from attunement.console import show_progress

    with show_progress(asked.settings.max_steps) as callbacks:
        return jobs.tune(asked, folder, contexts, callbacks, scorer_of)


def _resume(folder: Path) -> Run:
    from attunement import jobs
    from attunement.console import show_progress
    from attunement.runs import Run

    with usage():
        asked = jobs.read_recipe(Run.open(folder))
    with show_progress(asked.settings.max_steps) as callbacks:
        return jobs.resume(folder, callbacks)


def _conclude(run: Run, as_json: bool) -> None:
    """Write the page and print what was measured, on the main process."""
    from attunement import jobs, processes
    from attunement.console import print_measurement
    from attunement.report import write_report
    from attunement.runs import MEASUREMENT, REPORT, read_json

    if not processes.is_main():
        return
    report = run.folder / REPORT
    write_report([run], report)
    if as_json:
        print_json(read_json(run.folder / MEASUREMENT) | {"report": str(report.resolve())})
    else:
        before, after = (jobs.read_measurement(run, half) for half in ("before", "after"))
        print_measurement(after, before)
        typer.echo(f"report: {report.resolve()}")
