"""A tuning run's files as typed values: what every other part of the report starts from.

    recipe.json        what was asked, with λ once fitted
    metrics.jsonl      lines of steps and lines of evaluations
    samples.jsonl      prompts and texts, before, during and after, and exact ones of the target
    measurement.json   base and policy against the target, at the end of the run

Nothing is corrected or filled in on the way. Whatever can't be read is an error that names the
file and, in a log, the line; only a last line that a killed run cut short is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from attunement.core import AttunementError, Estimate, Message
from attunement.measuring import MeasuredOn, Measurement
from attunement.report.contents import (
    Evaluation,
    Factor,
    Held,
    Kind,
    Outcome,
    Reading,
    Recipe,
    Row,
    Shown,
    Step,
)
from attunement.runs import MEASUREMENT, METRICS, RECIPE, SAMPLES, Run, read_json

Item = TypeVar("Item")


def read_runs(runs: Sequence[Run]) -> tuple[Reading, ...]:
    """Read tuning runs and name them.

    Raises:
        AttunementError: There is none, one is given twice, or one can't be read.
    """
    if not runs:
        raise AttunementError("there is no run to report on: give at least one run folder")
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        twice = next(
            run.folder for run, path in zip(runs, folders, strict=True) if folders.count(path) > 1
        )
        raise AttunementError(f"the run {twice} is given twice: name each run once")
    return tuple(
        replace(read_run(run), name=name)
        for run, name in zip(runs, _unique_names(folders), strict=True)
    )


def read_run(run: Run) -> Reading:
    """Read one tuning run.

    Raises:
        AttunementError: The folder holds no tuning run, its metrics are empty, or a file is
            corrupt; the message names file and line.
    """
    if not (run.folder / RECIPE).is_file():
        raise AttunementError(f"{run.folder} holds no run: there is no {RECIPE} in it")
    recipe_path = run.folder / RECIPE
    content = read_json(recipe_path)
    if content.get("kind") != "tune":
        raise AttunementError(
            f"{recipe_path} is of kind {content.get('kind')!r}: a report is made of runs of "
            "`attune tune`"
        )
    recipe = _checked(lambda: _recipe(content), str(recipe_path))
    steps, evaluations = _read_metrics(run.folder / METRICS)
    measurement_path = run.folder / MEASUREMENT
    outcome = None
    if measurement_path.exists():
        measured = read_json(measurement_path)
        outcome = _checked(lambda: _outcome(measured), str(measurement_path))
    return Reading(
        name=run.folder.resolve().name,
        recipe=recipe,
        steps=steps,
        evaluations=evaluations,
        samples=tuple(_parsed_lines(run.folder / SAMPLES, _shown)),
        outcome=outcome,
    )


def _read_metrics(path: Path) -> tuple[tuple[Step, ...], tuple[Evaluation, ...]]:
    def parse(row: Row) -> Step | Evaluation:
        return _evaluation(row) if "estimates" in row else _step(row)

    lines = list(_parsed_lines(path, parse))
    if not lines:
        raise AttunementError(
            f"{path} is empty or missing, so there is nothing to report yet: wait for the run's "
            "first evaluation, or go on with it by --resume"
        )
    steps = tuple(line for line in lines if isinstance(line, Step))
    return steps, tuple(line for line in lines if isinstance(line, Evaluation))


def _parsed_lines(path: Path, parse: Callable[[Row], Item]) -> Iterator[Item]:
    """The lines of a log, each parsed; none where there is no such file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            where = f"{path}, line {number},"
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise AttunementError(
                    f"{where} isn't JSON ({error}): restore the file, or cut it before that line"
                ) from error
            if not isinstance(row, dict):
                raise AttunementError(f"{where} isn't a JSON object")
            yield _checked(lambda row=row: parse(row), where)


