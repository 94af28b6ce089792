"""What each factor of a target does by itself: its mean in nats, and the share that it forbids.

The log-potential of a composed target is a sum, and so are its means: E[Σ_i factor_i] is the sum
of the E[factor_i], under base, policy and target alike. Under the target they add up to
KL(p‖a) + log Z, which says what each wish costs. A hard constraint contributes 0 to the target and
minus infinity to anything that can violate it; there its own share of what is forbidden counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from attunement.core import Estimate, Samples, Scores
from attunement.estimators import moment_target, sample_mean
from attunement.evidence import BASE, POLICY, Evidence
from attunement.factors import Constraint, Factor, Moment, Tilt, is_hard

_SIDES = ("base", "policy", "target", "forbids_base", "forbids_policy")


@dataclass(frozen=True)
class Contribution:
    """What one factor does.

    Attributes:
        factor: How the factor describes itself: its kind, its scorer and its parameters.
        base: E[log factor] under the base, in nats.
        policy: The same under the policy.
        target: The same under the target.
        forbids_base: The share of the base's samples that this factor alone forbids; None for a
            factor that forbids nothing.
        forbids_policy: The same of the policy's.
    """

    factor: Mapping[str, object]
    base: Estimate
    policy: Estimate
    target: Estimate
    forbids_base: Estimate | None = None
    forbids_policy: Estimate | None = None

    def to_json(self) -> dict[str, object]:
        """For `measurement.json` and `attune measure --json`."""
        found = {side: getattr(self, side) for side in _SIDES}
        return dict(self.factor) | {k: None if e is None else e.to_json() for k, e in found.items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        factor = {key: value for key, value in row.items() if key not in _SIDES}
        found = {s: None if row[s] is None else Estimate.from_json(row[s]) for s in _SIDES}
        return cls(factor, **found)  # pyright: ignore[reportArgumentType]


def contributions(
    factors: Sequence[Factor], samples: Samples, scores: Mapping[str, Scores], evidence: Evidence
) -> tuple[Contribution, ...]:
    """What each factor does, on samples of which a part is the base's and a part the policy's.

    Args:
        factors: The factors of a fitted target.
        samples: N samples.
        scores: What each factor's scorer says of them, by name.
        evidence: What is known of the same N samples.
    """
    return tuple(
        _of_hard(factor, scores[factor.scorer.name], samples, evidence)
        if isinstance(factor, Constraint) and is_hard(factor)
        else _of_soft(factor, scores[factor.scorer.name], samples, evidence)
        for factor in factors
    )


def _of_soft(factor: Factor, scores: Scores, samples: Samples, evidence: Evidence) -> Contribution:
    feature, slope = _feature(factor, scores, samples)
    return Contribution(
        factor=factor.describe(),
        base=_scaled(_mean(feature, evidence, BASE), slope),
        policy=_scaled(_mean(feature, evidence, POLICY), slope),
        target=_scaled(moment_target(evidence, feature), slope),
    )


def _feature(factor: Factor, scores: Scores, samples: Samples) -> tuple[Tensor, float]:
    """[N] a feature and what the factor gains with each unit of it, where one number says that."""
    if isinstance(factor, Constraint) and factor.floor is not None:
        return (~factor.satisfied(scores, samples)).double(), math.log(factor.floor)
    if isinstance(factor, Moment) and factor.lambda_ is not None:
        return factor.feature(scores), factor.lambda_
    if isinstance(factor, Tilt):
        return scores.values, factor.weight / factor.beta
    return factor.log_potential(scores, samples), 1.0


def _of_hard(
    factor: Constraint, scores: Scores, samples: Samples, evidence: Evidence
) -> Contribution:
    violated = (~factor.satisfied(scores, samples)).double()
    base, policy = (_mean(violated, evidence, part) for part in (BASE, POLICY))
    count = len(evidence)
    return Contribution(
        factor=factor.describe(),
        base=_log_of_hard(base),
        policy=_log_of_hard(policy),
        target=Estimate(0.0, 0.0, 0.0, 0.0, count, evidence.target_weights.ess),
        forbids_base=base,
        forbids_policy=policy,
    )


def _mean(feature: Tensor, evidence: Evidence, part: int) -> Estimate:
    rows = evidence.part == part
    return sample_mean(feature[rows], evidence.context[rows])


def _log_of_hard(violated: Estimate) -> Estimate:
    """The mean of a hard constraint's log-potential: minus infinity where anything violates it."""
    value = -math.inf if violated.value > 0 else 0.0
    return Estimate(value, None, -math.inf, value, violated.n, violated.ess)


def _scaled(found: Estimate, slope: float) -> Estimate:
    """slope · estimate, whose interval turns round where the slope is below 0."""
    low, high = sorted((slope * found.low, slope * found.high))
    stderr = None if found.stderr is None else abs(slope) * found.stderr
    return Estimate(
        slope * found.value, stderr, low, high, found.n, found.ess, found.khat, found.warnings
    )
