"""The plain reward of a target's factors: what reward maximisation would go up instead.

A constraint's reward is its value, 0 or 1, and a tilt's its weight times the score: the same wishes
as the target's, without the base (arXiv 2206.00761, section on reward maximisation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attunement.core import AttunementError, Scores
from attunement.factors import Constraint, Factor, Tilt
from attunement.targets import Target


def require_reward(factors: Sequence[Factor]) -> None:
    """Raise unless every factor is something to have as much of as possible.

    Raises:
        AttunementError: A moment is matched.
    """
    for factor in factors:
        if not isinstance(factor, Constraint | Tilt):
            raise AttunementError(
                f"{factor.scorer.name} is matched, and a proportion is no reward, for more isn't "
                "better: reward maximisation takes --constrain and --tilt"
            )


def plain_reward(target: Target, features: Mapping[str, Scores], count: int) -> Tensor:
    """Σ of the constraints' values and of the tilts' weighted scores.

    Args:
        target: The target.
        features: What it says of the samples.
        count: N.

    Returns:
        [N] float64; what a score doesn't apply to violates no constraint and has no reward.
    """
    total = torch.zeros(count, dtype=torch.float64)
    for factor in target.factors:
        values, applicable = features[factor.scorer.name]
        if isinstance(factor, Constraint):
            total = total + torch.where(applicable, values, 1.0)
        elif isinstance(factor, Tilt):
            total = total + factor.weight * values
    return total
