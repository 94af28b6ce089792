"""Baselines: what is subtracted from a pseudo-reward to lower the gradient's variance.

Because E_π[∇log π] = 0, a number that doesn't depend on the sample itself changes no expectation
(arXiv 2206.00761 carries this from reward maximisation to distribution matching).
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from attunement.core import AttunementError


class Baseline(StrEnum):
    """What is subtracted from the pseudo-reward."""

    NONE = "none"
    ANALYTIC = "analytic"
    LEAVE_ONE_OUT = "leave_one_out"


def leave_one_out(weights: Tensor, rewards: Tensor, context: Tensor) -> Tensor:
    """Σ_{j≠i} w_j r_j / Σ_{j≠i} w_j within the context of sample i.

    Args:
        weights: [N] importance weights.
        rewards: [N] pseudo-rewards.
        context: [N] int64.

    Returns:
        [N].

    Raises:
        AttunementError: Some context has a single sample.
    """
    _, group, counts = context.unique(return_inverse=True, return_counts=True)
    if bool((counts < 2).any()):
        raise AttunementError("leave_one_out needs two or more samples for each context")
    zeros = torch.zeros(len(counts), dtype=weights.dtype)
    total = zeros.index_add(0, group, weights)[group] - weights
    weighted = zeros.index_add(0, group, weights * rewards)[group] - weights * rewards
    return torch.where(total > 0, weighted / total.clamp(min=1e-300), 0.0)
