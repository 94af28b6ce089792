"""What a reproduction came to, as `result.json` holds it and as pages show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from attunement.core import Estimate
from attunement.reproduce.claims import Judged, Replication, Verdict, judge, mean_over_seeds
from attunement.reproduce.studies import Scale, Study

RESULT = "result.json"
"""The file that a finished reproduction leaves."""


@dataclass(frozen=True)
class Result:
    """A finished reproduction.

    Attributes:
        paper: The arXiv number.
        title: The paper's title.
        scale: The scale.
        summary: What was run.
        seconds: How long all cells took, one after the other, those of earlier calls included.
        seeds: Units of replication.
        claims: The claims with their verdicts.
        table: Means over seeds, by condition and figure.
        sizes: Everything that was chosen.
        versions: Of the software.
    """

    paper: str
    title: str
    scale: Scale
    summary: str
    seconds: float
    seeds: int
    claims: tuple[Judged, ...]
    table: Mapping[str, Mapping[str, Estimate]]
    sizes: Mapping[str, object]
    versions: Mapping[str, str]

    @property
    def contradicted(self) -> bool:
        """Whether some claim does not hold."""
        return any(claim.verdict is Verdict.FAILS for claim in self.claims)

    @property
    def columns(self) -> tuple[str, ...]:
        """The figures of the table, in their order."""
        return tuple(dict.fromkeys(name for row in self.table.values() for name in row))

    @property
    def tally(self) -> str:
        """How many claims hold, fail and are open, in words."""
        counts = Counter(claim.verdict for claim in self.claims)
        several = {Verdict.HOLDS: "hold", Verdict.FAILS: "do not hold"}
        words = (
            (count, several.get(verdict, verdict.value) if count > 1 else verdict.value)
            for verdict in Verdict
            for count in [counts[verdict]]
        )
        return ", ".join(f"{count} {word}" for count, word in words if count)

    @property
    def extent(self) -> str:
        """How much was run, in words."""
        return f"{self.seeds} seeds, cells of {self.seconds:.0f} seconds in all"

    def to_json(self) -> dict[str, object]:
        """What `attune reproduce --json` prints."""
        return {
            "paper": self.paper,
            "title": self.title,
            "scale": self.scale.value,
            "summary": self.summary,
            "seconds": round(self.seconds, 1),
            "seeds": self.seeds,
            "claims": [claim.to_json() for claim in self.claims],
            "table": {
                condition: {name: estimate.to_json() for name, estimate in row.items()}
                for condition, row in self.table.items()
            },
            "sizes": self.sizes,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            paper=content["paper"],
            title=content["title"],
            scale=Scale(content["scale"]),
            summary=content["summary"],
            seconds=content["seconds"],
            seeds=content["seeds"],
            claims=tuple(Judged.from_json(row) for row in content["claims"]),
            table={
                condition: {name: Estimate.from_json(cell) for name, cell in row.items()}
                for condition, row in content["table"].items()
            },
            sizes=content["sizes"],
            versions=content["versions"],
        )


def judge_all(study: Study, seeds: Sequence[Replication]) -> tuple[Judged, ...]:
    """The verdicts of a study's claims."""
    return tuple(judge(claim, seeds) for claim in study.claims)


def tabulate(study: Study, seeds: Sequence[Replication]) -> dict[str, dict[str, Estimate]]:
    """Means over seeds of the figures that the study shows; what a condition lacks is left out."""
    rows = {
        condition: {
            name: mean_over_seeds([seed[condition][name] for seed in seeds])
            for name in study.columns
            if name in seeds[0][condition].last
        }
        for condition in study.conditions
    }
    return {condition: row for condition, row in rows.items() if row}
