"""What you want, as an energy-based model: base × factors.

    log P(x|c) = log a(x|c) + Σ_i factor_i(x, c)

- `constrain(b)`: 0 where b = 1, minus infinity elsewhere, or log(floor) if a floor is given
  (Khalifa et al. 2021, arXiv 2012.11635; Korbak et al. 2021, arXiv 2106.04985).
- `match({φ: μ})`: λ·φ with λ such that E_p[φ] = μ on average over contexts: the distribution
  nearest to the base, in KL(p‖a), that has these moments (arXiv 2012.11635).
- `match_each({φ: μ})`: λ_c·φ with λ_c such that E_p[φ] = μ in every context.
- `tilt(r, beta)`: r/β, the posterior with prior a and evidence exp(r/β), which is the optimum of
  KL-regularised RL (arXiv 2205.11275).

A target is a description: immutable, and nothing is drawn before `fit` or a sampler is called.
`fit` solves for all λ at once on the complete composition, so that the order of composition
doesn't matter; factors that contradict each other are an error as soon as they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from attunement import fitting
from attunement.averaging import LEAST_ESS
from attunement.conflicts import require_compatible, why_nothing_is_allowed
from attunement.core import (
    AttunementError,
    Context,
    Distribution,
    Estimate,
    Samples,
    Scorer,
    Scores,
    as_contexts,
    require_proposal,
)
from attunement.evidence import KHAT_LIMIT
from attunement.factors import (
    Constraint,
    ContextLambdas,
    Factor,
    Lambda,
    Matched,
    Moment,
    MomentEach,
    Tilt,
    floored,
    is_hard,
    log_potential,
)
from attunement.scorers import as_scorer, evaluate

if TYPE_CHECKING:
    from attunement.trl_reward import TargetReward

Feature: TypeAlias = str | Scorer | Callable[..., object]
"""A scorer or its SPEC, a plain function of texts, or a reward function in TRL's form."""


