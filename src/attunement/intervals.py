"""95 % intervals for means, proportions and smooth functions of means.

Nothing here knows of targets or policies. A statistic that is a smooth function of means comes
with its *influence* values ψ_i (one a sample, mean zero): to first order the statistic is its
truth plus the mean of ψ, so the delta method needs ψ alone. Samples may come in *parts* (strata
of fixed sizes, such as half from the base and half from the policy); then the variance is that
within the parts, and treating the parts as one would overstate it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

LEVEL = 0.95
"""The coverage that every interval of the project is made for."""


class Interval(NamedTuple):
    """A value, its standard error and the ends of its 95 % interval."""

    value: float
    stderr: float
    low: float
    high: float


def normal_interval(
    value: float, stderr: float, degrees: float = math.inf, skewness: float = 0.0
) -> Interval:
    """value ± the quantile of Student's t × stderr, corrected for skewness.

    A mean of right-skewed values and its standard error go up together, so that ± the quantile
    misses above far more often than below. Hall's transformation (1992, "On the removal of
    skewness by transformation", eq. 2.3) of T = (value - truth)/stderr,

        g(T) = T + aT² + a²T³/3 + a/2,  a = skewness/3,

    is monotone and has no skewness to second order; its inverse gives the ends.

    Args:
        value: The estimate.
        stderr: Its standard error.
        degrees: Degrees of freedom of the standard error.
        skewness: Third cumulant of the estimate over stderr³: for a mean, that of one value / √n.
    """
    quantile, slope = _quantile(degrees), skewness / 3
    if not math.isfinite(slope) or abs(slope) < 1e-6:
        return Interval(value, stderr, value - quantile * stderr, value + quantile * stderr)
    upper, lower = (
        (math.cbrt(1 + 3 * slope * (at - slope / 2)) - 1) / slope for at in (quantile, -quantile)
    )
    return Interval(value, stderr, value - upper * stderr, value - lower * stderr)


def mean_interval(values: Tensor) -> Interval:
    """The mean of independent values, with Student's t and a correction for skewness.

    Args:
        values: [N], N at least 2; with one value the interval is infinite.
    """
    mean = float(values.double().mean())
    if values.numel() < 2:
        return Interval(mean, math.inf, -math.inf, math.inf)
    return delta_method(mean, values.double(), torch.zeros(values.shape, dtype=torch.long))


def centred(values: Tensor, part: Tensor) -> Tensor:
    """[N] values less the mean of their own part.

    Args:
        values: [N].
        part: [N] int64, 0 or more.
    """
    counts = part.bincount().to(values)
    means = torch.zeros_like(counts).index_add(0, part, values) / counts
    return values - means[part]


def delta_method(value: float, influence: Tensor, part: Tensor) -> Interval:
    """The interval of a statistic from its influence values, for parts of fixed sizes.

    The standard error is √( Σ_s n_s var_s ) / N, infinite if a part has a single sample.

    Args:
        value: The statistic.
        influence: [N] first-order influence of each sample on the statistic.
        part: [N] int64, 0 or more, the part that each sample was drawn in.
    """
    count = influence.numel()
    sizes = part.bincount().to(influence)
    if bool((sizes == 1).any()):
        return Interval(value, math.inf, -math.inf, math.inf)
    deviation = centred(influence, part)
    square = deviation.square()
    stderr = math.sqrt(float(square @ (sizes / (sizes - 1))[part])) / count
    cubic = (sizes.square() / ((sizes - 1) * (sizes - 2)).clamp(min=1))[part]
    third = float((square * deviation) @ cubic) / count**3
    skewness = third / stderr**3 if stderr > 1e-100 else 0.0
    return normal_interval(value, stderr, count - int((sizes > 0).sum()), skewness)


def wilson(successes: float, count: float) -> Interval:
    """A proportion with Wilson's score interval (Wilson 1927), right also at rates of 0 and 1."""
    z = _quantile(math.inf)
    rate = successes / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    spread = math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    half = z / (1 + z * z / count) * spread
    stderr = math.sqrt(rate * (1 - rate) / count)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == count else centre + half
    return Interval(rate, stderr, low, high)


def unseen_rate(draws: int) -> float:
    """The upper end of a one-sided 95 % interval for a rate that none of the draws showed.

    Args:
        draws: How many; with none of them the rate may be 1.
    """
    return 1.0 if draws == 0 else 1 - (1 - LEVEL) ** (1 / draws)


def jackknife_value(value: Tensor, left_out: Tensor, share: float) -> Tensor:
    """Remove the O(1/M) bias of statistics of M units (Quenouille 1956).

    A bias of b/M is one of b/(share·M) in what is left out, so the two show b. Where a left-out
    statistic isn't finite the value is returned as it is.

    Args:
        value: [...] the statistics of all units.
        left_out: [..., G] each statistic with each of G groups of units left out.
        share: The share of the units that is kept when a group is left out: (M - 1)/M where groups
            are single units.

    Returns:
        [...] (value - share mean(left_out)) / (1 - share).
    """
    corrected = (value - share * left_out.mean(-1)) / (1 - share)
    return torch.where(torch.isfinite(corrected), corrected, value)


def left_out_groups(parts: Sequence[int], groups: int) -> Tensor:
    """Which units stay when each of several groups is left out.

    Args:
        parts: Units in each part; the units are numbered part after part.
        groups: G, at most the smallest part; a group holds ⌊part / G⌋ units of every part.

    Returns:
        [G, K] int64, the K units that stay.
    """
    kept, start = [], 0
    for size in parts:
        group = torch.arange(size) // (size // groups)
        stays = group != torch.arange(groups).unsqueeze(1)
        kept.append(stays.nonzero()[:, 1].reshape(groups, -1) + start)
        start += size
    return torch.cat(kept, 1)


def paired_difference(first: Tensor, second: Tensor, part: Tensor | None = None) -> Interval:
    """The mean of first - second where row i of both belongs to the same unit.

    Args:
        first: [N] values.
        second: [N] values of the same units.
        part: [N] int64, or None where all units were drawn alike.
    """
    difference = first.double() - second.double()
    if part is None:
        return mean_interval(difference)
    value = float(difference.mean())
    return delta_method(value, difference - value, part)


def _quantile(degrees: float) -> float:
    """The upper quantile of Student's t, or of the normal law if the degrees are infinite."""
    upper = 0.5 + LEVEL / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))
