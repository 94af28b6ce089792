"""The convex dual of moments that are to be matched, and its solution.

With a_c the base times everything that isn't matched, φ the features whose mean is held on average
over C contexts and ψ those whose mean is held in each, λ and all λ_c minimise

    mean_c log E_{a_c}[exp(λ·(φ - μ) + λ_c·(ψ - ν))],

whose gradient is the difference between the moments of p and those asked for (maximum entropy;
Khalifa et al. 2021, arXiv 2012.11635). It is solved for all of them at once by Newton's method. A
λ_c meets only λ and the λ_c of its own context in the Hessian, an arrow of blocks, so a step costs
one small system for each context and one for λ, the Schur complement of the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attunement.core import AttunementError

MOST_STEPS = 100
"""Newton steps after which there is no solution."""


def solve_dual(
    features: Tensor,
    log_weights: Tensor,
    context: Tensor,
    means: Tensor,
    held: Tensor | None = None,
    tolerance: float = 1e-9,
) -> Tensor:
    """λ with which features have their means under p_c ∝ exp(log_weights + λ_c·φ).

    Newton's method with halved steps on the dual, which is convex.

    Args:
        features: [N, K] float64.
        log_weights: [N] float64, of everything but the moments; minus infinity is forbidden.
        context: [N] int64, from 0 to C - 1; contexts in which everything is forbidden are left
            out of the averages.
        means: [K] float64.
        held: [K] bool, which features have their mean in every context, the others on average
            over contexts; None where all are averaged.
        tolerance: Largest difference of a moment, in units of the feature's spread.

    Returns:
        [C, K] float64; the same in every row where the mean is an average, and 0 for a feature
        that is held in a context that is left out.

    Raises:
        AttunementError: It doesn't converge.
    """
    each = torch.zeros(len(means), dtype=torch.bool) if held is None else held
    allowed = torch.isfinite(log_weights)
    scale = features[allowed].std(0, correction=0).clamp(min=1e-12)
    padded, log_padded, used = _by_context((features - means) / scale, log_weights, context)
    lambdas = torch.zeros(len(padded), len(means), dtype=torch.float64)
    for _ in range(MOST_STEPS):
        here, gradient, hessian = _dual(padded, log_padded, lambdas)
        if _largest(gradient, each) <= tolerance:
            found = torch.zeros(len(used), len(means), dtype=torch.float64)
            found[:, ~each] = lambdas[0, ~each]
            found[used] = lambdas
            return found / scale
        step = _newton_step(gradient, hessian, each)
        slope, size = float((step * gradient).sum(1).mean()), 1.0
        rounding = 1e-14 * max(1.0, abs(here))
        while size > 1e-8:
            there = _dual(padded, log_padded, lambdas - size * step)[0]
            if there <= here - 1e-4 * size * slope + rounding:
                break
            size /= 2
        lambdas = lambdas - size * step
    raise AttunementError(
        "the moments could not be matched: they lie at or beyond the edge of what the samples "
        "reach together; ask for less extreme means or fit with more samples"
    )


def _by_context(
    features: Tensor, log_weights: Tensor, context: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """[U, M, K] and [U, M] of the contexts in which something is allowed, and [C] bool, which.

    Contexts with fewer than M samples are filled up with samples of no weight.
    """
    order = context.argsort(stable=True)
    counts = context.bincount()
    place = torch.arange(len(context)) - (counts.cumsum(0) - counts)[context[order]]
    shape = (len(counts), int(counts.max()))
    padded = torch.zeros(*shape, features.shape[1], dtype=torch.float64)
    padded[context[order], place] = features[order]
    log_padded = torch.full(shape, -torch.inf, dtype=torch.float64)
    log_padded[context[order], place] = log_weights[order]
    used = torch.isfinite(log_padded).any(1)
    return padded[used], log_padded[used], used


def _dual(centred: Tensor, log_weights: Tensor, lambdas: Tensor) -> tuple[float, Tensor, Tensor]:
    """The dual, and for each context its part of the gradient and of the Hessian.

    Args:
        centred: [C, M, K] features less their means.
        log_weights: [C, M].
        lambdas: [C, K].

    Returns:
        A number, [C, K] and [C, K, K].
    """
    exponents = log_weights + (centred @ lambdas.unsqueeze(2)).squeeze(2)
    weights = exponents.softmax(1)
    gradient = (weights.unsqueeze(1) @ centred).squeeze(1)
    deviation = centred - gradient.unsqueeze(1)
    hessian = (deviation * weights.unsqueeze(2)).mT @ deviation
    return float(torch.logsumexp(exponents, 1).mean()), gradient, hessian


def _largest(gradient: Tensor, held: Tensor) -> float:
    """The largest difference of a moment: of averages, and in any context of what is held there."""
    averaged, each = gradient[:, ~held].mean(0), gradient[:, held].flatten()
    return float(torch.cat([averaged, each]).abs().max())


def _newton_step(gradient: Tensor, hessian: Tensor, held: Tensor) -> Tensor:
    """[C, K] Newton's step for λ and λ_c: the Schur complement of the λ_c gives that of λ.

    Args:
        gradient: [C, K] of each context.
        hessian: [C, K, K] of each context.
        held: [K] bool.
    """
    share = ~held
    own = _ridged(hessian[:, held][:, :, held])
    cross = hessian[:, share][:, :, held]
    solved = torch.linalg.solve(own, torch.cat([cross.mT, gradient[:, held].unsqueeze(2)], 2))
    of_cross, of_gradient = solved[:, :, :-1], solved[:, :, -1]
    left = (hessian[:, share][:, :, share] - cross @ of_cross).mean(0)
    right = (gradient[:, share] - (cross @ of_gradient.unsqueeze(2)).squeeze(2)).mean(0)
    shared = torch.linalg.solve(_ridged(left), right)
    step = torch.empty_like(gradient)
    step[:, share] = shared
    step[:, held] = of_gradient - of_cross @ shared
    return step


def _ridged(matrices: Tensor) -> Tensor:
    """[..., K, K] with a little added to the diagonal, so that dependent features can be solved."""
    if matrices.shape[-1] == 0:
        return matrices
    largest = matrices.diagonal(dim1=-2, dim2=-1).max(-1).values.clamp(min=1e-12)
    return matrices + 1e-12 * largest[..., None, None] * torch.eye(matrices.shape[-1])
