"""Where a run stood on its way, and what it had cost when it came to some level.

Two ways to the same place are compared at the place: the distance from the base at an equal share
of completions that satisfy a constraint, or the samples spent until an equal distance is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from attunement.reproduce.claims import Row


def at_level(path: Sequence[Row], figure: str, level: float, read: str) -> float:
    """What `read` was when `figure` first came to the level, linear between two evaluations.

    Args:
        path: Evaluations in their order, the first from before the first step.
        figure: The figure that shall come to the level, from whichever side it starts.
        level: The level.
        read: The figure that is read there.

    Returns:
        The value at the crossing. The last one where the level is never reached: less than what
        reaching it takes, as long as `read` grows on the way.
    """
    rising = path[0][figure] < level
    for before, after in pairwise(path):
        if (after[figure] >= level) if rising else (after[figure] <= level):
            gap = after[figure] - before[figure]
            share = (level - before[figure]) / gap if gap else 0.0
            return before[read] + share * (after[read] - before[read])
    return path[-1][read]
