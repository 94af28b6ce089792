"""A number with its standard error, its interval and the evidence behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Estimate:
    """A number with its error bar and the evidence behind it.

    Attributes:
        value: The estimate; infinite where the quantity is, NaN where it could not be estimated.
        stderr: Standard error, or None where it has no meaning.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        n: Samples (or contexts, or seeds) that it rests on.
        ess: Effective sample size of the importance weights; n where there are none.
        khat: Pareto shape of the weights' tail; above 0.7 the interval isn't to be trusted. None
            where there are no weights or they are bounded.
        warnings: What a reader should know before trusting it.
    """

    value: float
    stderr: float | None
    low: float
    high: float
    n: int
    ess: float
    khat: float | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, float | int | str | None]:
        """The seven documented keys as strict JSON: infinite is "inf", absent is None."""
        return {
            item.name: _strict(getattr(self, item.name))
            for item in fields(self)
            if item.name != "warnings"
        }

    @classmethod
    def from_json(cls, row: Mapping[str, float | int | str | None]) -> Estimate:
        """Read what `to_json` wrote; absent numbers are NaN again."""

        def number(key: str) -> float:
            entry = row[key]
            return math.nan if entry is None else float(entry)

        return cls(
            value=number("value"),
            stderr=None if row["stderr"] is None else number("stderr"),
            low=number("low"),
            high=number("high"),
            n=int(number("n")),
            ess=number("ess"),
            khat=None if row["khat"] is None else number("khat"),
        )

    def __str__(self) -> str:
        return f"{self.value:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"


def _strict(number: float | int | None) -> float | int | str | None:
    if number is None or math.isnan(number):
        return None
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return number
