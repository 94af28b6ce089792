"""The factors of a target: what multiplies the base, each a log-potential in nats.

    constraint   0 where b(x, c) = 1, else minus infinity, or log(floor) where a floor is given
    moment       λ·φ(x, c), λ one number for all contexts
    moment each  λ_c·φ(x, c), λ_c one number for every context
    tilt         weight·r(x, c)/β

A factor is a description. λ is None until a target is fitted (`fitting`), and λ_c is known for the
contexts that it was fitted on and for no other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from attunement.core import AttunementError, Context, Samples, Scorer, Scores
from attunement.scorers.base import describe

SHOWN_CHARACTERS = 40
"""How much of a prompt an error message shows."""


@dataclass(frozen=True)
class ContextLambdas:
    """λ_c of one feature: a number for each of the contexts that it was fitted on.

    Attributes:
        contexts: C distinct contexts.
        values: Their C numbers.
    """

    contexts: tuple[Context, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.contexts) != len(self.values):
            raise AttunementError(
                f"{len(self.values)} λ don't fit {len(self.contexts)} contexts: one for each"
            )

    def of(self, samples: Samples) -> Tensor:
        """[N] float64, the number of each sample's context.

        Raises:
            AttunementError: Some sample belongs to a context that has none.
        """
        used = set(samples.context_index.tolist())
        rows = [
            self._find(context) if index in used else 0.0
            for index, context in enumerate(samples.contexts)
        ]
        return torch.tensor(rows, dtype=torch.float64)[samples.context_index]

    @cached_property
    def _positions(self) -> dict[object, list[int]]:
        """Where the contexts of each prompt stand; columns can't be hashed and are compared."""
        found = defaultdict(list)
        for position, context in enumerate(self.contexts):
            found[_prompt_key(context)].append(position)
        return dict(found)

    def _find(self, context: Context) -> float:
        for position in self._positions.get(_prompt_key(context), ()):
            if self.contexts[position] == context:
                return self.values[position]
        raise AttunementError(
            f"the target has no λ for the context {shown(context)}: a moment that is held in every "
            f"context is known for the {len(self.contexts)} contexts of its fit, with the same "
            "columns, and no others; fit the target on this context too"
        )


def _prompt_key(context: Context) -> object:
    if isinstance(context.prompt, str):
        return context.prompt
    return tuple(tuple(sorted(message.items())) for message in context.prompt)


def shown(context: Context) -> str:
    """How an error message shows a context: the end of its prompt, which tells prompts apart."""
    text = context.prompt if isinstance(context.prompt, str) else context.prompt[-1]["content"]
    cut = len(text) > SHOWN_CHARACTERS
    return f"{'...' if cut else ''}{text[-SHOWN_CHARACTERS:]!r}"


Lambda: TypeAlias = float | ContextLambdas
"""What a fit finds for a feature: one number, or one for each context."""


@dataclass(frozen=True)
class Constraint:
    """log-potential 0 where the scorer says 1, and log(floor) or minus infinity where it says 0.

    Attributes:
        scorer: A feature with the values 0 and 1.
        floor: None for a hard constraint, else the factor of what violates it, in (0, 1).
    """

    scorer: Scorer
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.floor is not None and not 0 < self.floor < 1:
            raise AttunementError(
                f"a floor lies between 0 and 1, not at {self.floor}; None is hard"
            )

    def satisfied(self, scores: Scores, samples: Samples) -> Tensor:
        """[N] bool; a sample that the scorer has nothing to say of satisfies it.

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
        return (values == 1) | ~scores.applicable

    def log_potential(self, scores: Scores, samples: Samples) -> Tensor:
        """[N] float64.

        Raises:
            AttunementError: The scorer says something else than 0 or 1.
        """
        lowest = -math.inf if self.floor is None else math.log(self.floor)
        satisfied = self.satisfied(scores, samples)
        return torch.zeros(len(samples), dtype=torch.float64).masked_fill(~satisfied, lowest)

    def describe(self) -> dict[str, object]:
        """For recipe and report."""
        return {"kind": "constrain", "scorer": self.scorer.name, "floor": self.floor}


def _filled(scores: Scores, mean: float) -> Tensor:
    """[N] a feature, with the mean that it shall have where it doesn't apply.

    So the factor is λ·(φ - μ), 0 where φ doesn't apply, times a constant; and E_p[φ] = μ is asked
    of the samples that φ applies to, at the least KL(p‖a).
    """
    return scores.values.masked_fill(~scores.applicable, mean)


@dataclass(frozen=True)
class Moment:
    """log-potential λ·φ, with λ such that the mean of φ, averaged over contexts, is as asked.

    Attributes:
        scorer: φ.
        mean: What its mean under the target shall be.
        lambda_: λ; None until the target is fitted.
    """

    scorer: Scorer
    mean: float
    lambda_: float | None = None

    def __post_init__(self) -> None:
        _require_finite_mean(self.scorer, self.mean)

    def feature(self, scores: Scores) -> Tensor:
        """[N] float64: φ, and the mean that it shall have where it doesn't apply."""
        return _filled(scores, self.mean)

    def log_potential(self, scores: Scores, samples: Samples) -> Tensor:  # noqa: ARG002
        """[N] float64.

        Raises:
            AttunementError: The target isn't fitted.
        """
        if self.lambda_ is None:
            raise _unfitted(self.scorer, self.mean)
        return self.lambda_ * self.feature(scores)

    def describe(self) -> dict[str, object]:
        """For recipe and report."""
        name = self.scorer.name
        return {"kind": "match", "scorer": name, "mean": self.mean, "lambda": self.lambda_}


