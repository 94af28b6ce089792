"""What is run for a paper at one scale: conditions × seeds, and the claims held to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from attunement.reproduce.claims import Claim, ExactClaim, Figures


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
        run: From condition and seed to its figures; a function of a module, or a `partial` of one,
            so that another process can be told to call it.
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
