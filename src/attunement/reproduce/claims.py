"""What a paper claims, written down before it is run, and what becomes of it.

A claim names a quantity that is computed once for every unit of replication, which is a seed: base,
target and samples of one seed are shared by all conditions, so that the quantity is a *paired*
difference. It names the smallest effect δ that would matter, and on which side of δ the difference
must lie. The verdict looks at nothing but the 95 % interval of the mean over seeds:

    holds            the interval lies on the claimed side of δ,
    does not hold    it lies wholly on the other side,
    undecided        it holds δ; the number of seeds that would decide is said.

The interval is Student's t over seeds. The skewness that `intervals` corrects for can't be known
from a handful of seeds, so it is left alone here.

An exact claim, such as an identity, has a tolerance in the place of δ and is decided at once by the
largest deviation over all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeAlias

import torch

from attunement.core import Estimate
from attunement.intervals import Interval, normal_interval

Row: TypeAlias = Mapping[str, float]
"""Numbers by name."""

MOST_SEEDS = 10_000
"""Beyond this many seeds it isn't said how many would decide."""


@dataclass(frozen=True)
class Figures:
    """What one run of one condition came to.

    Attributes:
        last: The figures at its end, by name; `figures[name]` for short.
        path: Figures on its way, its first and last state included; empty where there is no way.
    """

    last: Row
    path: Sequence[Row] = ()

    def __getitem__(self, name: str) -> float:
        return self.last[name]


Replication: TypeAlias = Mapping[str, Figures]
"""The figures of one seed, by condition."""


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"


class Side(StrEnum):
    """Where the difference must lie, seen from δ."""

    ABOVE = "above"
    BELOW = "below"
    WITHIN = "within"


@dataclass(frozen=True)
class Claim:
    """A claim that is decided by an interval over seeds.

    Attributes:
        sentence: The claim, as a reader would say it.
        quantity: What is computed for every seed, in words.
        side: `above` δ, `below` δ, or `within` ±δ.
        smallest_effect: δ, in the unit of the quantity.
        differences: From all seeds to one number for each unit.
        shown: Pairs of condition and figure whose means are printed with the verdict.
        unit: What the units are.
    """

    sentence: str
    quantity: str
    side: Side
    smallest_effect: float
    differences: Callable[[Sequence[Replication]], Sequence[float]]
    shown: tuple[tuple[str, str], ...] = ()
    unit: str = "seeds, paired"


@dataclass(frozen=True)
class ExactClaim:
    """A claim without chance in it.

    Attributes:
        sentence: The claim.
        quantity: What must be 0, in words.
        tolerance: The largest deviation that counts as 0.
        deviations: From all seeds to the deviations.
    """

    sentence: str
    quantity: str
    tolerance: float
    deviations: Callable[[Sequence[Replication]], Sequence[float]]


def per_seed(difference: Callable[[Replication], float]) -> Callable[..., list[float]]:
    """One number for each seed, from that seed's figures alone."""
    return lambda seeds: [difference(seed) for seed in seeds]


def log_ratio(first: float, second: float) -> float:
    """log(first / second), NaN unless both are above 0: the claim then stays undecided."""
    return math.log(first / second) if first > 0 and second > 0 else math.nan


def share_lost(value: float, of: float) -> float:
    """1 - value/of, NaN where there was nothing to lose: the claim then stays undecided."""
    return 1 - value / of if of != 0 else math.nan


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict.

    Attributes:
        claim: The sentence.
        quantity: What was computed for every seed.
        verdict: The verdict.
        side: On which side of δ the difference had to lie.
        smallest_effect: δ, or the tolerance of an exact claim.
        difference: The mean over seeds with its interval, or the largest deviation.
        decided_by: Why this is the verdict.
        figures: What is printed beside it, by name: means over seeds.
    """

    claim: str
    quantity: str
    verdict: Verdict
    side: Side
    smallest_effect: float
    difference: Estimate
    decided_by: str
    figures: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The claim, the figures and the verdict in one line."""
        figures = "".join(f"; {name} {estimate}" for name, estimate in self.figures.items())
        return (
            f"{self.verdict.upper()}: {self.claim}. {self.quantity}: {shown(self.difference)}, to "
            f"be {self.side} {self.smallest_effect:.3g}; {self.decided_by}{figures}."
        )

    def to_json(self) -> dict[str, object]:
        """A row of `result.json`."""
        return {
            "claim": self.claim,
            "quantity": self.quantity,
            "verdict": self.verdict.value,
            "side": self.side.value,
            "smallest_effect": self.smallest_effect,
            "difference": self.difference.to_json(),
            "decided_by": self.decided_by,
            "figures": {name: estimate.to_json() for name, estimate in self.figures.items()},
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            claim=row["claim"],
            quantity=row["quantity"],
            verdict=Verdict(row["verdict"]),
            side=Side(row["side"]),
            smallest_effect=row["smallest_effect"],
            difference=Estimate.from_json(row["difference"]),
            decided_by=row["decided_by"],
            figures={name: Estimate.from_json(cell) for name, cell in row["figures"].items()},
        )


