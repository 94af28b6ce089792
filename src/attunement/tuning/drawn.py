"""The samples of a step as the objectives read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from attunement.core import Distribution, Samples


@dataclass(frozen=True)
class Drawn:
    """Samples to learn from; all log-probabilities [N] float64, in nats, without gradient.

    Attributes:
        samples: N samples.
        context: [N] int64, for each sample the number of its context in the problem.
        teaches: [N] bool, whether a sample can have a signal.
        log_score: log P; minus infinity where the target forbids the sample, and NaN elsewhere if
            the objective is the plain reward, which doesn't read it.
        log_policy: log π, NaN where the sample doesn't teach.
        log_proposal: log q; of a mixture NaN where the sample doesn't teach.
        log_potential: log P - log a; minus infinity where the target forbids the sample.
        reward: The plain reward: see `rewards.plain_reward`.
    """

    samples: Samples
    context: Tensor
    teaches: Tensor
    log_score: Tensor
    log_policy: Tensor
    log_proposal: Tensor
    log_potential: Tensor
    reward: Tensor

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def log_weights(self) -> Tensor:
        """[N] log P/q."""
        forbidden = torch.isneginf(self.log_score)
        return torch.where(forbidden, -math.inf, self.log_score - self.log_proposal)

    @torch.no_grad()
    def renewed(self, policy: Distribution) -> Drawn:
        """The same samples with log π of another policy."""
        log_policy = torch.full_like(self.log_policy, math.nan)
        if bool(self.teaches.any()):
            log_policy[self.teaches] = policy.log_prob(self.samples[self.teaches])
        return replace(self, log_policy=log_policy)

    @staticmethod
    def concatenate(parts: Sequence[Drawn]) -> Drawn:
        """All parts as one, in order."""
        if len(parts) == 1:
            return parts[0]
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in COLUMNS}
        return Drawn(samples=Samples.concatenate([part.samples for part in parts]), **columns)


COLUMNS = tuple(item.name for item in fields(Drawn) if item.name != "samples")
"""The names of the tensors beside the samples."""
