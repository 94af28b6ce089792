"""The table of a conditional run context by context: Z_c and the features, hardest first.

The prompts are untrusted text, like samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attunement.conditional import ContextRow
from attunement.report.contents import Reading
from attunement.report.tables import Cell, Group, Line, cell
from attunement.report.words import number, visible

MOST_CONTEXTS = 200
"""Contexts that the page shows; the rest stays in `measurement.json`."""


@dataclass(frozen=True)
class ContextTable:
    """What the page says of each context.

    Attributes:
        columns: Their headings.
        groups: One group, a line for each context.
        left_out: Contexts that aren't shown.
    """

    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    left_out: int


def context_table(reading: Reading) -> ContextTable | None:
    """The contexts that a finished run was measured on; None where there is only one.

    Those in which the constraint is met most seldom come first: they are what a policy can least
    be judged in.
    """
    if reading.outcome is None or not reading.outcome.after.contexts:
        return None
    rows = sorted(reading.outcome.after.contexts, key=_hardness)
    features = tuple(dict.fromkeys(name for row in rows for name in (*row.base, *row.policy)))
    columns = ("Z_c", *(f"{name}, {who}" for name in features for who in ("base", "policy")))
    lines = tuple(_line(row, features) for row in rows[:MOST_CONTEXTS])
    heading = f"{reading.outcome.measured_on}, the hardest first".capitalize()
    return ContextTable(columns, (Group(heading, lines),), len(rows) - len(lines))


def _hardness(row: ContextRow) -> float:
    return -math.inf if math.isnan(row.log_z.value) else row.log_z.value


def _line(row: ContextRow, features: tuple[str, ...]) -> Line:
    prompt = visible(row.prompt) or "(empty)"
    of = f"{row.draws} samples" if row.accepted is None else f"{row.accepted} of {row.draws} draws"
    sides = (row.base, row.policy)
    means = (cell(side.get(name)) for name in features for side in sides)
    return Line(prompt, prompt, of, (_partition(row), *(_bare(mean) for mean in means)))


def _partition(row: ContextRow) -> Cell:
    """Z_c with its interval; an upper bound where too few draws were accepted."""
    found = row.log_z
    if math.isnan(found.value):
        return Cell("n/a", note="no sample is allowed")
    value, low, high = (math.exp(end) for end in (found.value, found.low, found.high))
    ends = f"[{number(low, value)}, {number(high, value)}]"
    note = "at most: too few draws were accepted" if found.stderr is None else ""
    return Cell(number(value), ends, note=note)


def _bare(entry: Cell) -> Cell:
    """Without doubt: a row rests on few samples, and its interval says so."""
    return Cell(entry.value, entry.interval)