def judge(claim: Claim | ExactClaim, seeds: Sequence[Replication]) -> Judged:
    """Compare what was measured with what was claimed.

    Args:
        claim: The claim.
        seeds: The figures of every seed.
    """
    if isinstance(claim, ExactClaim):
        return _judge_exact(claim, seeds)
    values = list(claim.differences(seeds))
    estimate = mean_over_seeds(values)
    interval = Interval(estimate.value, estimate.stderr or 0.0, estimate.low, estimate.high)
    verdict = _verdict(claim.side, claim.smallest_effect, interval)
    return Judged(
        claim=claim.sentence,
        quantity=claim.quantity,
        verdict=verdict,
        side=claim.side,
        smallest_effect=claim.smallest_effect,
        difference=estimate,
        decided_by=_reason(claim, verdict, interval, values),
        figures={
            f"{condition} {name}": mean_over_seeds([seed[condition][name] for seed in seeds])
            for condition, name in claim.shown
        },
    )


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean with Student's t interval; an interval without ends where a value isn't finite."""
    count = len(values)
    column = torch.tensor(values, dtype=torch.float64)
    mean = float(column.mean())
    if count < 2 or not math.isfinite(mean):
        return Estimate(mean, None, -math.inf, math.inf, count, float(count))
    stderr = float(column.std()) / math.sqrt(count)
    return Estimate(*normal_interval(mean, stderr, count - 1), n=count, ess=float(count))


def shown(estimate: Estimate) -> str:
    """An estimate for people: very small ones in powers of ten."""
    if estimate.stderr is None and estimate.low == estimate.high:
        return f"{estimate.value:.2g}"
    return str(estimate)


def _verdict(side: Side, effect: float, interval: Interval) -> Verdict:
    low, high = interval.low, interval.high
    match side:
        case Side.ABOVE:
            holds, fails = low > effect, high < effect
        case Side.BELOW:
            holds, fails = high < effect, low > effect
        case Side.WITHIN:
            holds = -effect < low and high < effect
            fails = low > effect or high < -effect
    return Verdict.HOLDS if holds else Verdict.FAILS if fails else Verdict.UNDECIDED


def _judge_exact(claim: ExactClaim, seeds: Sequence[Replication]) -> Judged:
    deviations = claim.deviations(seeds)
    worst = max(map(abs, deviations), key=lambda size: math.inf if math.isnan(size) else size)
    return Judged(
        claim=claim.sentence,
        quantity=claim.quantity,
        verdict=Verdict.HOLDS if worst <= claim.tolerance else Verdict.FAILS,
        side=Side.WITHIN,
        smallest_effect=claim.tolerance,
        difference=Estimate(worst, None, worst, worst, len(deviations), float(len(deviations))),
        decided_by=f"exact: the largest deviation over {len(deviations)} seeds",
    )


def _reason(claim: Claim, verdict: Verdict, interval: Interval, values: Sequence[float]) -> str:
    units = f"{len(values)} {claim.unit}"
    if verdict is not Verdict.UNDECIDED:
        return f"the 95 % interval over {units}"
    if not math.isfinite(interval.value):
        return f"the difference isn't finite for some of {units}"
    if len(values) < 2:
        return f"{units}: one gives no interval"
    needed = seeds_that_decide(claim.side, claim.smallest_effect, interval, len(values))
    if needed is None:
        return f"{units} don't decide, nor would {MOST_SEEDS} with this difference and spread"
    return f"{units} don't decide; {needed} would with this difference and spread"


def seeds_that_decide(side: Side, effect: float, interval: Interval, count: int) -> int | None:
    """How many seeds give a verdict if mean and spread stay as they are.

    Args:
        side: The claimed side of δ.
        effect: δ.
        interval: What `count` seeds gave.
        count: How many there were, 2 or more.

    Returns:
        The smallest number that decides, or None where `MOST_SEEDS` wouldn't.
    """
    spread = interval.stderr * math.sqrt(count)

    def decides(seeds: int) -> bool:
        wider = normal_interval(interval.value, spread / math.sqrt(seeds), seeds - 1)
        return _verdict(side, effect, wider) is not Verdict.UNDECIDED

    low, high = count, MOST_SEEDS
    if not decides(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
