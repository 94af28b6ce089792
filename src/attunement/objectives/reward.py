"""Reward maximisation: ∇E_π[r] = E_π[ r ∇log π ], REINFORCE (Williams 1992).

It knows nothing of a base, so the optimum is whatever has the highest reward, however little of the
language is left; that is what distribution matching is held against (arXiv 2205.11275, 2206.00761).
"""

from __future__ import annotations

from torch import Tensor

from attunement.core import AttunementError
from attunement.objectives.baselines import Baseline, leave_one_out


def reward_signal(
    baseline: Baseline,
    rewards: Tensor,
    *,
    log_policy: Tensor,
    log_proposal: Tensor,
    context: Tensor,
) -> Tensor:
    """w·(r - B), w = π/q: the weight of each sample's ∇log π in the ascent direction of E_π[r].

    Args:
        baseline: `none` or `leave_one_out`; `analytic` belongs to a divergence.
        rewards: [N] r(x, c).
        log_policy: [N] log π(x|c), nats, no gradient needed.
        log_proposal: [N] log q(x|c).
        context: [N] int64.

    Returns:
        [N] float64, detached.

    Raises:
        AttunementError: The baseline is analytic, or a context has a single sample.
    """
    if baseline is Baseline.ANALYTIC:
        raise AttunementError(
            "a reward has no analytic baseline: choose --baseline leave_one_out or none"
        )
    weights = (log_policy.detach().double() - log_proposal.double()).exp()
    rewards = rewards.double()
    if baseline is Baseline.NONE:
        return weights * rewards
    return weights * (rewards - leave_one_out(weights, rewards, context))
