"""f-trajectory balance: any f-divergence's minimum from samples of any proposal, without weights.

With δ(x) = log π(x) - log P(x) + log Z, the logarithm of π/p, and a convex loss ℓ of it,

    ℓ'(δ) = f'(e^δ) - f'(1),   E_q[ ℓ(δ) ]  is least where δ = 0 on all that q draws (2605.15417).

Whatever q is, the gradient's weight on ∇log π is ℓ'(δ), so a sample that was drawn long ago counts
as it stands, with no importance weight that may explode. On policy, q = π, that is ∇D_f. Where the
target forbids a sample δ is infinite, and the weight is that of the policy gradient,
(π/q)·(f'(∞) - f'(1)).

log Z has to be that of the loss: off policy a fixed rough Ẑ moves the minimum. It is profiled, the
value with Σ ℓ'(δ) = 0 over the samples of a context that the target allows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attunement.divergences import Divergence
from attunement.objectives.checks import require_allowed, require_finite_signal

_HALVINGS = 60


def trajectory_balance_signal(
    divergence: Divergence,
    *,
    log_policy: Tensor,
    log_score: Tensor,
    log_partition: Tensor,
    log_proposal: Tensor,
) -> Tensor:
    """The weight of each sample's ∇log π in the descent direction: -ℓ'(δ).

    Args:
        divergence: The row.
        log_policy: [N] log π(x|c), nats, no gradient needed.
        log_score: [N] log P(x|c) of the unnormalised target.
        log_partition: [N] log Z_c; where it is minus infinity the sample adds nothing.
        log_proposal: [N] log q(x|c), read where the target forbids the sample.

    Returns:
        [N] float64, detached.

    Raises:
        AttunementError: The divergence is infinite for a sample that the target forbids, or the
            signal isn't finite.
    """
    log_policy, log_score = log_policy.detach().double(), log_score.double()
    known, forbidden = torch.isfinite(log_partition), torch.isneginf(log_score)
    require_allowed(divergence, forbidden & known)
    at_one = divergence.derivative_at_one
    log_ratio = log_policy - torch.where(forbidden, log_policy, log_score)
    log_ratio = log_ratio + torch.where(known, log_partition.double(), 0.0)
    balance = divergence.derivative(log_ratio) - at_one
    price = (log_policy - log_proposal.double()).exp() * (divergence.slope_at_infinity - at_one)
    signal = -torch.where(known, torch.where(forbidden, price, balance), 0.0)
    require_finite_signal(signal, log_policy, log_score, "P")
    return signal


def profiled_log_partition(
    divergence: Divergence, *, log_policy: Tensor, log_score: Tensor, context: Tensor
) -> Tensor:
    """log Z_c with Σ ℓ'(log π - log P + log Z_c) = 0 over each context's allowed samples.

    The sum increases with log Z_c, so that halving an interval finds its zero (for total
    variation its sign change, a median).

    Args:
        divergence: The row.
        log_policy: [N] log π(x|c).
        log_score: [N] log P(x|c); minus infinity where the target forbids the sample.
        context: [N] int64.

    Returns:
        [N] float64, the same for all samples of a context; minus infinity in a context in which the
        target allows no sample.
    """
    _, group = context.unique(return_inverse=True)
    groups = int(group.max()) + 1
    allowed = ~torch.isneginf(log_score)
    offset = torch.where(allowed, log_score.double() - log_policy.detach().double(), 0.0)
    rows, values = group[allowed], offset[allowed]
    low = torch.full((groups,), torch.inf, dtype=torch.float64).scatter_reduce(
        0, rows, values, "amin"
    )
    high = torch.full((groups,), -torch.inf, dtype=torch.float64).scatter_reduce(
        0, rows, values, "amax"
    )
    empty = torch.isinf(low)
    low, high = low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slopes = divergence.derivative(middle[rows] - values) - divergence.derivative_at_one
        total = torch.zeros(groups, dtype=torch.float64).index_add(0, rows, slopes)
        low, high = torch.where(total < 0, middle, low), torch.where(total < 0, high, middle)
    return ((low + high) / 2).masked_fill(empty, -torch.inf)[group]
