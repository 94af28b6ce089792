"""The command `attune`: thin, and quick to start, for heavy imports stand inside the commands.

What can be known to be wrong from the options alone ends with exit status 2; what fails at work
ends with 1; both print one sentence. `--json` prints what a program reads, on standard output;
progress goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from attunement.core import Context
    from attunement.recipes import ModelSettings, TargetSettings, TuneRecipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Say what you want from a language as a target distribution, move it there, and know "
    "how far away it still is.",
)

Constrain = Annotated[
    list[str] | None,
    typer.Option(help="A feature that must be 1: SPEC is name, name:argument or file.py:function."),
]
Floor = Annotated[
    float | None, typer.Option(help="Factor of what violates a constraint; hard without it.")
]
Match = Annotated[
    list[str] | None, typer.Option(help="SPEC=NUMBER: the mean that a feature shall have.")
]
Tilt = Annotated[list[str] | None, typer.Option(help="SPEC=WEIGHT: a reward; negative for a cost.")]
Beta = Annotated[float | None, typer.Option(help="The reward's temperature; with --tilt.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(help="Where completions are cut [tiny-python: 64].")
]
Stop = Annotated[list[str] | None, typer.Option(help="A text that ends a completion.")]
StopPreset = Annotated[str | None, typer.Option(help="A named stop: python-function.")]
Prompt = Annotated[list[str] | None, typer.Option(help="A context; may be repeated.")]
Prompts = Annotated[
    Path | None, typer.Option(help="Contexts: JSONL with a column 'prompt', or one prompt a line.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads [the machine's cores].")]
Device = Annotated[str | None, typer.Option(help="Where to compute [a GPU if there is one].")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command()
def tune(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option(help="A new folder for the run.")],
    base: Annotated[str, typer.Option(help="A hub id, a folder, or tiny-python.")] = "tiny-python",
    constrain: Constrain = None,
    floor: Floor = None,
    match: Match = None,
    tilt: Tilt = None,
    beta: Beta = None,
    divergence: Annotated[
        str | None, typer.Option(help="forward_kl, reverse_kl, ..., alpha:0.5 [jensen_shannon].")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="none, analytic or leave_one_out [analytic].")
    ] = None,
    proposal: Annotated[
        str | None, typer.Option(help="policy, base, mixture or kl_adaptive [policy].")
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
    from attunement import jobs
    from attunement.console import print_measurement, show_progress
    from attunement.report import write_report
    from attunement.runs import MEASUREMENT, REPORT, Run, read_contexts, read_json

    _set_threads(threads)
    with _usage():
        if resume or recipe is not None:
            _refuse_others(context, {"output_dir", "resume", "recipe", "threads", "as_json"})
        if not resume:
            Run.require_vacant(output_dir)
    if resume:
        with _usage():
            asked = jobs.read_recipe(Run.open(output_dir))
        with show_progress(asked.settings.max_steps) as callbacks:
            run = jobs.resume(output_dir, callbacks)
    else:
        with _usage():
            if recipe is not None:
                asked = _recipe_again(recipe, output_dir)
                path = None if asked.prompts is None else recipe.parent / asked.prompts
                contexts = None if path is None else read_contexts(path)
            else:
                settings = {
                    "divergence": divergence,
                    "baseline": baseline,
                    "proposal": proposal,
                    "max_steps": max_steps,
                    "batch_size": batch_size,
                    "samples_per_context": samples_per_context,
                    "micro_batch_size": micro_batch_size,
                    "learning_rate": learning_rate,
                    "warmup_steps": warmup_steps,
                    "max_grad_norm": max_grad_norm,
                    "weight_decay": weight_decay,
                    "averaging": averaging,
                    "bank_size": bank_size,
                    "evaluation_size": evaluation_size,
                    "evaluate_every": evaluate_every,
                    "save_every": save_every,
                    "keep": keep,
                    "seed": seed,
                }
                asked = _recipe(
                    _model(base, max_new_tokens, stop, stop_preset, dtype, device),
                    _target(constrain, floor, match, tilt, beta),
                    {"measure_size": measure_size, "fit_size": fit_size},
                    settings,
                )
                contexts = _contexts(prompt, prompts)
            asked.check()
        with show_progress(asked.settings.max_steps) as callbacks:
            run = jobs.tune(asked, output_dir, contexts, callbacks)
    report = run.folder / REPORT
    write_report([run], report)
    measurement = read_json(run.folder / MEASUREMENT)
    if as_json:
        _print_json(measurement | {"report": str(report.resolve())})
    else:
        before, after = (jobs.read_measurement(run, half) for half in ("before", "after"))
        print_measurement(after, before)
        typer.echo(f"report: {report.resolve()}")


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub id.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Samples for each context.")] = 20,
    target: Annotated[
        bool, typer.Option("--target", help="Of a run: sample its target, not its policy.")
    ] = False,
    constrain: Constrain = None,
    floor: Floor = None,
    match: Match = None,
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

    _set_threads(threads)
    generator = generator_for(seed)
    with _usage():
        wanted = _target(constrain, floor, match, tilt, beta)
        contexts = _contexts(prompt, prompts)
        is_run = jobs.is_run(model)
        if is_run and wanted.has_factors:
            raise typer.BadParameter("a run has its own target: use --target, or name a model")
        if target and not is_run:
            raise typer.BadParameter(f"{model} is no run: give --constrain, --match or --tilt")
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
        base = _model(model, max_new_tokens, stop, stop_preset, dtype, device).load()
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


@app.command()
def measure(
    model: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub id.")],
    n: Annotated[int, typer.Option("-n", min=8, help="Samples, half of base and policy.")] = 4096,
    base: Annotated[str | None, typer.Option(help="The base; of a run, its own.")] = None,
    constrain: Constrain = None,
    floor: Floor = None,
    match: Match = None,
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
    from attunement.measuring import measure as measure_policy
    from attunement.runs import Run, generator_for

    _set_threads(threads)
    with _usage():
        wanted = _target(constrain, floor, match, tilt, beta)
        contexts = _contexts(prompt, prompts)
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
        settings = _model(base or model, max_new_tokens, stop, stop_preset, dtype, device)
        generator = generator_for(seed)
        loaded = settings.load()
        built = wanted.build(loaded).fit(contexts, generator=generator)
        policy = loaded if base is None else settings.resolved(loaded).load(model)
        measured = measure_policy(built, policy, contexts, n=n, generator=generator)
    if as_json:
        _print_json(measured.to_json(model))
    else:
        print_measurement(measured)


@app.command()
def report(
    run: Annotated[list[Path], typer.Argument(help="One run, or several to compare.")],
    output: Annotated[Path | None, typer.Option(help="The page [report.html in the run].")] = None,
) -> None:
    """Write one self-contained page about a run, or comparing several."""
    from attunement.report import write_report
    from attunement.runs import REPORT, Run

    with _usage():
        runs = [Run.open(folder) for folder in run]
        if output is None and len(runs) > 1:
            raise typer.BadParameter("several runs need --output, e.g. --output compare.html")
    path = runs[0].folder / REPORT if output is None else output
    write_report(runs, path)
    typer.echo(str(path.resolve()))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do: threads, device, sandbox, extras."""
    from attunement.doctor import examine

    rows = examine()
    if as_json:
        _print_json(rows)
    else:
        for name, entry in rows.items():
            typer.echo(f"{name:>24}  {entry}")


