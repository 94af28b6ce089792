"""What you want, as an energy-based model: base × factors.

    log P(x|c) = log a(x|c) + Σ_i factor_i(x, c)

- `constrain(b)`: 0 where b = 1, minus infinity elsewhere, or log(floor) if a floor is given
  (Khalifa et al. 2021, arXiv 2012.11635; Korbak et al. 2021, arXiv 2106.04985).
- `match({φ: μ})`: λ·φ with λ such that E_p[φ] = μ: the distribution nearest to the base, in
  KL(p‖a), that has these moments (arXiv 2012.11635). `fit` solves for all λ at once on the
  complete composition, so the order of composition doesn't matter.
- `tilt(r, beta)`: r/β, the posterior with prior a and evidence exp(r/β), which is the optimum of
  KL-regularised RL (arXiv 2205.11275).

A target is a description: immutable, and nothing is drawn before `fit` or a sampler is called.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from attunement.core import (
    AttunementError,
    Context,
    Distribution,
    Estimate,
    Samples,
    Scorer,
    Scores,
    as_contexts,
)
from attunement.estimators import moment_where
from attunement.evidence import BASE, Evidence, effective_sample_size, pareto_khat
from attunement.scorers import as_scorer, evaluate, require_applicable
from attunement.scorers.base import describe

Feature: TypeAlias = str | Scorer | Callable[..., object]
"""A scorer or its SPEC, a plain function of texts, or a reward function in TRL's form."""


@dataclass(frozen=True)
class Constraint:
    """log-potential 0 where the scorer says 1, and log(floor) or minus infinity where it says 0."""

    scorer: Scorer
    floor: float | None = None

    def log_potential(self, scores: Scores, samples: Samples) -> Tensor:
        """[N] float64.

        Raises:
            AttunementError: The scorer says something else than 0 or 1.
        """
        values = scores.values
        strange = ((values != 0) & (values != 1) & scores.applicable).nonzero()
        if len(strange):
            at = int(strange[0])
            raise AttunementError(
                f"a constraint must be 0 or 1, but {self.scorer.name} is {float(values[at]):g} "
                f"for {describe(samples, at)}; use match or tilt for other numbers"
            )
        lowest = -math.inf if self.floor is None else math.log(self.floor)
        return torch.where((values == 1) | ~scores.applicable, 0.0, lowest).double()

    def describe(self) -> dict[str, object]:
        """For recipe and report."""
        return {"kind": "constrain", "scorer": self.scorer.name, "floor": self.floor}


@dataclass(frozen=True)
class Moment:
    """log-potential λ·φ; λ is None until the target is fitted."""

    scorer: Scorer
    mean: float
    lambda_: float | None = None

    def feature(self, scores: Scores) -> Tensor:
        """[N] float64: φ, and the mean that it shall have where it doesn't apply.

        So the factor is λ·(φ - μ), 0 where φ doesn't apply, times a constant; and E_p[φ] = μ is
        asked of the samples that φ applies to, at the least KL(p‖a).
        """
        return scores.values.masked_fill(~scores.applicable, self.mean)

    def log_potential(self, scores: Scores, samples: Samples) -> Tensor:  # noqa: ARG002
        """[N] float64.

        Raises:
            AttunementError: The target isn't fitted.
        """
        if self.lambda_ is None:
            raise AttunementError(
                f"the target matches {self.scorer.name} = {self.mean:g} but isn't fitted: "
                "call target.fit(generator=...) first and use what it returns"
            )
        return self.lambda_ * self.feature(scores)

    def describe(self) -> dict[str, object]:
        """For recipe and report."""
        name = self.scorer.name
        return {"kind": "match", "scorer": name, "mean": self.mean, "lambda": self.lambda_}


@dataclass(frozen=True)
class Tilt:
    """log-potential weight·r/β."""

    scorer: Scorer
    beta: float
    weight: float = 1.0

    def log_potential(self, scores: Scores, samples: Samples) -> Tensor:  # noqa: ARG002
        """[N] float64."""
        return self.weight * scores.values / self.beta

    def describe(self) -> dict[str, object]:
        """For recipe and report."""
        name = self.scorer.name
        return {"kind": "tilt", "scorer": name, "beta": self.beta, "weight": self.weight}


Factor: TypeAlias = Constraint | Moment | Tilt