@dataclass(frozen=True)
class Target:
    """Base × factors. Every method returns a new target.

    Attributes:
        base: The pretrained model.
        factors: What multiplies it.
        moments_: After `fit`: the reached moments by scorer name, averaged over contexts, estimated
            on fresh samples.
        moments_each_: After `fit`: those of `match_each` in each of the contexts.
        ess_: After `fit`: effective sample size of the weights that λ was solved on.
        khat_: After `fit`: their Pareto k̂; None where they are bounded or too few.
    """

    base: Distribution
    factors: tuple[Factor, ...] = ()
    moments_: Mapping[str, Estimate] = field(default_factory=dict)
    moments_each_: Mapping[str, tuple[Estimate, ...]] = field(default_factory=dict)
    ess_: float | None = None
    khat_: float | None = None

    def __post_init__(self) -> None:
        require_compatible(self.factors)

    def constrain(self, feature: Feature, floor: float | None = None) -> Target:
        """Demand that a binary feature be 1.

        Args:
            feature: A scorer, its SPEC or a function, with values 0 and 1.
            floor: None for a hard constraint, else the factor of what violates it, in (0, 1); it
                is part of the target and all distances are to that target.

        Raises:
            AttunementError: The floor isn't in (0, 1), or the feature is matched.
        """
        return self._with(Constraint(as_scorer(feature), floor))

    def match(self, moments: Mapping[Feature, float]) -> Target:
        """Demand means of features, averaged over contexts; needs `fit`.

        The mean is over the samples that the feature applies to; the others it leaves as they are.

        Args:
            moments: Feature to the mean that it shall have under the target.

        Raises:
            AttunementError: No moment is given, a mean isn't finite, or a feature is matched twice
                or constrained.
        """
        if not moments:
            raise AttunementError("match needs at least one feature with the mean it shall have")
        rows = moments.items()
        return self._with(*(Moment(as_scorer(scorer), float(mean)) for scorer, mean in rows))

    def match_each(self, moments: Mapping[Feature, float]) -> Target:
        """Demand means of features in every context; needs `fit`, and only knows its contexts.

        The mean is over the samples that the feature applies to; the others it leaves as they are.

        Args:
            moments: Feature to the mean that it shall have under the target in every context.

        Raises:
            AttunementError: As for `match`.
        """
        if not moments:
            raise AttunementError(
                "match_each needs at least one feature with the mean it shall have"
            )
        rows = moments.items()
        return self._with(*(MomentEach(as_scorer(scorer), float(mean)) for scorer, mean in rows))

    def tilt(self, reward: Feature, beta: float, weight: float = 1.0) -> Target:
        """Weigh by exp(weight·reward/β).

        Args:
            reward: A scorer, its SPEC or a reward function.
            beta: The temperature, or strength of the KL penalty; above 0.
            weight: What the reward is multiplied by; negative for a cost.

        Raises:
            AttunementError: β isn't above 0, or the weight isn't finite.
        """
        return self._with(Tilt(as_scorer(reward), beta, weight))

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """The distinct scorers of all factors, in order."""
        return tuple(dict.fromkeys(factor.scorer for factor in self.factors))

    @property
    def lambdas_(self) -> dict[str, Lambda]:
        """After `fit`: λ by scorer name, for `match_each` that of every context."""
        return {
            factor.scorer.name: factor.lambda_
            for factor in self.factors
            if isinstance(factor, Matched) and factor.lambda_ is not None
        }

    @property
    def is_fitted(self) -> bool:
        """Whether every λ is known; true where nothing is matched."""
        matched = (f for f in self.factors if isinstance(f, Matched))
        return all(factor.lambda_ is not None for factor in matched)

    @property
    def has_forbidden(self) -> bool:
        """Whether a hard constraint forbids some outcomes."""
        return any(map(is_hard, self.factors))

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
        return log_potential(self.factors, samples, scores)

    def why_nothing_is_allowed(self, samples: Samples) -> str:
        """A sentence on samples that are all forbidden: by which constraints, and their rates."""
        return why_nothing_is_allowed(self.factors, samples, self.features(samples))

    def describe(self) -> list[dict[str, object]]:
        """The factors as rows of JSON, for recipe and report."""
        return [factor.describe() for factor in self.factors]

    def fit(
        self,
        contexts: Sequence[Context | str] | None = None,
        *,
        n: int = 8192,
        proposal: Distribution | None = None,
        generator: torch.Generator,
    ) -> Target:
        """Solve for all λ at once and report what is reached; see `fitting`.

        λ is solved on n samples a context and the reached moments are estimated on n fresh ones.
        Where few of the base's samples weigh anything, `ess_` is low: a policy that is nearer the
        target, as one tuned towards an earlier fit, refines λ when it is given as the proposal.
        Contexts in which no sample satisfies the constraints are left out, or with `match_each` an
        error.

        Args:
            contexts: The contexts over which moments are averaged, or in which they are held.
            n: Samples for each context, half of them the proposal's where there is one.
            proposal: What to draw from beside the base; with full support.
            generator: Where the samples come from.

        Returns:
            The fitted target; itself where nothing is matched.

        Raises:
            AttunementError: A mean can't be reached; the message says which and what can.
        """
        if not any(isinstance(factor, Matched) for factor in self.factors):
            return self
        if proposal is not None:
            require_proposal(self, proposal)
        found = fitting.fit(self.base, self.factors, as_contexts(contexts), n, proposal, generator)
        return replace(
            self,
            factors=found.factors,
            moments_=found.moments,
            moments_each_=found.moments_each,
            ess_=found.ess,
            khat_=found.khat,
        )

    def fit_sentences(self) -> tuple[str, ...]:
        """What a fit found, in sentences; none before a fit."""
        found = [
            _words_of(factor, self.moments_, self.moments_each_)
            for factor in self.factors
            if isinstance(factor, Matched) and factor.scorer.name in self.moments_
        ]
        if self.ess_ is not None:
            khat = "" if self.khat_ is None else f", k̂ {self.khat_:.2f}"
            advice = (
                "; more samples refine λ, best those of a policy tuned towards this target"
                if self.ess_ < LEAST_ESS or (self.khat_ or 0.0) > KHAT_LIMIT
                else ""
            )
            found.append(f"λ rests on {self.ess_:.1f} effective samples{khat}{advice}")
        return tuple(found)

    def as_reward(self, floor: float | None = None) -> TargetReward:
        """The log-potential as a reward function in TRL's form, with this target as optimum.

        That is so in `RLOOTrainer` with beta=1, temperature=1, top_p=1, normalize_advantages=False
        and the base as its reference model; docs/trl.md has a program.

        Args:
            floor: For a target with hard constraints: the factor of what violates one, in (0, 1).
                TRL compares the rewards of a prompt's completions, and one of minus infinity makes
                those of its siblings infinite. The optimum is the target with that floor.

        Raises:
            AttunementError: A floor is missing or has no use, the target isn't fitted, or the base
                is no causal model, or forbids tokens.
        """
        from attunement.trl_reward import TargetReward, rewardable  # it loads transformers

        if self.has_forbidden and floor is None:
            raise AttunementError(
                "a hard constraint needs a floor as a reward, e.g. as_reward(floor=0.01): TRL "
                "subtracts the mean reward of a sample's siblings, and minus infinity in it would "
                "be an infinite advantage"
            )
        if floor is not None and not self.has_forbidden:
            raise AttunementError("as_reward(floor=...) has no use: no constraint here is hard")
        if not self.is_fitted:
            raise AttunementError("fit the target before it becomes a reward: target.fit(...)")
        base = rewardable(self.base)
        return TargetReward(Target(base, floored(self.factors, floor)), base)

    def with_lambdas(self, lambdas: Mapping[str, Lambda]) -> Target:
        """The same target with λ known from an earlier fit, by scorer name.

        Raises:
            AttunementError: A matched feature has no λ, or one of the other kind.
        """
        return Target(self.base, tuple(_known(factor, lambdas) for factor in self.factors))

    def _with(self, *added: Factor) -> Target:
        unfitted = tuple(
            replace(f, lambda_=None) if isinstance(f, Matched) else f for f in self.factors
        )
        return Target(self.base, (*unfitted, *added))


