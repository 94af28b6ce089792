"""Distributional policy gradients for any f-divergence (arXiv 2302.08215).

On samples x ~ q(·|c),

    w = π/q,  r = -f'(π/p),  A = r - B,  surrogate = -mean( w A log π(x|c) ),

with w, A held constant, so that the gradient of the surrogate is an estimate of ∇D_f(π‖p). The
algorithms of the papers differ only in the row of the table and in q: DPG and CDPG are
`forward_kl` (arXiv 2106.04985, 2112.00791), KL-regularised RL is `reverse_kl` (arXiv 2205.11275).

A baseline B never changes the expectation (arXiv 2206.00761). `analytic` is B = -f'(1), with which
the signal of every single sample vanishes at π = p, not only their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attunement.divergences import Divergence
from attunement.objectives.baselines import Baseline, leave_one_out
from attunement.objectives.checks import require_allowed, require_finite_signal


def policy_gradient_signal(
    divergence: Divergence,
    baseline: Baseline,
    *,
    log_policy: Tensor,
    log_score: Tensor,
    log_partition: Tensor,
    log_proposal: Tensor,
    context: Tensor,
) -> Tensor:
    """w·A, the weight of each sample's ∇log π in the descent direction of D_f(π‖p).

    Args:
        divergence: The row.
        baseline: The baseline.
        log_policy: [N] log π(x|c), nats, no gradient needed.
        log_score: [N] log P(x|c) of the unnormalised target.
        log_partition: [N] log Ẑ_c; where it is minus infinity the sample adds nothing.
        log_proposal: [N] log q(x|c).
        context: [N] int64, used by the leave-one-out baseline.

    Returns:
        [N] float64, detached.

    Raises:
        AttunementError: The divergence is infinite for a sample the target forbids, or the signal
            isn't finite.
    """
    log_policy = log_policy.detach().double()
    known = torch.isfinite(log_partition)
    log_target = log_score.double() - torch.where(known, log_partition.double(), 0.0)
    require_allowed(divergence, torch.isneginf(log_target) & known)
    weights = (log_policy - log_proposal.double()).exp()
    reward = -divergence.slope(log_policy, log_target)
    if baseline is Baseline.NONE:
        advantage = reward
    elif baseline is Baseline.ANALYTIC:
        advantage = reward + divergence.derivative_at_one
    else:
        advantage = reward - leave_one_out(weights, reward, context)
    signal = torch.where(known, weights * advantage, 0.0)
    require_finite_signal(signal, log_policy, log_target, "p")
    return signal


def has_signal(divergence: Divergence, baseline: Baseline, log_potential: Tensor) -> Tensor:
    """Which samples can have a signal other than 0.

    A sample that the target forbids has pseudo-reward -f'(∞): 0 for forward KL, so that without a
    baseline it teaches nothing.

    Args:
        divergence: The row.
        baseline: The baseline.
        log_potential: [N] log P - log a, minus infinity where the target forbids the sample.

    Returns:
        [N] bool.
    """
    if baseline is Baseline.NONE and divergence.slope_at_infinity == 0:
        return ~torch.isneginf(log_potential)
    return torch.ones_like(log_potential, dtype=torch.bool)


def surrogate(signal: Tensor, log_policy: Tensor, count: int) -> Tensor:
    """-Σ signal·log π / count: its gradient is the estimated gradient of the divergence.

    Args:
        signal: [M] from `policy_gradient_signal`, for a micro-batch of M samples.
        log_policy: [M] log-probabilities with gradient.
        count: Samples in the whole step, so that micro-batches add up to the same gradient.

    Returns:
        A scalar.
    """
    return -(signal.to(log_policy) * log_policy).sum() / count