@dataclass(frozen=True)
class Target:
    """Base × factors. Every method returns a new target.

    Attributes:
        base: The pretrained model.
        factors: What multiplies it.
        moments_: After `fit`: the reached moments by scorer name, estimated on fresh samples.
        ess_: After `fit`: effective sample size of the weights that λ was solved on.
        khat_: After `fit`: their Pareto k̂; None where they are bounded or too few.
    """

    base: Distribution
    factors: tuple[Factor, ...] = ()
    moments_: Mapping[str, Estimate] = field(default_factory=dict)
    ess_: float | None = None
    khat_: float | None = None

    def constrain(self, feature: Feature, floor: float | None = None) -> Target:
        """Demand that a binary feature be 1.

        Args:
            feature: A scorer, its SPEC or a function, with values 0 and 1.
            floor: None for a hard constraint, else the factor of what violates it, in (0, 1); it
                is part of the target and all distances are to that target.

        Raises:
            AttunementError: The floor isn't in (0, 1).
        """
        if floor is not None and not 0 < floor < 1:
            raise AttunementError(f"a floor lies between 0 and 1, not at {floor}; None is hard")
        return self._with(Constraint(as_scorer(feature), floor))

    def match(self, moments: Mapping[Feature, float]) -> Target:
        """Demand means of features, averaged over contexts; needs `fit`.

        Args:
            moments: Feature to the mean that it shall have under the target.

        The mean is over the samples that the feature applies to; the others it leaves as they are.

        Raises:
            AttunementError: No moment is given, a mean isn't finite, or a feature is matched twice.
        """
        if not moments:
            raise AttunementError("match needs at least one feature with the mean it shall have")
        added = tuple(Moment(as_scorer(scorer), float(mean)) for scorer, mean in moments.items())
        for moment in added:
            if not math.isfinite(moment.mean):
                raise AttunementError(f"the mean of {moment.scorer.name} must be a finite number")
        return self._with(*added)

    def tilt(self, reward: Feature, beta: float, weight: float = 1.0) -> Target:
        """Weigh by exp(weight·reward/β).

        Args:
            reward: A scorer, its SPEC or a reward function.
            beta: The temperature, or strength of the KL penalty; above 0.
            weight: What the reward is multiplied by; negative for a cost.

        Raises:
            AttunementError: β isn't above 0, or the weight isn't finite.
        """
        if not (math.isfinite(beta) and beta > 0):
            raise AttunementError(f"beta must be above 0, not {beta}")
        if not math.isfinite(weight):
            raise AttunementError(f"the weight of a tilt must be a finite number, not {weight}")
        return self._with(Tilt(as_scorer(reward), beta, weight))

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """The distinct scorers of all factors, in order."""
        return tuple(dict.fromkeys(factor.scorer for factor in self.factors))

    @property
    def lambdas_(self) -> dict[str, float]:
        """After `fit`: λ by scorer name."""
        return {
            factor.scorer.name: factor.lambda_
            for factor in self.factors
            if isinstance(factor, Moment) and factor.lambda_ is not None
        }

    @property
    def is_fitted(self) -> bool:
        """Whether every λ is known; true where nothing is matched."""
        return all(f.lambda_ is not None for f in self.factors if isinstance(f, Moment))

    @property
    def has_forbidden(self) -> bool:
        """Whether a hard constraint forbids some outcomes."""
        return any(isinstance(f, Constraint) and f.floor is None for f in self.factors)

    @property
    def is_dominated(self) -> bool:
        """Whether P <= a everywhere, so that rejection from the base is exact."""
        return all(isinstance(factor, Constraint) for factor in self.factors)

    def features(self, samples: Samples) -> dict[str, Scores]:
        """What every scorer of the target says of the samples, by name; each is called once."""
        return {scorer.name: evaluate(scorer, samples) for scorer in self.scorers}

    def log_potential(
        self, samples: Samples, features: Mapping[str, Scores] | None = None
    ) -> Tensor:
        """Σ_i factor_i.

        Args:
            samples: N samples.
            features: What `features(samples)` returned, to spare calling the scorers again.

        Returns:
            [N] float64 in nats; minus infinity where a hard constraint is violated.
        """
        scores = self.features(samples) if features is None else features
        total = torch.zeros(len(samples), dtype=torch.float64)
        for factor in self.factors:
            total = total + factor.log_potential(scores[factor.scorer.name], samples)
        return total

    def describe(self) -> list[dict[str, object]]:
        """The factors as rows of JSON, for recipe and report."""
        return [factor.describe() for factor in self.factors]

    def fit(
        self,
        contexts: Sequence[Context | str] | None = None,
        *,
        n: int = 8192,
        generator: torch.Generator,
    ) -> Target:
        """Solve for all λ at once and report what is reached.

        Newton's method on the convex dual Σ_c log E_{a·rest}[exp(λ·φ)]/C - λ·μ, on n base samples
        a context; the reached moments are estimated on n fresh ones. Contexts in which no sample
        satisfies the constraints are left out.

        Args:
            contexts: The contexts over which moments are averaged.
            n: Base samples for each context.
            generator: Where the samples come from.

        Returns:
            The fitted target; itself where nothing is matched.

        Raises:
            AttunementError: A mean can't be reached; the message says which and what can.
        """
        moments = [factor for factor in self.factors if isinstance(factor, Moment)]
        if not moments:
            return self
        contexts = as_contexts(contexts)
        means = torch.tensor([moment.mean for moment in moments], dtype=torch.float64)
        names = [moment.scorer.name for moment in moments]
        bank = _bank(self, contexts, n, generator)
        _require_reachable(names, means, bank)
        lambdas = solve_dual(bank.features, bank.log_rest, bank.context, means)
        fresh = _bank(self, contexts, n, generator)
        evidence = fresh.evidence(lambdas)
        columns = zip(names, fresh.features.T, fresh.applicable.T, strict=True)
        reached = {name: moment_where(evidence, *column) for name, *column in columns}
        fitted = self.with_lambdas(dict(zip(names, lambdas.tolist(), strict=True)))
        ess, khat = _worth(bank.log_rest + bank.features @ lambdas, bank.context)
        return replace(fitted, moments_=reached, ess_=ess, khat_=khat)

    def with_lambdas(self, lambdas: Mapping[str, float]) -> Target:
        """The same target with λ known from an earlier fit, by scorer name.

        Raises:
            AttunementError: A matched feature has no λ.
        """
        missing = [
            f.scorer.name
            for f in self.factors
            if isinstance(f, Moment) and f.scorer.name not in lambdas
        ]
        if missing:
            raise AttunementError(f"there is no λ for {', '.join(missing)}")
        factors = tuple(
            replace(f, lambda_=lambdas[f.scorer.name]) if isinstance(f, Moment) else f
            for f in self.factors
        )
        return Target(self.base, factors)

    def _with(self, *added: Factor) -> Target:
        unfitted = tuple(
            replace(f, lambda_=None) if isinstance(f, Moment) else f for f in self.factors
        )
        target = Target(self.base, (*unfitted, *added))
        if twice := _repeated([scorer.name for scorer in target.scorers]):
            raise AttunementError(
                f"two different scorers are called {twice}: name one otherwise, with "
                "as_scorer(function, name=...)"
            )
        if twice := _repeated([f.scorer.name for f in target.factors if isinstance(f, Moment)]):
            raise AttunementError(f"{twice} is matched twice: a feature has one mean")
        return target


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def solve_dual(
    features: Tensor, log_weights: Tensor, context: Tensor, means: Tensor, tolerance: float = 1e-9
) -> Tensor:
    """λ with mean_c E_{p_c}[φ] = μ, p_c ∝ exp(log_weights + λ·φ) over the samples of context c.

    Newton's method with halved steps on the dual, which is convex.

    Args:
        features: [N, K] float64.
        log_weights: [N] float64, of everything but the moments; minus infinity is forbidden.
        context: [N] int64; contexts in which everything is forbidden are left out.
        means: [K] float64.
        tolerance: Largest difference of a moment, in units of the feature's spread.

    Returns:
        [K] float64.

    Raises:
        AttunementError: It doesn't converge.
    """
    allowed = torch.isfinite(log_weights)
    groups = [
        (features[rows], log_weights[rows])
        for index in context[allowed].unique()
        for rows in [allowed & (context == index)]
    ]
    scale = features[allowed].std(0, correction=0).clamp(min=1e-12)
    lambdas = torch.zeros_like(means)
    for _ in range(100):
        here, gradient, hessian = _dual(groups, means, lambdas)
        if bool((gradient.abs() <= tolerance * scale).all()):
            return lambdas
        ridge = 1e-12 * hessian.diagonal().max().clamp(min=1e-12) * torch.eye(len(means))
        step = torch.linalg.solve(hessian + ridge, gradient)
        slope, size = float(step @ gradient), 1.0
        rounding = 1e-14 * max(1.0, abs(here))
        while size > 1e-8:
            if (
                _dual(groups, means, lambdas - size * step)[0]
                <= here - 1e-4 * size * slope + rounding
            ):
                break
            size /= 2
        lambdas = lambdas - size * step
    raise AttunementError(
        "the moments could not be matched: they lie at or beyond the edge of what the samples "
        "reach together; ask for less extreme means or fit with more samples"
    )


