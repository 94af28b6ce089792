"""From a statistic of one context's samples to an estimate: over one context, or over many.

A statistic is a value and an influence function. Over one context the influence gives the interval
by the delta method. Over many the unit is the context: each gives one value, its O(1/M) bias
removed by a jackknife within the context, and the interval comes from the spread between contexts.
A statistic is therefore a function of index tensors [..., M] and reduces the last dimension, so
that all contexts, and all of a jackknife's left-out groups, are computed at once.

A context in which no sample satisfies the constraint has no value. Where it is known between which
limits the statistic lies there, the context counts with the least, and the figure is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from attunement import intervals
from attunement.core import AttunementError, Estimate
from attunement.evidence import KHAT_LIMIT, POLICY, Evidence, Weights, pareto_khat

LEAST_ESS = 25.0
"""Below this many effective samples the interval isn't to be trusted."""
GROUPS = 8
"""Groups of a context's jackknife: enough to remove the bias, few enough to be cheap."""


class Statistic(NamedTuple):
    """A number from one context's evidence, and what its error bar is made of.

    Attributes:
        value: [...] the statistic.
        influence: [..., M] first-order influence of each sample.
        tail: [..., M] |h·w|, whose tail k̂ looks at, or None where the weights say it all.
    """

    value: Tensor
    influence: Tensor
    tail: Tensor | None


StatisticFunction = Callable[[Tensor], Statistic]
"""From rows [..., M] (an index tensor into the bank) to the statistic of the last dimension."""


class Limits(NamedTuple):
    """What a statistic can be in a context in which no sample satisfies the constraint.

    Attributes:
        least: The least, from how many of the context's samples are the policy's.
        most: The most.
    """

    least: Callable[[int], float]
    most: float


def estimate(
    evidence: Evidence,
    statistic: StatisticFunction,
    weights: Weights,
    *,
    normalised: bool = True,
    limits: Limits | None = None,
) -> Estimate:
    """The statistic over the whole bank: one context, or the mean over contexts.

    Args:
        evidence: The bank, calibrated.
        statistic: What is estimated.
        weights: The importance weights that it rests on.
        normalised: Whether it divides by the weights' mean, and needs one that isn't zero.
        limits: What it can be in a context whose weights are all zero; None where that is unknown
            and such contexts are left out and counted.

    Raises:
        AttunementError: It is normalised and no sample of the bank has a weight.
    """
    if not evidence.single:
        return _over_contexts(evidence, statistic, weights, normalised, limits)
    if normalised and torch.isneginf(weights.log).all():
        raise AttunementError(
            f"none of {len(evidence)} samples satisfies the target's constraint: "
            "loosen it, give it a floor, or draw more samples"
        )
    found = statistic(torch.arange(len(evidence)))
    influence = _controlled(evidence, found.influence)
    interval = intervals.delta_method(float(found.value), influence, evidence.part)
    return reported(evidence, interval, weights, _worst_khat(evidence, found, weights))


def reported(
    evidence: Evidence,
    interval: intervals.Interval,
    weights: Weights,
    khat: tuple[float | None, str | None],
) -> Estimate:
    """An estimate over one context, with what a reader should know of its weights.

    Args:
        evidence: The bank.
        interval: The value with its error bar.
        weights: The importance weights that it rests on.
        khat: k̂, or None and the reason why there is none.
    """
    notes = [khat[1], evidence.lost_mass, _trust(weights.ess, khat[0])]
    return _noted(interval, len(evidence), weights.ess, khat[0], notes)


def _noted(
    interval: intervals.Interval,
    count: int,
    ess: float,
    khat: float | None,
    notes: list[str | None],
) -> Estimate:
    warnings = tuple(note for note in notes if note)
    value = interval.value
    if math.isinf(value):
        warnings += (
            "infinite: a sample is possible under one distribution and impossible under the other",
        )
        return Estimate(value, None, value, value, count, ess, khat, warnings)
    return Estimate(*interval, count, ess, khat, warnings)


def _controlled(evidence: Evidence, influence: Tensor) -> Tensor:
    """[N] what is left of the influence once the calibration has taken the control's share."""
    if evidence.control is None:
        return influence
    control, deviation = evidence.control
    slope = float(deviation @ influence) / float(deviation @ deviation)
    return influence - slope * control