_INTERRUPTED = 130


def main() -> None:
    """The entry point: errors become one sentence and an exit status."""
    # Waiting threads that spin make a shared machine up to 25 times slower; set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Typer turns Ctrl-C into this status, and hands a command's own status back.
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(status)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; what was written is kept: go on with attune tune --resume", 1)
    except Exception as error:
        status, sentence = _explain(error)
        if sentence is None:
            raise
        _fail(sentence, status)


def _explain(error: Exception) -> tuple[int, str | None]:
    """The exit status and sentence of an error that a user can mend; None for a defect of ours."""
    from attunement.core import AttunementError

    if isinstance(error, typer.TyperException):
        return 2, str(error)
    if isinstance(error, AttunementError):
        return 1, str(error)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return 1, f"{error.strerror or error}{where}; what was written before is kept"
    return 1, None


@contextmanager
def _usage() -> Iterator[None]:
    """What is wrong in here was known from the options alone: exit status 2."""
    from pydantic import ValidationError

    from attunement.core import AttunementError

    try:
        yield
    except AttunementError as error:
        raise typer.BadParameter(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][-1] if first["loc"] else "").replace("_", "-")
        message = str(first["msg"]).removeprefix("Value error, ")
        raise typer.BadParameter(f"{option}: {message}") from error


