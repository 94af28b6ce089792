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
        reward: The plain reward: see `plain_reward`.
        log_base_by_token: [N, T] log a of each token, 0 behind a completion's end; None where no
            step reads it.
    """

    samples: Samples
    context: Tensor
    teaches: Tensor
    log_score: Tensor
    log_policy: Tensor
    log_proposal: Tensor
    log_potential: Tensor
    reward: Tensor
    log_base_by_token: Tensor | None = None

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

    def columns(self) -> dict[str, Tensor]:
        """The tensors beside the samples, by name; what isn't there is left out."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    @staticmethod
    def concatenate(parts: Sequence[Drawn]) -> Drawn:
        """All parts as one, in order."""
        if len(parts) == 1:
            return parts[0]
        samples = Samples.concatenate([part.samples for part in parts])
        width = samples.tokens.shape[1]
        rows = [part.columns() for part in parts]
        joined = {name: torch.cat([_widened(row[name], width) for row in rows]) for name in rows[0]}
        return Drawn(samples=samples, **joined)


def _widened(column: Tensor, width: int) -> Tensor:
    """A column as it is if it is [N], else padded at the right to [N, width]."""
    if column.dim() == 1:
        return column
    return torch.nn.functional.pad(column, (0, width - column.shape[1]))
