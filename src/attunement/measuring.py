"""Measure a policy against a target: every distance with its interval, from fresh samples.

Half of the samples come from the base and half from the policy, and both are weighed by the
mixture, because samples of the policy alone can't show what the policy has lost (see
`estimators`). What is measured is the same for a policy that this project tuned and for any other
distribution on the same outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from attunement import estimators
from attunement.conditional import ContextRow, context_rows
from attunement.contributions import Contribution, contributions
from attunement.core import (
    Context,
    Distribution,
    Estimate,
    Samples,
    Scorer,
    Scores,
    as_contexts,
    require_same_outcomes,
)
from attunement.divergences import forward_kl, jensen_shannon, reverse_kl, total_variation
from attunement.evidence import BASE, POLICY, Evidence, pareto_khat
from attunement.information import MINIMUM_SETS, distinct_n, self_bleu, set_statistic
from attunement.scorers import evaluate, require_applicable
from attunement.targets import Target

SET_SIZE = 50
"""Completions in each set over which distinct-n and self-BLEU are taken."""
LEAST_PER_CONTEXT = 64
"""Samples of each context that a conditional measurement draws at least."""


class MeasuredOn(StrEnum):
    """Which contexts a figure of a run is averaged over."""

    EMPTY = "the empty context"
    TUNING = "the contexts of tuning"
    HELD_OUT = "held-out contexts"
    GIVEN = "the contexts given"


@dataclass(frozen=True)
class Measurement:
    """What a policy is, beside its base and its target.

    Attributes:
        n: Samples drawn, half from the base and half from the policy.
        base: Mean of each feature under the base, over the samples that it applies to.
        policy: The same under the policy.
        target: The same under the target, by importance weights.
        divergences: `forward_kl`, `reverse_kl`, `jensen_shannon`, `total_variation`,
            `kl_policy_base` and `reverse_kl_allowed`, in nats (total variation has no unit).
        log_z: log Z, in nats, averaged over contexts; -log Z is KL(p‖a) for a hard constraint.
        forbidden: The share of the policy's samples that the target forbids.
        diversity: distinct-1, distinct-2, self-BLEU and length of `base`, `policy` and, where
            exact samples come for free, `target`.
        log_ratios: [K] log p/π of the policy's samples that the target allows.
        warnings: What to know before trusting a figure.
        factors: What each factor of the target does by itself.
        contexts: A row for each context; none where there is only one.
    """

    n: int
    base: Mapping[str, Estimate]
    policy: Mapping[str, Estimate]
    target: Mapping[str, Estimate]
    divergences: Mapping[str, Estimate]
    log_z: Estimate
    forbidden: Estimate
    diversity: Mapping[str, Mapping[str, Estimate]]
    log_ratios: Tensor
    warnings: tuple[str, ...]
    factors: tuple[Contribution, ...] = ()
    contexts: tuple[ContextRow, ...] = ()

    def to_json(self, run: str) -> dict[str, object]:
        """What `attune measure --json` prints."""
        return {
            "run": run,
            "n": self.n,
            "base": _rows(self.base),
            "policy": _rows(self.policy),
            "target": _rows(self.target),
            "divergences": _rows(self.divergences),
            "log_z": self.log_z.to_json(),
            "forbidden": self.forbidden.to_json(),
            "diversity": {name: _rows(table) for name, table in self.diversity.items()},
            "factors": [contribution.to_json() for contribution in self.factors],
            "warnings": list(self.warnings),
            "contexts": [row.to_json() for row in self.contexts],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; the log-ratios aren't part of it."""
        return cls(
            n=content["n"],
            base=_estimates(content["base"]),
            policy=_estimates(content["policy"]),
            target=_estimates(content["target"]),
            divergences=_estimates(content["divergences"]),
            log_z=Estimate.from_json(content["log_z"]),
            forbidden=Estimate.from_json(content["forbidden"]),
            diversity={name: _estimates(table) for name, table in content["diversity"].items()},
            log_ratios=torch.empty(0, dtype=torch.float64),
            warnings=tuple(content["warnings"]),
            factors=tuple(Contribution.from_json(row) for row in content["factors"]),
            contexts=tuple(ContextRow.from_json(row) for row in content["contexts"]),
        )

    def log_weights_json(self) -> dict[str, object]:
        """log p/π on up to 2,000 allowed samples of the policy, with the k̂ of their tail."""
        khat, _ = pareto_khat(self.log_ratios)
        return {"values": self.log_ratios[:2000].tolist(), "khat": khat}


