"""How far is a policy from a target? Importance-sampling estimates with error bars.

All estimators read one `Evidence`: the log-probabilities of a bank of samples under the proposal
q that they were drawn from, the base a and the policy π, and the target's log-potential. With
weights w = P/q and v = π/q

    Z = E_q[w],   E_p[h] = E_q[w h]/Z,   D_f(π‖p) = E_q[ integrand of p f(π/p) / q ],

where p = P/Z holds the estimated Z, whose error is carried through by the delta method: every
estimator is a value and an influence function, one number a sample. Both p and π are normalised
on the sample itself, so that an estimated divergence obeys D_f >= 0 and is 0 at π = p.

For a conditional target each context gives one value, and `averaging` makes an estimate of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from scipy.special import betaincinv, digamma, polygamma
from torch import Tensor

from attunement import intervals
from attunement.averaging import Limits, Statistic, estimate, reported, unbiased
from attunement.core import Estimate, Scores
from attunement.divergences import Divergence, reverse_kl
from attunement.evidence import BASE, Evidence, Weights, context_means


def partition(evidence: Evidence) -> Estimate:
    """Z = E_q[P/q]; for a hard constraint, the share of the base that satisfies it."""
    evidence = evidence.calibrated
    log_weights = evidence.log_weights
    if evidence.single:
        zero = log_weights == 0
        if bool((zero | torch.isneginf(log_weights)).all()):
            interval = intervals.wilson(float(zero.sum()), len(evidence))
            return reported(evidence, interval, evidence.target_weights, (None, None))

    def statistic(rows: Tensor) -> Statistic:
        weights = log_weights[rows].exp()
        value = weights.mean(-1)
        return Statistic(value, weights - value.unsqueeze(-1), None)

    return estimate(evidence, statistic, evidence.target_weights, normalised=False)


def log_partition(evidence: Evidence) -> Estimate:
    """log Z = log E_q[P/q], in nats; averaged over contexts where there are several."""
    evidence = evidence.calibrated
    statistic = partial(_log_mean, evidence.log_weights)
    return estimate(evidence, statistic, evidence.target_weights)


def log_partition_within(evidence: Evidence) -> Estimate:
    """log Z_c of one context from its weights, in nats, the O(1/M) bias removed by a jackknife.

    NaN, without an interval, where no sample is allowed.
    """
    log_weights = evidence.log_weights
    if torch.isneginf(log_weights).all():
        note = f"none of {len(evidence)} samples satisfies the constraint"
        return Estimate(math.nan, None, -math.inf, math.inf, len(evidence), 0.0, None, (note,))
    statistic = partial(_log_mean, log_weights)
    found = log_partition(evidence)
    plain = float(statistic(torch.arange(len(evidence))).value)
    shift = sum(float(unbiased(statistic, rows, parts)) for rows, parts in evidence.blocks) - plain
    ends = {name: getattr(found, name) + shift for name in ("value", "low", "high")}
    return replace(found, **ends)


def log_partition_of_draws(draws: int, accepted: int, wanted: int) -> Estimate:
    """log Z_c, in nats, from draws of the base until enough were accepted by rejection.

    With N draws for r acceptances E[digamma(r) - digamma(N)] = log Z_c, since N is negative
    binomial; the interval is Jeffreys' for such draws, the quantiles of Beta(r, N - r + 1/2). With
    fewer acceptances than wanted, r would have taken more draws than were made: digamma(r) -
    digamma(N + 1) is then never below what it would have become, an upper bound.

    Args:
        draws: N.
        accepted: Acceptances among them, the last draw being one where they are as many as wanted.
        wanted: r, at least 2.
    """
    tails = torch.tensor([0.5 - intervals.LEVEL / 2, 0.5 + intervals.LEVEL / 2]).numpy()
    if accepted >= wanted:
        value = float(digamma(wanted) - digamma(draws))
        stderr = math.sqrt(max(float(polygamma(1, wanted) - polygamma(1, draws)), 0.0))
        low, high = betaincinv(wanted, draws - wanted + 0.5, tails)
        high = 1.0 if draws == wanted else high
        low, high = min(math.log(low), value), max(math.log(high), value)
        return Estimate(value, stderr, low, high, draws, float(draws))
    value = float(digamma(wanted) - digamma(draws + 1))
    low, high = betaincinv(accepted + 0.5, draws - accepted + 0.5, tails)
    low = math.log(low) if accepted > 0 else -math.inf
    note = f"an upper bound: {accepted} of {draws} draws were accepted, {wanted} were wanted"
    return Estimate(
        value, None, low, max(math.log(high), value), draws, float(draws), warnings=(note,)
    )


def log_partition_of_contexts(each: Sequence[Estimate]) -> Estimate:
    """The mean of log Z_c over contexts, each from `log_partition_of_draws`; n is the contexts.

    An upper bound, with an interval that is open below, where one of them is.
    """
    values = torch.tensor([found.value for found in each], dtype=torch.float64)
    found = Estimate(*intervals.mean_interval(values), n=len(each), ess=float(len(each)))
    bounds = sum(bool(one.warnings) for one in each)
    if bounds == 0:
        return found
    note = (
        f"{bounds} of {len(each)} contexts had too few acceptances within the budget: log Z is at "
        "most this, and the distance -log Z of the base at least"
    )
    return replace(found, low=-math.inf, warnings=(note,))


def divergence(evidence: Evidence, row: Divergence) -> Estimate:
    """D_f(π‖p) for a row of the table; infinite where the policy has mass that can't be allowed."""
    outside = torch.isneginf(evidence.log_potential) & ~torch.isneginf(evidence.log_policy)
    if not row.allows_forbidden and bool(outside.any()):
        reason = f"{row.name} is infinite: the policy can produce what the target forbids"
        count = len(evidence)
        return Estimate(math.inf, None, math.inf, math.inf, count, count, warnings=(reason,))
    evidence = evidence.calibrated
    found = estimate(
        evidence,
        lambda rows: _divergence(evidence.log_ratios[rows], evidence.log_weights[rows], row),
        evidence.target_weights,
        limits=Limits(lambda draws: row.least(intervals.unseen_rate(draws)), row.most),
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
    found = estimate(
        evidence,
        lambda rows: _divergence(log_ratios[rows], evidence.log_weights[rows], reverse_kl),
        evidence.target_weights,
        limits=Limits(lambda _: 0.0, math.inf),
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


def applicable_means(
    scores: Mapping[str, Scores], rows: Tensor, context: Tensor
) -> dict[str, Estimate]:
    """The mean of each feature over the samples that it applies to; absent where there are none.

    Args:
        scores: Feature to its scores of N samples.
        rows: [N] bool, the samples to average over.
        context: [N] int64.
    """
    means = {}
    for name, column in scores.items():
        chosen = rows & column.applicable
        if bool(chosen.any()):
            means[name] = sample_mean(column.values[chosen], context[chosen])
    return means


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


def _log_mean(log_weights: Tensor, rows: Tensor) -> Statistic:
    """log of the mean weight of some rows."""
    normalised, value = _normalised(log_weights[rows])
    return Statistic(value, normalised.exp() - 1, None)


def _weighted_mean(evidence: Evidence, feature: Tensor, weights: Weights) -> Estimate:
    def statistic(rows: Tensor) -> Statistic:
        normalised = _normalised(weights.log[rows])[0].exp()
        values = feature[rows]
        value = (normalised * values).mean(-1)
        influence = normalised * (values - value.unsqueeze(-1))
        return Statistic(value, influence, influence.abs())

    found = estimate(evidence, statistic, weights)
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