def _dual(
    groups: Sequence[tuple[Tensor, Tensor]], means: Tensor, lambdas: Tensor
) -> tuple[float, Tensor, Tensor]:
    """The dual mean_c log Σ exp(log_weights + λ·φ) - λ·μ, its gradient and its Hessian.

    Args:
        groups: Features [M, K] and log-weights [M] of each context.
        means: [K] μ.
        lambdas: [K] λ.
    """
    value, gradient, hessian = (
        -lambdas @ means,
        -means,
        torch.zeros(len(means), len(means)).double(),
    )
    for features, log_weights in groups:
        exponents = log_weights + features @ lambdas
        weights = exponents.softmax(0)
        centre = weights @ features
        centred = features - centre
        value = value + torch.logsumexp(exponents, 0) / len(groups)
        gradient = gradient + centre / len(groups)
        hessian = hessian + (centred.T * weights) @ centred / len(groups)
    return float(value), gradient, hessian


class _Bank(NamedTuple):
    """Base samples, as far as fitting needs them.

    Attributes:
        features: [N, K] the matched features, as their factors read them.
        applicable: [N, K] bool, where they apply.
        log_rest: [N] log-potential of all other factors.
        context: [N] int64.
        log_base: [N] log a.
    """

    features: Tensor
    applicable: Tensor
    log_rest: Tensor
    context: Tensor
    log_base: Tensor

    def evidence(self, lambdas: Tensor) -> Evidence:
        """What the bank says of the target with these λ."""
        return Evidence(
            log_proposal=self.log_base,
            log_base=self.log_base,
            log_policy=self.log_base,
            log_potential=self.log_rest + self.features @ lambdas,
            part=torch.full_like(self.context, BASE),
            context=self.context,
        )


