"""The tables of a report: before and after for one run, and runs side by side.

A cell is an estimate with its 95 % interval; one that isn't to be trusted carries the reason. An
estimate that there isn't is an empty cell, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from attunement.core import Estimate
from attunement.report.contents import Outcome, Reading, target_kl_base
from attunement.report.words import MEANINGS, doubt, interval, number, parameters

_DISTANCES = (
    "forward_kl",
    "reverse_kl",
    "reverse_kl_allowed",
    "jensen_shannon",
    "total_variation",
)
_DIVERSITY = ("distinct_1", "distinct_2", "self_bleu", "length")


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        value: The value, or a dash.
        interval: Its 95 % interval, or nothing.
        doubt: Why it isn't to be trusted, or None.
        note: What else there is to say of it.
    """

    value: str
    interval: str = ""
    doubt: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table: a name, what it means, and a cell in each column."""

    name: str
    formula: str
    meaning: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a heading."""

    heading: str
    lines: tuple[Line, ...]


NOTHING = Cell("–")
ZERO = Cell("0", note="by definition")


def cell(estimate: Estimate | None, note: str = "") -> Cell:
    """An estimate as a cell."""
    if estimate is None:
        return NOTHING
    return Cell(number(estimate.value), interval(estimate), doubt(estimate), note)


def _log_factor(estimate: Estimate, hard: bool) -> Cell:
    """A mean of nats; that a hard constraint's is infinite is no reason for doubt."""
    return Cell(number(estimate.value)) if hard else cell(estimate)


FACTOR_COLUMNS = (
    "E[log factor], base",
    "policy",
    "target",
    "forbids by itself, of the base",
    "of the policy",
)
"""The columns of `factor_table`."""


def factor_table(reading: Reading) -> tuple[Group, ...]:
    """What each factor of the target does by itself; nothing for an unfinished run.

    A hard constraint's log factor is minus infinity wherever it is violated, so its share counts.
    """
    if reading.outcome is None or not reading.outcome.after.factors:
        return ()
    lines = []
    for factor, does in zip(reading.recipe.factors, reading.outcome.after.factors, strict=True):
        hard = does.forbids_base is not None
        cells = (
            _log_factor(does.base, hard),
            _log_factor(does.policy, hard),
            ZERO if hard else cell(does.target),
            cell(does.forbids_base),
            cell(does.forbids_policy),
        )
        lines.append(Line(factor.spec, factor.spec, parameters(factor), cells))
    return (Group("Factors of the target, in nats per completion", tuple(lines)),)


def run_table(reading: Reading) -> tuple[Group, ...]:
    """Base, policy and target of a finished run; nothing for an unfinished one."""
    if reading.outcome is None:
        return ()
    outcome, after = reading.outcome, reading.outcome.after
    features = tuple(
        Line(
            name,
            name,
            reading.limit,
            tuple(cell(table.get(name)) for table in (after.base, after.policy, after.target)),
        )
        for name in _names(after.base, after.policy, after.target)
    )
    diversity = tuple(
        _line(
            name,
            [cell(after.diversity.get(who, {}).get(name)) for who in ("base", "policy", "target")],
            f"; {reading.limit}",
        )
        for name in _DIVERSITY
        if any(name in table for table in after.diversity.values())
    )
    groups = (
        Group("Features, mean per completion", features),
        Group("Distances, in nats", _distances(reading, outcome)),
        Group("Diversity and length", diversity),
    )
    return tuple(group for group in groups if group.lines)


def _distances(reading: Reading, outcome: Outcome) -> tuple[Line, ...]:
    before, after = outcome.before.divergences, outcome.after.divergences
    lines = [
        _line(name, [cell(before.get(name)), cell(after.get(name)), ZERO])
        for name in _DISTANCES
        if name in before or name in after
    ]
    at_target = "−log Z" if reading.hard_only else "KL(p‖a) = E_p[log-potential] − log Z"
    lines.append(
        _line(
            "kl_policy_base",
            [
                ZERO,
                cell(after.get("kl_policy_base")),
                cell(target_kl_base(reading), f"{at_target}, its value at π = p"),
            ],
        )
    )
    log_z = cell(outcome.after.log_z, "−log Z is KL(p‖a) here" if reading.hard_only else "")
    lines.append(_line("log_z", [NOTHING, NOTHING, log_z]))
    lines.append(
        _line(
            "forbidden",
            [cell(outcome.before.forbidden), cell(outcome.after.forbidden), ZERO],
            f"; {reading.limit}",
        )
    )
    return tuple(lines)


def comparison_table(readings: Sequence[Reading]) -> tuple[Group, ...]:
    """The delivered policies of several runs, a column each; unfinished ones have dashes."""
    ends = [None if r.outcome is None else r.outcome.after for r in readings]
    tables = [{} if end is None else end.policy for end in ends]
    limits = dict.fromkeys(reading.limit for reading in readings)
    shared = next(iter(limits)) if len(limits) == 1 else "max_new_tokens differs, see above"
    features = []
    for name in _names(*tables):
        features.append(
            Line(name, name, f"policy; {shared}", tuple(cell(table.get(name)) for table in tables))
        )
        features.append(
            Line(
                f"{name}, target",
                f"{name}, target",
                f"what it should be; {shared}",
                tuple(cell(None if e is None else e.target.get(name)) for e in ends),
            )
        )
    found = [{} if end is None else end.divergences for end in ends]
    distances = [
        _line(name, [cell(table.get(name)) for table in found])
        for name in (*_DISTANCES, "kl_policy_base")
        if any(name in table for table in found)
    ]
    distances.append(
        Line(
            "kl_target_base",
            "KL(p‖a)",
            "what KL(π‖a) is at π = p",
            tuple(cell(target_kl_base(reading)) for reading in readings),
        )
    )
    distances.append(_line("log_z", [cell(None if e is None else e.log_z) for e in ends]))
    distances.append(
        _line("forbidden", [cell(None if e is None else e.forbidden) for e in ends], f"; {shared}")
    )
    diversity = [
        _line(
            name,
            [cell(None if e is None else e.diversity.get("policy", {}).get(name)) for e in ends],
            f"; {shared}",
        )
        for name in _DIVERSITY
    ]
    groups = (
        Group("Features, mean per completion", tuple(features)),
        Group("Distances of the policy, in nats", tuple(distances)),
        Group("Diversity and length of the policy", tuple(diversity)),
    )
    return tuple(replace(g, lines=tuple(filter(_has_figures, g.lines))) for g in groups)


def _line(name: str, cells: Sequence[Cell], further: str = "") -> Line:
    formula, meaning = MEANINGS[name]
    return Line(name, formula, meaning + further, tuple(cells))


def _has_figures(line: Line) -> bool:
    return any(entry != NOTHING for entry in line.cells)


def _names(*tables: Mapping[str, Estimate]) -> Iterable[str]:
    return dict.fromkeys(name for table in tables for name in table)