def measure(
    target: Target,
    policy: Distribution,
    contexts: Sequence[Context | str] | None = None,
    *,
    n: int = 4096,
    features: Sequence[Scorer] = (),
    generator: torch.Generator,
) -> Measurement:
    """Estimate where a policy stands.

    Args:
        target: A fitted target.
        policy: Any distribution on the base's outcomes.
        contexts: The contexts to average over.
        n: Samples in all; each context gets at least 64.
        features: Scorers to report beside those of the target.
        generator: Randomness.

    Raises:
        AttunementError: The outcomes differ, no sample satisfies the constraint, or a scorer of
            the target applies to none.
    """
    require_same_outcomes(target.base, policy)
    contexts = as_contexts(contexts)
    each = max(n // len(contexts), LEAST_PER_CONTEXT if len(contexts) > 1 else 4) // 2
    base_samples = target.base.sample(contexts, each, generator=generator)
    policy_samples = policy.sample(contexts, each, generator=generator)
    samples = Samples.concatenate([base_samples, policy_samples])
    scores = target.features(samples)
    require_applicable(scores)
    evidence = gather(target, policy, base_samples, policy_samples, scores)
    does = contributions(target.factors, samples, scores, evidence)
    scores |= {s.name: evaluate(s, samples) for s in features if s.name not in scores}
    groups = {"base": base_samples, "policy": policy_samples}
    if target.factors and target.is_dominated:
        exact = evidence.log_potential[evidence.part == BASE]
        uniforms = torch.rand(len(base_samples), generator=generator, dtype=torch.float64)
        groups["target"] = base_samples[uniforms.log() < exact]
    diversity = {name: _diversity(group) for name, group in groups.items() if len(group) > 0}
    rows = ()
    if len(contexts) > 1:
        rows = context_rows(target, contexts, evidence, scores, generator)
    return replace(_summary(evidence, scores, diversity, rows), factors=does)


def _summary(
    evidence: Evidence,
    scores: Mapping[str, Scores],
    diversity: Mapping[str, Mapping[str, Estimate]],
    rows: tuple[ContextRow, ...],
) -> Measurement:
    divergences = {
        row.name: estimators.divergence(evidence, row)
        for row in (forward_kl, reverse_kl, jensen_shannon, total_variation)
    }
    divergences["kl_policy_base"] = estimators.kl_policy_base(evidence)
    divergences["reverse_kl_allowed"] = estimators.reverse_kl_allowed(evidence)
    in_base, in_policy = evidence.part == BASE, evidence.part == POLICY
    forbidden = torch.isneginf(evidence.log_potential[in_policy])
    if rows and rows[0].accepted is not None:
        log_z = estimators.log_partition_of_contexts([row.log_z for row in rows])
    else:
        log_z = estimators.log_partition(evidence)
    return Measurement(
        n=len(evidence),
        base=estimators.applicable_means(scores, in_base, evidence.context),
        policy=estimators.applicable_means(scores, in_policy, evidence.context),
        target=_target_means(scores, evidence),
        divergences=divergences,
        log_z=log_z,
        forbidden=estimators.sample_mean(forbidden.double(), evidence.context[in_policy]),
        diversity=diversity,
        log_ratios=_policy_log_ratios(evidence),
        warnings=_warnings({**divergences, "log_z": log_z}, scores),
        contexts=rows,
    )


def gather(
    target: Target,
    policy: Distribution,
    base_samples: Samples,
    policy_samples: Samples | None = None,
    features: Mapping[str, Scores] | None = None,
) -> Evidence:
    """Score samples of the base, and of the policy if there are any, by both.

    The distribution that drew a sample has recorded its log-probability and isn't asked again; a
    policy that is the base itself isn't asked at all.

    Args:
        target: A fitted target.
        policy: The policy.
        base_samples: Drawn from the base.
        policy_samples: Drawn from the policy, from the same contexts.
        features: The target's features of base and policy samples together, if known.

    Returns:
        Evidence whose proposal is the base, or the mixture of both.
    """
    parts = [base_samples] if policy_samples is None else [base_samples, policy_samples]
    samples = Samples.concatenate(parts)
    part = torch.full((len(samples),), POLICY)
    part[: len(base_samples)] = BASE
    if policy is target.base:
        log_base = log_policy = samples.log_prob
    else:
        with torch.no_grad():
            elsewhere = [target.base.log_prob(drawn) for drawn in parts[1:]]
            log_base = torch.cat([base_samples.log_prob, *elsewhere])
            recorded = [drawn.log_prob for drawn in parts[1:]]
            log_policy = torch.cat([policy.log_prob(base_samples), *recorded])
    potential = target.log_potential(samples, features)
    return Evidence.of_mixture(log_base, log_policy, potential, part, samples.context_index)


def _policy_log_ratios(evidence: Evidence) -> Tensor:
    """[K] log p/π of the policy's samples that the target allows, each with its context's Z."""
    log_score = evidence.log_base + evidence.log_potential
    rows = (evidence.part == POLICY) & torch.isfinite(log_score)
    log_z = torch.zeros_like(log_score)
    for index in evidence.context.unique():
        inside = evidence.context == index
        total = torch.logsumexp(evidence.log_weights[inside], 0)
        log_z[inside] = total - math.log(int(inside.sum()))
    return (log_score - evidence.log_policy - log_z)[rows]


def _target_means(scores: Mapping[str, Scores], evidence: Evidence) -> dict[str, Estimate]:
    """Means under p(·|the feature applies)."""
    allowed = torch.isfinite(evidence.log_weights)
    return {
        name: estimators.moment_where(evidence, column.values, column.applicable)
        for name, column in scores.items()
        if bool((allowed & column.applicable).any())
    }


def _diversity(samples: Samples) -> dict[str, Estimate]:
    table = {"length": estimators.sample_mean(samples.lengths.double(), samples.context_index)}
    if len(samples) >= MINIMUM_SETS * SET_SIZE and len(samples.contexts) == 1:
        rows = samples.token_lists
        table["distinct_1"] = set_statistic(partial(distinct_n, n=1), rows, SET_SIZE)
        table["distinct_2"] = set_statistic(partial(distinct_n, n=2), rows, SET_SIZE)
        table["self_bleu"] = set_statistic(self_bleu, rows, SET_SIZE)
    return table


def _warnings(estimates: Mapping[str, Estimate], scores: Mapping[str, Scores]) -> tuple[str, ...]:
    found = [f"{name}: {text}" for name, e in estimates.items() for text in e.warnings]
    return tuple(dict.fromkeys([*found, *not_applicable(scores)]))


def not_applicable(scores: Mapping[str, Scores]) -> list[str]:
    """For each feature that doesn't apply to some of the samples, to how many."""
    missing = {name: int((~column.applicable).sum()) for name, column in scores.items()}
    return [
        f"{name}: not applicable to {count} of {len(scores[name].values)} samples"
        for name, count in missing.items()
        if count
    ]


def _rows(table: Mapping[str, Estimate]) -> dict[str, object]:
    return {name: estimate.to_json() for name, estimate in table.items()}


def _estimates(table: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate.from_json(row) for name, row in table.items()}
