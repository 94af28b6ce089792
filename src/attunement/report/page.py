"""From runs to a page: everything is chosen and worded here and laid out in the template.

Samples and prompts are untrusted text. The template escapes everything but the figures, the page
forbids itself any script or fetch by a content security policy, and control characters are shown as
pictures of themselves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from attunement.core import AttunementError
from attunement.report.by_context import ContextTable, context_table
from attunement.report.contents import Reading
from attunement.report.plots import (
    Plot,
    Swatch,
    estimate_plots,
    partitions,
    plane,
    swatches,
    training_plots,
    weights,
)
from attunement.report.reading import read_runs
from attunement.report.specimens import Column, columns, during
from attunement.report.tables import (
    FACTOR_COLUMNS,
    Cell,
    Group,
    cell,
    comparison_table,
    factor_table,
    run_table,
    tuning_table,
)
from attunement.report.words import (
    Term,
    comparison_warnings,
    how_moved,
    terms,
    verdict,
    warnings,
)
from attunement.runs import Run


@dataclass(frozen=True)
class Tile:
    """A figure that is to be seen first."""

    label: str
    cell: Cell
    beside: str


@dataclass(frozen=True)
class Chapter:
    """What the page says of one run alone."""

    swatch: Swatch
    reading: Reading
    terms: tuple[Term, ...]
    moved: str
    verdict: str
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...]
    factors: tuple[Group, ...]
    groups: tuple[Group, ...]
    on_tuning: tuple[Group, ...]
    contexts: ContextTable | None
    columns: tuple[Column, ...]
    during: tuple[Column, ...]
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """What the template is given."""

    title: str
    chapters: tuple[Chapter, ...]
    comparison: tuple[Group, ...]
    warnings: tuple[str, ...]
    plane: Plot | None
    weights: Plot | None
    partitions: Plot | None
    estimates: tuple[Plot, ...]
    training: tuple[Plot, ...]


def write_report(runs: Sequence[Run], output: Path) -> None:
    """Write one self-contained HTML page for one tuning run, or for several compared.

    Args:
        runs: The runs, in the order of the page; an unfinished one is shown as far as it is.
        output: The file to write; it is replaced at once, when the page is complete.

    Raises:
        AttunementError: A run can't be read, or the page can't be written there.
    """
    write_page(render(read_runs(runs)), output)


def write_page(text: str, output: Path) -> None:
    """Write a page under a temporary name, then put it in place.

    Raises:
        AttunementError: It can't be written there.
    """
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode("utf-8", errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, output)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise AttunementError(f"the report {output} can't be written: {error}") from error


def render(readings: Sequence[Reading]) -> str:
    """The page as text.

    Args:
        readings: At least one run.
    """
    environment = Environment(
        loader=PackageLoader("attunement", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "page.css")[0] if environment.loader else ""
    return environment.get_template("page.html.jinja").render(
        page=_page(readings), factor_columns=FACTOR_COLUMNS, style=Markup(style)
    )


def _page(readings: Sequence[Reading]) -> Page:
    several = len(readings) > 1
    names = ", ".join(reading.name for reading in readings)
    return Page(
        title=f"Runs compared: {names}" if several else names,
        chapters=tuple(
            _chapter(reading, swatch)
            for reading, swatch in zip(readings, swatches(readings), strict=True)
        ),
        comparison=comparison_table(readings) if several else (),
        warnings=comparison_warnings(readings),
        plane=plane(readings),
        weights=weights(readings),
        partitions=partitions(readings),
        estimates=estimate_plots(readings),
        training=training_plots(readings),
    )


def _chapter(reading: Reading, swatch: Swatch) -> Chapter:
    rows = {
        "base": reading.recipe.base,
        "start of the policy": reading.recipe.start or "the base",
        "max_new_tokens": reading.recipe.max_new_tokens,
        "stop": " ".join(map(repr, reading.recipe.stop)) or "the end token",
        "stop_preset": reading.recipe.stop_preset or "none",
        **reading.recipe.settings,
        **{f"version of {name}": value for name, value in reading.recipe.versions.items()},
    }
    return Chapter(
        swatch=swatch,
        reading=reading,
        terms=terms(reading),
        moved=how_moved(reading.recipe.settings),
        verdict=verdict(reading),
        warnings=warnings(reading),
        tiles=_tiles(reading),
        factors=factor_table(reading),
        groups=run_table(reading),
        on_tuning=tuning_table(reading),
        contexts=context_table(reading),
        columns=columns(reading),
        during=during(reading),
        settings=tuple(
            (name, "the model's own" if value is None else str(value))
            for name, value in rows.items()
        ),
    )


def _tiles(reading: Reading) -> tuple[Tile, ...]:
    if reading.outcome is None:
        return ()
    before, after = reading.outcome.before, reading.outcome.after
    found = []
    for name in reading.features[:1]:
        if name in after.policy:
            base, target = cell(after.base.get(name)), cell(after.target.get(name))
            beside = f"base {base.value} · target {target.value} · {reading.limit}"
            found.append(Tile(f"{name}, policy", cell(after.policy[name]), beside))
    first = cell(before.divergences.get("forward_kl")).value
    tail = f"nats · {first} for the base"
    found.append(Tile("KL(p‖π), distance left", cell(after.divergences.get("forward_kl")), tail))
    free = cell(after.log_z)
    minus = "hard constraints: −log Z" if reading.hard_only else "log Z"
    value = free.value.removeprefix("−") if reading.hard_only else free.value
    moved = cell(after.divergences.get("kl_policy_base"))
    found.append(Tile("KL(π‖a), moved from the base", moved, f"nats · {minus} = {value}"))
    rest = f"of completions · {cell(before.forbidden).value} for the base · {reading.limit}"
    found.append(Tile("forbidden by the target", cell(after.forbidden), rest))
    return tuple(found)