def _over_contexts(
    evidence: Evidence,
    statistic: StatisticFunction,
    weights: Weights,
    normalised: bool,
    limits: Limits | None,
) -> Estimate:
    values, sizes, logs, empty, contexts = [], [], [], [], 0
    for rows, parts in evidence.blocks:
        contexts += len(rows)
        log_weights = weights.log[rows]
        if normalised:
            usable = torch.isfinite(log_weights).any(1)
            empty.append((evidence.part[rows[~usable]] == POLICY).sum(1))
            rows, log_weights = rows[usable], log_weights[usable]
        if len(rows):
            values.append(unbiased(statistic, rows, parts))
            shares = log_weights.log_softmax(1)
            sizes.append((-torch.logsumexp(2 * shares, 1)).exp().nan_to_num(0.0))
            logs.append(shares.flatten())
    if not values:
        raise AttunementError(
            f"no sample of any of the {contexts} contexts satisfies the target's constraint: "
            "loosen it, give it a floor, or draw more samples for each context"
        )
    found, size = torch.cat(values), torch.cat(sizes)
    interval = intervals.mean_interval(found)
    khat, reason = (None, None) if weights.bounded else pareto_khat(torch.cat(logs))
    notes = [reason, evidence.lost_mass, _trust(float(size.sum()), khat)]
    if len(found) == contexts:
        return _noted(interval, contexts, float(size.sum()), khat, notes)
    which = f"{contexts - len(found)} of {contexts} contexts had no sample that satisfies the "
    if limits is None:
        notes.append(f"{which}constraint and are left out")
        return _noted(interval, len(found), float(size.sum()), khat, notes)
    notes.append(f"a lower bound: {which}constraint and count with the least that they can be")
    bounded = _noted(interval, contexts, float(size.sum()), khat, notes)
    return _bounded(bounded, found, torch.cat(empty), limits)


def _bounded(found: Estimate, values: Tensor, empty: Tensor, limits: Limits) -> Estimate:
    """The mean over all contexts, at least: those without a usable sample at what they can be.

    Args:
        found: The estimate over the other contexts, whose evidence is kept.
        values: [C - E] the other contexts.
        empty: [E] how many samples of the policy each of these has.
        limits: What they can be.
    """
    least = torch.tensor([limits.least(draws) for draws in empty.tolist()], dtype=torch.float64)
    low = intervals.mean_interval(torch.cat([values, least]))
    high = math.inf
    if math.isfinite(limits.most):
        most = torch.full_like(least, limits.most)
        high = min(limits.most, intervals.mean_interval(torch.cat([values, most])).high)
    return replace(found, value=low.value, stderr=None, low=low.low, high=high)


def unbiased(statistic: StatisticFunction, rows: Tensor, parts: tuple[int, ...]) -> Tensor:
    """[C] values of contexts, the O(1/M) bias of each removed by a jackknife over groups.

    Every group holds as many samples of each part as every other, in the parts' proportions.

    Args:
        statistic: What is estimated.
        rows: [C, M] the samples of each context, part after part.
        parts: The number of samples in each part.
    """
    value = statistic(rows).value
    groups = min(GROUPS, *parts)
    if groups < 2:
        return value
    kept = intervals.left_out_groups(parts, groups)
    left_out = statistic(rows[:, kept]).value
    return intervals.jackknife_value(value, left_out, kept.shape[1] / rows.shape[1])


def _worst_khat(
    evidence: Evidence, found: Statistic, weights: Weights
) -> tuple[float | None, str | None]:
    """k̂ of the weights and of |h·w|, whichever tail is heavier; none where both are bounded."""
    candidates = [weights.khat]
    if found.tail is not None and not (evidence.is_mixture and evidence.target_weights.bounded):
        candidates.append(pareto_khat(found.tail.log()))
    khats = [khat for khat, _ in candidates if khat is not None]
    reasons = [reason for _, reason in candidates if reason is not None]
    return max(khats, default=None), (reasons[0] if reasons and not khats else None)


def _trust(ess: float, khat: float | None) -> str | None:
    if khat is not None and khat > KHAT_LIMIT:
        return f"the weights have a heavy tail (k̂ = {khat:.2f}): draw more, or nearer, samples"
    if ess < LEAST_ESS:
        return f"only {ess:.1f} effective samples: the interval is not to be trusted"
    return None
