"""Reverse KL token by token: which part of a sample's outcome each of its tokens answers for.

KL(π‖p) = E_π[ Σ_t k_t - φ ] + log Z, where k_t = log π(x_t|x_<t) - log a(x_t|x_<t) and φ is the
log-potential of the whole sample. The gradient of the expectation is E_π[ Σ_t R_t ∇log π(x_t|x_<t)
], and R_t may be

- the whole, Σ_s k_s - φ + log Z = log(π/p), which vanishes at π = p for every single sample;
- the *reward to go*, Σ_{s≥t} k_s - φ + log Z: a token has no influence on what came before it.

Either way k_t can be replaced by its expectation given the prefix, KL_t = Σ_v π(v) log(π(v)/a(v)),
in *closed form* over the vocabulary. Then the gradient gains Σ_t ∇KL_t, and what a token answers
for begins with KL_{t+1}, for KL_t doesn't depend on x_t. None of this changes the expectation;
which has the lower variance depends on how far π is from p, and is measured (`tuning.noise`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_kl(log_policy: Tensor, log_base: Tensor) -> Tensor:
    """k_t = log π(x_t|x_<t) - log a(x_t|x_<t) of the tokens drawn: [N, T] from [N, T]."""
    return log_policy.detach().double() - log_base.double()


def closed_form_kl(log_policy: Tensor, log_base: Tensor) -> Tensor:
    """KL_t = Σ_v π(v|x_<t) log(π(v|x_<t)/a(v|x_<t)), differentiable.

    Args:
        log_policy: [..., V] log-probabilities of the next token; minus infinity where it is never
            drawn.
        log_base: [..., V] the base's, minus infinity at the same places.

    Returns:
        [...] in nats.
    """
    never = torch.isneginf(log_policy)
    log_ratio = (log_policy - log_base).masked_fill(never, 0.0)
    return (log_policy.masked_fill(never, 0.0).exp().masked_fill(never, 0.0) * log_ratio).sum(-1)


def token_advantages(
    kl: Tensor, advantage: Tensor, *, reward_to_go: bool, closed_form: bool
) -> Tensor:
    """What each token's ∇log π is multiplied by, up to the importance weight, for descent.

    Args:
        kl: [N, T] k_t or, in closed form, KL_t; 0 behind a completion's end. No gradient.
        advantage: [N] φ - log Z - B, the part of the whole sample.
        reward_to_go: Whether a token answers only for what follows it.
        closed_form: Whether `kl` is KL_t.

    Returns:
        [N, T] float64.
    """
    kl = kl.detach().double()
    charge = kl.flip(1).cumsum(1).flip(1)
    if not reward_to_go:
        charge = charge[:, :1].expand_as(kl)
    elif closed_form:
        charge = charge - kl
    return advantage.double()[:, None] - charge


def token_surrogate(
    weights: Tensor,
    advantages: Tensor,
    log_policy: Tensor,
    kl: Tensor | None,
    count: int,
) -> Tensor:
    """-Σ_i w_i Σ_t A_it log π(x_it) / count, and Σ_i w_i Σ_t KL_it / count in closed form.

    Args:
        weights: [M] π/q, of a micro-batch of M samples.
        advantages: [M, T] from `token_advantages`.
        log_policy: [M, T] with gradient; 0 behind a completion's end.
        kl: [M, T] KL_t with gradient, 0 behind the end; None where it was sampled.
        count: Samples in the whole step.

    Returns:
        A scalar.
    """
    loss = -(advantages.to(log_policy) * log_policy).sum(1)
    if kl is not None:
        loss = loss + kl.sum(1)
    return (weights.to(loss) * loss).sum() / count