def _bank(target: Target, contexts: Sequence[Context], n: int, generator: torch.Generator) -> _Bank:
    samples = target.base.sample(contexts, n, generator=generator)
    scores = target.features(samples)
    require_applicable(scores)
    moments = [factor for factor in target.factors if isinstance(factor, Moment)]
    rest = replace(target, factors=tuple(f for f in target.factors if f not in moments))
    log_rest = rest.log_potential(samples, scores)
    if torch.isneginf(log_rest).all():
        raise AttunementError(
            f"none of {len(samples)} base samples satisfies the hard constraint, so no moment "
            "can be matched: loosen it or give it a floor"
        )
    columns = [scores[moment.scorer.name] for moment in moments]
    pairs = zip(moments, columns, strict=True)
    features = torch.stack([moment.feature(column) for moment, column in pairs], 1)
    applicable = torch.stack([column.applicable for column in columns], 1)
    return _Bank(features, applicable, log_rest, samples.context_index, samples.log_prob)


def _worth(log_weights: Tensor, context: Tensor) -> tuple[float, float | None]:
    """Effective sample size and Pareto k̂ of weights that are normalised in each context."""
    groups = [log_weights[context == index] for index in context.unique()]
    groups = [group for group in groups if bool(torch.isfinite(group).any())]
    khat, _ = pareto_khat(torch.cat([group.log_softmax(0) for group in groups]))
    return sum(effective_sample_size(group) for group in groups), khat


def _require_reachable(names: Sequence[str], means: Tensor, bank: _Bank) -> None:
    """The means must lie in the interior of the convex hull of the features seen."""
    allowed = torch.isfinite(bank.log_rest)
    features, context = bank.features[allowed], bank.context[allowed]
    seen = f"in {len(features)} samples that satisfy the other factors"
    groups = [features[context == index] for index in context.unique()]
    lowest = torch.stack([group.min(0).values for group in groups]).mean(0)
    highest = torch.stack([group.max(0).values for group in groups]).mean(0)
    reach = zip(names, means.tolist(), lowest.tolist(), highest.tolist(), strict=True)
    for name, mean, low, high in reach:
        if low == high:
            raise AttunementError(
                f"{name} = {mean:g} can't be matched: it is always {low:g} {seen}, "
                "as when a constraint fixes it or the base never produces anything else"
            )
        if mean in (0.0, 1.0) and (low, high) == (0.0, 1.0):
            raise AttunementError(
                f"{name} = {mean:g} is a constraint, not a proportion: use constrain instead"
            )
        if not low < mean < high:
            raise AttunementError(
                f"{name} = {mean:g} can't be reached: it lies between {low:g} and {high:g} {seen}"
            )
    if _separable(features - means):
        listed = ", ".join(f"{n} = {m:g}" for n, m in zip(names, means.tolist(), strict=True))
        raise AttunementError(
            f"{listed} can't be reached together {seen}: the features don't combine that way"
        )


def _separable(centred: Tensor) -> bool:
    """Whether a plane through 0 has all rows [N, K] on one side of it: a linear program."""
    rows = np.unique(centred.numpy(), axis=0)
    rows = rows / np.abs(rows).max(0)
    plane = linprog(-rows.sum(0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1))
    return plane.status == 0 and -plane.fun > 1e-7
