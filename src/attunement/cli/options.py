"""Options that several commands share, in groups, and what is made of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from attunement.cli.grouping import Options

if TYPE_CHECKING:
    from attunement.core import Context
    from attunement.recipes import ModelSettings, TargetSettings

Threads = Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="torch's choice")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

PROMPTS = "FILE|NAME[[:CONFIG]:SPLIT]"
"""How the source of prompts is written."""


@dataclass(frozen=True, kw_only=True)
class TargetOptions(Options):
    """The factors of a target."""

    panel: ClassVar[str] = "Target"

    constrain: Annotated[
        list[str] | None,
        typer.Option(
            help="A feature that must be 1: SPEC is name, name:argument or file.py:function."
        ),
    ] = None
    floor: Annotated[
        float | None,
        typer.Option(help="Factor of what violates a constraint.", show_default="none: it's hard"),
    ] = None
    match: Annotated[
        list[str] | None, typer.Option(help="SPEC=NUMBER: the mean that a feature shall have.")
    ] = None
    match_each: Annotated[
        list[str] | None,
        typer.Option(help="SPEC=NUMBER: the mean that a feature shall have in every context."),
    ] = None
    tilt: Annotated[
        list[str] | None, typer.Option(help="SPEC=WEIGHT: a reward; negative for a cost.")
    ] = None
    beta: Annotated[float | None, typer.Option(help="The reward's temperature; with --tilt.")] = (
        None
    )

    def settings(self) -> TargetSettings:
        """The factors, as a recipe has them.

        Raises:
            BadParameter: An entry isn't SPEC=NUMBER, or one SPEC is named twice.
        """
        from attunement.recipes import TargetSettings

        return TargetSettings(
            constrain=tuple(self.constrain or ()),
            floor=self.floor,
            match=_numbers("--match", self.match),
            match_each=_numbers("--match-each", self.match_each),
            tilt=_numbers("--tilt", self.tilt),
            beta=self.beta,
        )


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(Options):
    """What ends a completion."""

    panel: ClassVar[str] = "Model"

    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Where completions are cut.", show_default="of tiny-python 64"),
    ] = None
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends a completion.")] = None
    stop_preset: Annotated[str | None, typer.Option(help="A named stop: python-function.")] = None


@dataclass(frozen=True, kw_only=True)
class ContextOptions(Options):
    """The contexts."""

    panel: ClassVar[str] = "Contexts"

    prompt: Annotated[list[str] | None, typer.Option(help="A context; may be repeated.")] = None
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar=PROMPTS,
            help="Contexts: JSONL, text, CSV, Parquet, a folder, a data set, "
            "tiny-python-signatures.",
        ),
    ] = None
    prompt_column: Annotated[
        str | None, typer.Option(help="The prompts' column.", show_default="prompt")
    ] = None
    max_prompts: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts, chosen by the seed.")
    ] = None

    def read(self, seed: int) -> tuple[Context, ...] | None:
        """The contexts, from the options or from where they are; None where there are none.

        Args:
            seed: Of the choice among them.

        Raises:
            BadParameter: An option lacks or has no use for another.
        """
        from attunement.core import as_contexts

        if self.prompt and self.prompts is not None:
            raise typer.BadParameter("give --prompt or --prompts, not both")
        if self.prompts is None:
            if self.prompt_column is not None or self.max_prompts is not None:
                raise typer.BadParameter("--prompt-column and --max-prompts need --prompts")
            return as_contexts(self.prompt) if self.prompt else None
        return read_source(self.prompts, self.prompt_column, self.max_prompts, seed)


@dataclass(frozen=True, kw_only=True)
class MachineOptions(Options):
    """What computes."""

    panel: ClassVar[str] = "Machine"

    threads: Threads = None
    device: Annotated[
        str | None,
        typer.Option(help="Where to compute.", show_default="a GPU if there is one"),
    ] = None
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32"


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
    base: str, completion: CompletionOptions, machine: MachineOptions
) -> ModelSettings:
    """Which model, cut where, computed how."""
    from attunement.recipes import ModelSettings

    return ModelSettings.model_validate(
        {
            "base": base,
            "max_new_tokens": completion.max_new_tokens,
            "stop": tuple(map(_unescaped, completion.stop or ())),
            "stop_preset": completion.stop_preset,
            "dtype": machine.dtype,
            "device": machine.device,
        }
    )


def _unescaped(text: str) -> str:
    r"""A text in which an escape such as `\n` stands for its character; all others stay."""
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"--stop {text!r} has an escape that can't be read ({error.reason}): double a "
            "backslash that stands for itself"
        ) from error


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


def read_source(
    source: str, column: str | None, most: int | None, seed: int
) -> tuple[Context, ...]:
    """The contexts of a file or a data set; those that repeat others are counted aloud.

    Args:
        source: Its name.
        column: The column of the prompts; `prompt` where None.
        most: At most so many.
        seed: Of the choice among them.
    """
    from attunement import processes
    from attunement.contexts import duplicates, read_contexts

    contexts = read_contexts(source, column, most, seed)
    if (again := duplicates(contexts)) > 0 and processes.is_main():
        typer.echo(f"{again} of {len(contexts)} prompts of {source} repeat others", err=True)
    return contexts


def print_json(content: object) -> None:
    """Print strict JSON."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))
