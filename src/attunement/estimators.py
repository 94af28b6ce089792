"""How far is a policy from a target? Importance-sampling estimates with error bars.

All estimators read one `Evidence`: the log-probabilities of a bank of samples under the proposal
q that they were drawn from, the base a and the policy π, and the target's log-potential. With
weights w = P/q and v = π/q

    Z = E_q[w],   E_p[h] = E_q[w h]/Z,   D_f(π‖p) = E_q[ integrand of p f(π/p) / q ],

where p = P/Z holds the estimated Z, whose error is carried through by the delta method: every
estimator is a value and an influence function, one number a sample. Both p and π are normalised
on the sample itself, so that an estimated divergence obeys D_f >= 0 and is 0 at π = p.

For a conditional target the unit is the context: each context gives one value, its O(1/M) bias
removed by a jackknife within the context, and the interval comes from the spread between contexts.
A statistic is therefore a function of index tensors [..., M] and reduces the last dimension, so
that all contexts, and all of a jackknife's left-out groups, are computed at once.
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
from attunement.divergences import Divergence, reverse_kl
from attunement.evidence import BASE, KHAT_LIMIT, Evidence, Weights, context_means, pareto_khat

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


def partition(evidence: Evidence) -> Estimate:
    """Z = E_q[P/q]; for a hard constraint, the share of the base that satisfies it."""
    evidence = evidence.calibrated
    log_weights = evidence.log_weights
    if evidence.single:
        zero = log_weights == 0
        if bool((zero | torch.isneginf(log_weights)).all()):
            interval = intervals.wilson(float(zero.sum()), len(evidence))
            return _reported(evidence, interval, evidence.target_weights, (None, None))

    def statistic(rows: Tensor) -> Statistic:
        weights = log_weights[rows].exp()
        value = weights.mean(-1)
        return Statistic(value, weights - value.unsqueeze(-1), None)

    return _estimate(evidence, statistic, evidence.target_weights, normalised=False)


def log_partition(evidence: Evidence) -> Estimate:
    """log Z = log E_q[P/q], in nats; averaged over contexts where there are several."""
    evidence = evidence.calibrated

    def statistic(rows: Tensor) -> Statistic:
        normalised, value = _normalised(evidence.log_weights[rows])
        return Statistic(value, normalised.exp() - 1, None)

    return _estimate(evidence, statistic, evidence.target_weights)


def divergence(evidence: Evidence, row: Divergence) -> Estimate:
    """D_f(π‖p) for a row of the table; infinite where the policy has mass that can't be allowed."""
    outside = torch.isneginf(evidence.log_potential) & ~torch.isneginf(evidence.log_policy)
    if not row.allows_forbidden and bool(outside.any()):
        reason = f"{row.name} is infinite: the policy can produce what the target forbids"
        count = len(evidence)
        return Estimate(math.inf, None, math.inf, math.inf, count, count, warnings=(reason,))
    evidence = evidence.calibrated
    found = _estimate(
        evidence,
        lambda rows: _divergence(evidence.log_ratios[rows], evidence.log_weights[rows], row),
        evidence.target_weights,
    )
    return _of_policy(evidence, found)


def kl_policy_base(evidence: Evidence) -> Estimate:
    """KL(π‖a) in nats, self-normalised: how far the policy has moved from the base."""
    evidence = evidence.calibrated
    seen = torch.isfinite(evidence.log_ratios)
    gain = torch.where(seen, evidence.log_policy - evidence.log_base, 0.0)
    return _of_policy(evidence, _weighted_mean(evidence, gain, evidence.policy_weights))


def reverse_kl_allowed(evidence: Evidence) -> Estimate:
    """KL(π(·|P>0)‖p): the reverse KL of the policy restricted to what the target allows, nats."""
    evidence = evidence.calibrated
    allowed = torch.isfinite(evidence.log_potential)
    log_ratios = torch.where(allowed, evidence.log_ratios, -math.inf)
    found = _estimate(
        evidence,
        lambda rows: _divergence(log_ratios[rows], evidence.log_weights[rows], reverse_kl),
        evidence.target_weights,
    )
    return _of_policy(evidence, found)


def moment_target(evidence: Evidence, feature: Tensor) -> Estimate:
    """E_p[φ]: a feature's mean under the target, self-normalised.

    Args:
        evidence: N samples.
        feature: [N] float64, finite.
    """
    evidence = evidence.calibrated
    return _weighted_mean(evidence, feature, evidence.target_weights)


def moment_where(evidence: Evidence, feature: Tensor, rows: Tensor) -> Estimate:
    """E_p[φ | rows]: a feature's mean under the target restricted to where it applies.

    To restrict p is to forbid the rest.

    Args:
        evidence: N samples.
        feature: [N] float64, finite.
        rows: [N] bool, some of which the target allows.
    """
    potential = evidence.log_potential.masked_fill(~rows, -math.inf)
    return moment_target(replace(evidence, log_potential=potential), feature)