def _fail(sentence: str, status: int) -> None:
    typer.echo(f"attune: {sentence}", err=True)
    sys.exit(status)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _refuse_others(context: typer.Context, allowed: set[str]) -> None:
    """With --resume or --recipe everything stands in the recipe; an option beside is an error."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in allowed:
            option = "--" + name.replace("_", "-")
            raise typer.BadParameter(f"{option} has no use here: the recipe says everything")


def _model(
    base: str,
    max_new_tokens: int | None,
    stop: list[str] | None,
    stop_preset: str | None,
    dtype: str,
    device: str | None,
) -> ModelSettings:
    from attunement.recipes import ModelSettings

    return ModelSettings.model_validate(
        {
            "base": base,
            "max_new_tokens": max_new_tokens,
            "stop": tuple(text.encode().decode("unicode_escape") for text in stop or ()),
            "stop_preset": stop_preset,
            "dtype": dtype,
            "device": device,
        }
    )


def _target(
    constrain: list[str] | None,
    floor: float | None,
    match: list[str] | None,
    tilt: list[str] | None,
    beta: float | None,
) -> TargetSettings:
    from attunement.recipes import TargetSettings

    return TargetSettings(
        constrain=tuple(constrain or ()),
        floor=floor,
        match=_numbers("--match", match),
        tilt=_numbers("--tilt", tilt),
        beta=beta,
    )


def _numbers(option: str, entries: list[str] | None) -> dict[str, float]:
    """SPEC=NUMBER, split at the last equals sign."""
    found = {}
    for entry in entries or ():
        spec, separator, number = entry.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            separator = ""
            value = 0.0
        if not separator or not spec:
            raise typer.BadParameter(f"{option} {entry!r} must be SPEC=NUMBER, e.g. length=20")
        if spec in found:
            raise typer.BadParameter(f"{option} names {spec} twice")
        found[spec] = value
    return found


def _recipe(
    model: ModelSettings,
    target: TargetSettings,
    sizes: Mapping[str, int | None],
    settings: Mapping[str, object],
) -> TuneRecipe:
    from attunement.recipes import TuneRecipe
    from attunement.tuning import TuningSettings

    given = {name: value for name, value in settings.items() if value is not None}
    return TuneRecipe.model_validate(
        {
            "model": model,
            "target": target,
            "settings": TuningSettings.model_validate(given),
            "command": _command(),
            **{name: value for name, value in sizes.items() if value is not None},
        }
    )


def _recipe_again(path: Path, output_dir: Path) -> TuneRecipe:
    from attunement.recipes import TuneRecipe
    from attunement.runs import read_json

    recipe = TuneRecipe.parse(read_json(path), path)
    command = f"attune tune --recipe {path} --output-dir {output_dir}"
    return recipe.model_copy(update={"command": command})


def _command() -> str:
    import shlex

    return shlex.join(["attune", *sys.argv[1:]])


def _contexts(prompt: list[str] | None, prompts: Path | None) -> tuple[Context, ...] | None:
    from attunement.core import as_contexts
    from attunement.runs import read_contexts

    if prompt and prompts is not None:
        raise typer.BadParameter("give --prompt or --prompts, not both")
    if prompts is not None:
        return read_contexts(prompts)
    return as_contexts(prompt) if prompt else None


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