def _checked(parse: Callable[[], Item], where: str) -> Item:
    """The parsed value, or one error that says where and which entry is missing or wrong."""
    try:
        return parse()
    except KeyError as error:
        raise AttunementError(f"{where} has no entry {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise AttunementError(f"{where} can't be understood: {error}") from error


def _recipe(content: Row) -> Recipe:
    model, target = _mapping(content["model"]), _mapping(content["target"])
    tokens, preset = model["max_new_tokens"], model["stop_preset"]
    start, ess, khat = (content.get(key) for key in ("policy", "fit_ess", "fit_khat"))
    return Recipe(
        base=str(model["base"]),
        start=None if start is None else str(start),
        max_new_tokens=None if tokens is None else int(_number(tokens)),
        stop=tuple(str(text) for text in _list(model["stop"])),
        stop_preset=None if preset is None else str(preset),
        conditional=content["prompts"] is not None,
        factors=tuple(_factors(content, target)),
        settings=_mapping(content["settings"]),
        versions=_mapping(content["versions"]),
        command=str(content["command"]),
        fit_ess=None if ess is None else _number(ess),
        fit_khat=None if khat is None else _number(khat),
    )


def _factors(content: Row, target: Row) -> Iterator[Factor]:
    lambdas, moments = _mapping(content["lambdas"]), _mapping(content["moments"])
    floor = None if target["floor"] is None else _number(target["floor"])
    for spec in _list(target["constrain"]):
        yield Factor(Kind.CONSTRAIN, str(spec), floor=floor)
    for spec, mean in _mapping(target["match"]).items():
        yield Factor(
            Kind.MATCH,
            spec,
            mean=_number(mean),
            lambda_=_number(lambdas[spec]) if spec in lambdas else None,
            reached=_estimate(moments[spec]) if spec in moments else None,
        )
    fits = [_mapping(row) for row in _list(content.get("context_fits", []))]
    for spec, mean in _mapping(target.get("match_each", {})).items():
        yield Factor(
            Kind.MATCH_EACH,
            spec,
            mean=_number(mean),
            reached=_estimate(moments[spec]) if spec in moments else None,
            held=tuple(_held(row, spec) for row in fits),
        )
    for spec, weight in _mapping(target["tilt"]).items():
        yield Factor(Kind.TILT, spec, weight=_number(weight), beta=_number(target["beta"]))


def _held(row: Row, spec: str) -> Held:
    lambdas, moments = _mapping(row["lambdas"]), _mapping(row["moments"])
    return Held(_number(lambdas[spec]), _estimate(moments[spec]))


def _step(row: Row) -> Step:
    return Step(
        step=int(_number(row["step"])),
        gradient_norm=_number(row["gradient_norm"]),
        learning_rate=_number(row["learning_rate"]),
        satisfied=_number(row["satisfied"]),
        signal_variance=_number_or_nan(row["signal_variance"]),
        clipped=bool(row["clipped"]),
        in_batch_partition=int(_number(row["in_batch_partition"])),
        empty_contexts=int(_number(row["empty_contexts"])),
    )


def _evaluation(row: Row) -> Evaluation:
    return Evaluation(int(_number(row["step"])), _estimates(row["estimates"]))


def _shown(row: Row) -> Shown:
    features = _mapping(row["features"])
    return Shown(
        when=str(row["when"]),
        step=int(_number(row["step"])),
        context=int(_number(row.get("context", 0))),
        prompt=_prompt(row.get("prompt")),
        text=str(row["text"]),
        finished=bool(row["finished"]),
        allowed=bool(row["allowed"]),
        log_base=_number(row["log_base"]),
        log_policy=_number(row["log_policy"]),
        features={k: None if v is None else _number(v) for k, v in features.items()},
    )


def _prompt(content: object) -> str | tuple[Message, ...] | None:
    if content is None or isinstance(content, str):
        return content
    messages = [_mapping(message) for message in _list(content)]
    return tuple({key: str(message[key]) for key in ("role", "content")} for message in messages)


def _outcome(content: Row) -> Outcome:
    weights = _mapping(content["log_weights"])
    khat, on_tuning = weights["khat"], content["on_contexts_of_tuning"]
    return Outcome(
        before=Measurement.from_json(_mapping(content["before"])),
        after=Measurement.from_json(_mapping(content["after"])),
        log_weights=tuple(_number(value) for value in _list(weights["values"])),
        khat=None if khat is None else _number(khat),
        measured_on=MeasuredOn(str(content["measured_on"])),
        on_tuning=None if on_tuning is None else _both(_mapping(on_tuning)),
    )


def _both(content: Row) -> tuple[Measurement, Measurement]:
    before, after = (Measurement.from_json(_mapping(content[half])) for half in ("before", "after"))
    return before, after


def _estimates(content: object) -> dict[str, Estimate]:
    return {name: _estimate(row) for name, row in _mapping(content).items()}


def _estimate(content: object) -> Estimate:
    row = _mapping(content)
    numbers = {key: None if row[key] is None else _number(row[key]) for key in row}
    return Estimate.from_json(numbers)


def _mapping(content: object) -> dict[str, object]:
    if not isinstance(content, dict):
        raise TypeError(f"an object is expected where {content!r:.60} stands")
    return content


def _list(content: object) -> list[object]:
    if not isinstance(content, list):
        raise TypeError(f"a list is expected where {content!r:.60} stands")
    return content


def _number_or_nan(content: object) -> float:
    return math.nan if content is None else _number(content)


def _number(content: object) -> float:
    """A JSON number, or the strings "inf" and "-inf"."""
    if isinstance(content, bool) or not isinstance(content, int | float | str):
        raise TypeError(f"a number is expected where {content!r:.60} stands")
    return float(content)


def _unique_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