def moment_policy(evidence: Evidence, feature: Tensor) -> Estimate:
    """E_π[φ]: a feature's mean under the policy, self-normalised, from any proposal's samples."""
    evidence = evidence.calibrated
    return _of_policy(evidence, _weighted_mean(evidence, feature, evidence.policy_weights))


def sample_mean(feature: Tensor, context: Tensor | None = None) -> Estimate:
    """A feature's mean over samples drawn from the distribution itself: no weights.

    Args:
        feature: [N] float64; where all are 0 or 1 the interval is Wilson's.
        context: [N] int64, or None; with several contexts the unit is the context.
    """
    feature = feature.double()
    if context is not None:
        feature = context_means(feature, context)
    if bool(((feature == 0) | (feature == 1)).all()):
        interval = intervals.wilson(float(feature.sum()), feature.numel())
    else:
        interval = intervals.mean_interval(feature)
    return Estimate(*interval, n=feature.numel(), ess=float(feature.numel()))


def _of_policy(evidence: Evidence, found: Estimate) -> Estimate:
    """No diagnostic of the base's samples can show what the policy alone produces."""
    if evidence.parts != (BASE,):
        return found
    note = "no sample of the policy: what it produces and the base hardly ever does isn't seen"
    return replace(found, warnings=(*found.warnings, note))


def _normalised(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """[..., M] log-weights with mean weight 1, and [...] the log of the mean before."""
    value = torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1])
    return log_weights - value.unsqueeze(-1), value


def _weighted_mean(evidence: Evidence, feature: Tensor, weights: Weights) -> Estimate:
    def statistic(rows: Tensor) -> Statistic:
        normalised = _normalised(weights.log[rows])[0].exp()
        values = feature[rows]
        value = (normalised * values).mean(-1)
        influence = normalised * (values - value.unsqueeze(-1))
        return Statistic(value, influence, influence.abs())

    found = _estimate(evidence, statistic, weights)
    seen = feature[torch.isfinite(weights.log)]
    for rate in (0.0, 1.0):
        if bool((seen == rate).all()):
            return _at_boundary(found, rate, min(found.ess, found.n))
    return found


def _at_boundary(found: Estimate, rate: float, count: float) -> Estimate:
    """A rate of 0 or 1 has no spread to go by: Wilson's interval for as many effective samples."""
    interval = intervals.wilson(rate * count, count)
    return replace(found, value=rate, low=interval.low, high=interval.high)


def _divergence(log_ratios: Tensor, log_weights: Tensor, row: Divergence) -> Statistic:
    """D_f of the two normalised weights; ∂D/∂log π is π f', ∂D/∂log p is p f - π f'."""
    log_policy, log_target = _normalised(log_ratios)[0], _normalised(log_weights)[0]
    policy, target = log_policy.exp(), log_target.exp()
    values = row.integrand(log_policy, log_target)
    value = values.mean(-1)
    slopes = torch.where(policy > 0, policy * row.slope(log_policy, log_target), 0.0)
    flow = slopes.mean(-1, keepdim=True)
    surplus = flow - value.unsqueeze(-1)
    influence = values + surplus * target - flow * policy
    return Statistic(value, influence, values.abs())


def _estimate(
    evidence: Evidence, statistic: StatisticFunction, weights: Weights, *, normalised: bool = True
) -> Estimate:
    """The statistic over the whole bank: one context, or the mean over contexts.

    Args:
        evidence: The bank.
        statistic: What is estimated.
        weights: The importance weights that it rests on.
        normalised: Whether it divides by the weights' mean, and needs one that isn't zero.
    """
    if not evidence.single:
        return _over_contexts(evidence, statistic, weights, normalised)
    if normalised and torch.isneginf(weights.log).all():
        raise AttunementError(
            f"none of {len(evidence)} samples satisfies the target's constraint: "
            "loosen it, give it a floor, or draw more samples"
        )
    found = statistic(torch.arange(len(evidence)))
    influence = _controlled(evidence, found.influence)
    interval = intervals.delta_method(float(found.value), influence, evidence.part)
    return _reported(evidence, interval, weights, _worst_khat(evidence, found, weights))


def _reported(
    evidence: Evidence,
    interval: intervals.Interval,
    weights: Weights,
    khat: tuple[float | None, str | None],
) -> Estimate:
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
    evidence: Evidence, statistic: StatisticFunction, weights: Weights, normalised: bool
) -> Estimate:
    values, sizes, logs, contexts = [], [], [], 0
    for rows, parts in evidence.blocks:
        contexts += len(rows)
        log_weights = weights.log[rows]
        if normalised:
            usable = torch.isfinite(log_weights).any(1)
            rows, log_weights = rows[usable], log_weights[usable]
        if len(rows):
            values.append(_unbiased(statistic, rows, parts))
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
    if len(found) < contexts:
        notes.append(
            f"{contexts - len(found)} of {contexts} contexts had no sample that satisfies the "
            "constraint and are left out"
        )
    return _noted(interval, len(found), float(size.sum()), khat, notes)


def _unbiased(statistic: StatisticFunction, rows: Tensor, parts: tuple[int, ...]) -> Tensor:
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
