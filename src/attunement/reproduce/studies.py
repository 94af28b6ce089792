"""What is run for a paper at one scale, and how: conditions × seeds, one cell after the other.

A *cell* is one run of one condition with one seed. Its figures are written as JSON once it is
finished, at once, and a finished cell is never run again: a reproduction that was killed goes on
where it was. The folder holds what was asked (`recipe.json`); another question is refused there.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

from attunement import runs
from attunement.core import AttunementError
from attunement.reproduce.claims import Claim, ExactClaim, Figures, Replication, Row
from attunement.runs import Run

SEEDS_APART = 1000
"""Seeds of one reproduction follow each other; those of the next begin so much later."""


class Scale(StrEnum):
    """How much is run."""

    QUICK = "quick"
    EMBEDDED = "embedded"
    PAPER = "paper"


@dataclass(frozen=True)
class Study:
    """What is run for a paper at one scale.

    Attributes:
        summary: What is run, in a sentence or two.
        seeds: Units of replication.
        conditions: What is compared; each is run with every seed.
        run: From condition and seed to its figures.
        claims: What is claimed of the figures.
        columns: The figures that a table of all conditions shows.
        sizes: Everything that was chosen, for the recipe; a change of it is another study.
        needs_gpu: Whether it is hopeless without one.
        prepare: Loads what its cells need, so that what isn't there is missed before the first.
    """

    summary: str
    seeds: int
    conditions: tuple[str, ...]
    run: Callable[[str, int], Figures]
    claims: tuple[Claim | ExactClaim, ...]
    columns: tuple[str, ...]
    sizes: Mapping[str, object]
    needs_gpu: bool = False
    prepare: Callable[[], None] = lambda: None


class Cell(NamedTuple):
    """A finished cell: what came out, and how long it took."""

    figures: Figures
    seconds: float


def carry_out(
    study: Study, seed: int, folder: Path, on_cell: Callable[[str], None]
) -> tuple[list[Replication], float]:
    """Run every cell that isn't in the folder yet.

    Args:
        study: What to run.
        seed: Which seeds: `study.seeds` of them, from `SEEDS_APART` times this one on.
        folder: Where finished cells lie.
        on_cell: Told of every cell as it begins.

    Returns:
        The figures of every seed, and the seconds that all cells took.

    Raises:
        AttunementError: A model or a context that the cells need isn't there.
    """
    first = seed * SEEDS_APART
    cells = product(study.conditions, range(first, first + study.seeds))
    if not all(cell_path(folder, condition, number).exists() for condition, number in cells):
        study.prepare()
    seeds, seconds = [], 0.0
    for number in range(study.seeds):
        replication = {}
        for condition in study.conditions:
            path = cell_path(folder, condition, first + number)
            if not path.exists():
                on_cell(f"{condition}, seed {number + 1} of {study.seeds}")
                started = time.perf_counter()
                figures = study.run(condition, first + number)
                _write(path, Cell(figures, time.perf_counter() - started))
            cell = _read(path)
            replication[condition] = cell.figures
            seconds += cell.seconds
        seeds.append(replication)
    return seeds, seconds


def open_folder(folder: Path, recipe: Mapping[str, object]) -> None:
    """Begin in a vacant folder, or go on in one with the same recipe.

    Raises:
        AttunementError: It holds something else.
    """
    if (folder / runs.RECIPE).is_file():
        if Run.open(folder).recipe != recipe:
            raise AttunementError(
                f"{folder} holds another reproduction, or one with other settings: choose another "
                "--output-dir"
            )
        return
    Run.create(folder, recipe)


def cell_path(folder: Path, condition: str, seed: int) -> Path:
    """Where a cell's figures lie."""
    return folder / "cells" / f"{re.sub(r'[^a-z0-9_.]+', '-', condition.lower())}-{seed}.json"


def _write(path: Path, cell: Cell) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = cell.figures
    content = {
        "figures": _strict(figures.last),
        "path": [_strict(row) for row in figures.path],
        "seconds": cell.seconds,
    }
    runs.write_json(path, content)


def _read(path: Path) -> Cell:
    content = cast(dict[str, Any], runs.read_json(path))
    figures = Figures(_row(content["figures"]), [_row(row) for row in content["path"]])
    return Cell(figures, content["seconds"])


def _strict(row: Row) -> dict[str, float | str]:
    """JSON has no infinity; the strings are what `float` reads."""
    return {name: x if math.isfinite(x) else str(x) for name, x in row.items()}


def _row(entries: Mapping[str, float | str]) -> Row:
    return {name: float(entry) for name, entry in entries.items()}