def _words_of(
    factor: Matched,
    moments: Mapping[str, Estimate],
    moments_each: Mapping[str, tuple[Estimate, ...]],
) -> str:
    """What was asked of a feature, its λ and what is reached."""
    name = factor.scorer.name
    asked = f"{name} = {factor.mean:g}"
    if isinstance(factor, Moment):
        return f"{asked}: λ = {factor.lambda_:.4g}, reached {moments[name]}"
    each, values = moments_each[name], factor.lambda_.values if factor.lambda_ else ()
    held = sum(reached.low <= factor.mean <= reached.high for reached in each)
    return (
        f"{asked} in {len(each)} contexts: λ from {min(values):.4g} to {max(values):.4g}; the "
        f"interval of what is reached holds it in {held} of them, on "
        f"{min(reached.ess for reached in each):.1f} effective samples or more"
    )


def _known(factor: Factor, lambdas: Mapping[str, Lambda]) -> Factor:
    """A factor with its λ."""
    if not isinstance(factor, Matched):
        return factor
    known = lambdas.get(factor.scorer.name)
    if isinstance(factor, Moment) and isinstance(known, int | float):
        return replace(factor, lambda_=float(known))
    if isinstance(factor, MomentEach) and isinstance(known, ContextLambdas):
        return replace(factor, lambda_=known)
    kind = "one number" if isinstance(factor, Moment) else "one number for each context"
    raise AttunementError(f"there is no λ for {factor.scorer.name}: {kind} is needed")
