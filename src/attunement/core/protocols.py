"""What a distribution, a scorer and a target have to be able to do, whoever writes them.

A scorer computes one number a sample; a target is an energy-based model

    log P(x|c) = log a(x|c) + log-potential(x, c),

a base `a` times factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from attunement.core.context import Context
from attunement.core.errors import AttunementError
from attunement.core.outcomes import Outcomes
from attunement.core.samples import Samples


@runtime_checkable
class Distribution(Protocol):
    """Anything that can be sampled from and knows the log-probability of a sample."""

    @property
    def outcomes(self) -> Outcomes:
        """The sample space."""
        ...

    @property
    def full_support(self) -> bool:
        """Whether nothing that the sample space holds is cut off, as by top-p.

        Importance weights need it: what a proposal can't draw is missing from every estimate, and
        no diagnostic shows it.
        """
        ...

    def sample(
        self, contexts: Sequence[Context | str] | None, n: int, *, generator: torch.Generator
    ) -> Samples:
        """Draw n completions for each context, those of one context next to each other."""
        ...

    def log_prob(self, samples: Samples) -> Tensor:
        """[N] float64: log-probability in nats of each completion; differentiable in a policy."""
        ...


@runtime_checkable
class Trainable(Distribution, Protocol):
    """A distribution with parameters: what can be a policy."""

    @property
    def module(self) -> torch.nn.Module:
        """The network; those of its parameters that require a gradient are trained."""
        ...

    def copy(self) -> Self:
        """An independent copy, parameters included."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the distribution so that it can be loaded again."""
        ...


@runtime_checkable
class TokenWise(Trainable, Protocol):
    """A policy that also says its log-probabilities token by token."""

    def token_log_probs(self, samples: Samples) -> Tensor:
        """[N, T]: log-probability of each token, 0 where the mask is false; differentiable."""
        ...

    def next_token_log_probs(self, samples: Samples) -> Tensor:
        """[N, T, V]: log-probability of every token at each place of the mask; differentiable.

        Minus infinity for a forbidden token; what stands outside the mask has no meaning.
        """
        ...


class Scores(NamedTuple):
    """What a scorer says of N samples.

    Attributes:
        values: [N] float64; 0 where not applicable.
        applicable: [N] bool, false where the scorer has nothing to say of the sample.
    """

    values: Tensor
    applicable: Tensor


@runtime_checkable
class Scorer(Protocol):
    """Computes a feature: one number a sample."""

    @property
    def name(self) -> str:
        """How the feature is called in tables and recipes, e.g. `uses_name:self`."""
        ...

    def __call__(self, samples: Samples) -> Tensor | Scores:
        """[N] numbers, or `Scores` where some samples are out of the scorer's scope."""
        ...


@runtime_checkable
class Target(Protocol):
    """An energy-based model: base times exp(log-potential)."""

    @property
    def base(self) -> Distribution:
        """The pretrained model a(x|c)."""
        ...

    def log_potential(self, samples: Samples) -> Tensor:
        """[N] float64: log P(x|c) - log a(x|c); minus infinity where the target forbids x."""
        ...


def require_same_outcomes(first: Distribution, second: Distribution) -> None:
    """Raise an error that shows the difference unless both have the same outcomes.

    Raises:
        AttunementError: The two sample spaces differ.
    """
    if first.outcomes == second.outcomes:
        return
    pairs = zip(first.outcomes.to_json().items(), second.outcomes.to_json().items(), strict=True)
    differences = [f"{key} {a!r} against {b!r}" for (key, a), (_, b) in pairs if a != b]
    raise AttunementError(
        "the distributions have different outcomes and can't be compared: "
        + ("; ".join(differences) or "their stop functions differ")
    )


def require_proposal(target: Target, proposal: Distribution) -> None:
    """Raise an error unless samples of a proposal can be weighed by P/q.

    Raises:
        AttunementError: The outcomes differ from those of the target's base, or the proposal cuts
            something off.
    """
    require_same_outcomes(target.base, proposal)
    if not proposal.full_support:
        raise AttunementError(
            "the proposal can't draw everything that the target holds (top-k or top-p cut it off), "
            "so its samples can't be weighed: use a temperature instead"
        )