@dataclass(frozen=True)
class MomentEach:
    """log-potential λ_c·φ, with λ_c such that the mean of φ is as asked in every context.

    Attributes:
        scorer: φ.
        mean: What its mean under the target shall be, in every context.
        lambda_: λ_c; None until the target is fitted.
    """

    scorer: Scorer
    mean: float
    lambda_: ContextLambdas | None = None

    def __post_init__(self) -> None:
        _require_finite_mean(self.scorer, self.mean)

    def feature(self, scores: Scores) -> Tensor:
        """[N] float64: φ, and the mean that it shall have where it doesn't apply."""
        return _filled(scores, self.mean)

    def log_potential(self, scores: Scores, samples: Samples) -> Tensor:
        """[N] float64.

        Raises:
            AttunementError: The target isn't fitted, or not on a sample's context.
        """
        if self.lambda_ is None:
            raise _unfitted(self.scorer, self.mean)
        return self.lambda_.of(samples) * self.feature(scores)

    def describe(self) -> dict[str, object]:
        """For recipe and report."""
        return {
            "kind": "match_each",
            "scorer": self.scorer.name,
            "mean": self.mean,
            "lambda": None if self.lambda_ is None else list(self.lambda_.values),
        }


@dataclass(frozen=True)
class Tilt:
    """log-potential weight·r/β.

    Attributes:
        scorer: r.
        beta: The temperature, above 0.
        weight: What the reward is multiplied by; negative for a cost.
    """

    scorer: Scorer
    beta: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise AttunementError(f"beta must be above 0, not {self.beta}")
        if not math.isfinite(self.weight):
            raise AttunementError(
                f"the weight of a tilt must be a finite number, not {self.weight}"
            )

    def log_potential(self, scores: Scores, samples: Samples) -> Tensor:  # noqa: ARG002
        """[N] float64."""
        return self.weight * scores.values / self.beta

    def describe(self) -> dict[str, object]:
        """For recipe and report."""
        name = self.scorer.name
        return {"kind": "tilt", "scorer": name, "beta": self.beta, "weight": self.weight}


Matched: TypeAlias = Moment | MomentEach
"""The factors that have a λ."""

Factor: TypeAlias = Constraint | Matched | Tilt


def is_hard(factor: Factor) -> bool:
    """Whether a factor forbids outcomes altogether."""
    return isinstance(factor, Constraint) and factor.floor is None


def floored(factors: Sequence[Factor], floor: float | None) -> tuple[Factor, ...]:
    """The same factors with a floor for every hard constraint."""
    return tuple(
        replace(f, floor=floor) if isinstance(f, Constraint) and f.floor is None else f
        for f in factors
    )


def log_potential(
    factors: Sequence[Factor], samples: Samples, scores: Mapping[str, Scores]
) -> Tensor:
    """Σ_i factor_i.

    Args:
        factors: The factors.
        samples: N samples.
        scores: What each factor's scorer says of them, by name.

    Returns:
        [N] float64 in nats; minus infinity where a hard constraint is violated.
    """
    total = torch.zeros(len(samples), dtype=torch.float64)
    for factor in factors:
        total = total + factor.log_potential(scores[factor.scorer.name], samples)
    return total


def _require_finite_mean(scorer: Scorer, mean: float) -> None:
    if not math.isfinite(mean):
        raise AttunementError(f"the mean of {scorer.name} must be a finite number")


def _unfitted(scorer: Scorer, mean: float) -> AttunementError:
    return AttunementError(
        f"the target matches {scorer.name} = {mean:g} but isn't fitted: "
        "call target.fit(generator=...) first and use what it returns"
    )
