"""What several commands share: their options, and what is made of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from attunement.core import Context
    from attunement.recipes import ModelSettings, TargetSettings

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
MatchEach = Annotated[
    list[str] | None,
    typer.Option(help="SPEC=NUMBER: the mean that a feature shall have in every context."),
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


@contextmanager
def usage() -> Iterator[None]:
    """What is wrong in here was known from the options alone: exit status 2."""
    from pydantic import ValidationError

    from attunement.core import AttunementError

    try:
        yield
    except AttunementError as error:
        raise typer.BadParameter(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        option = as_option(str(first["loc"][-1] if first["loc"] else ""))
        message = str(first["msg"]).removeprefix("Value error, ")
        raise typer.BadParameter(f"{option}: {message}") from error


def as_option(parameter: str) -> str:
    """How a parameter is written on the command line."""
    return "--" + parameter.replace("_", "-")


def begin(threads: int | None) -> None:
    """Join the processes of a launcher, of which the main one speaks, and set the threads.

    Args:
        threads: So many; None leaves torch its own choice.
    """
    import torch

    from attunement import processes

    processes.join()
    if threads is not None:
        torch.set_num_threads(threads)
    if not processes.is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - till the very end


def model_settings(
    base: str,
    max_new_tokens: int | None,
    stop: list[str] | None,
    stop_preset: str | None,
    dtype: str,
    device: str | None,
) -> ModelSettings:
    """Which model, cut where, computed how."""
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


def target_settings(
    constrain: list[str] | None,
    floor: float | None,
    match: list[str] | None,
    match_each: list[str] | None,
    tilt: list[str] | None,
    beta: float | None,
) -> TargetSettings:
    """The factors of a target."""
    from attunement.recipes import TargetSettings

    return TargetSettings(
        constrain=tuple(constrain or ()),
        floor=floor,
        match=_numbers("--match", match),
        match_each=_numbers("--match-each", match_each),
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


def read_prompts(prompt: list[str] | None, prompts: Path | None) -> tuple[Context, ...] | None:
    """The contexts, from the options or from a file; None where there are none."""
    from attunement.core import as_contexts
    from attunement.runs import read_contexts

    if prompt and prompts is not None:
        raise typer.BadParameter("give --prompt or --prompts, not both")
    if prompts is not None:
        return read_contexts(prompts)
    return as_contexts(prompt) if prompt else None


def print_json(content: object) -> None:
    """Print strict JSON."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))
