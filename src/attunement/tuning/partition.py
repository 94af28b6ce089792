"""Z of every context, from independent draws: a constant of the step that uses it.

An Ẑ from the same samples as the gradient biases it, so a step uses what earlier draws say: the
bank's, then those of the steps before. Only a context that was never drawn from falls back on its
own batch, and the step says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass
class PartitionPool:
    """Running estimates of Z_c: sums of weights P/q over independent draws.

    Attributes:
        log_sums: [C] log Σ w.
        counts: [C] how many draws.
    """

    log_sums: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, contexts: int) -> Self:
        """A pool that knows nothing of any of its contexts."""
        return cls(
            torch.full((contexts,), -math.inf, dtype=torch.float64),
            torch.zeros(contexts, dtype=torch.float64),
        )

    def add(self, context: Tensor, log_weights: Tensor) -> None:
        """Add draws: [N] context numbers and [N] log-weights."""
        for index in context.unique().tolist():
            weights = log_weights[context == index]
            total = torch.logsumexp(weights, 0)
            self.log_sums[index] = torch.logaddexp(self.log_sums[index], total)
            self.counts[index] += weights.numel()

    def log_partition(self) -> Tensor:
        """[C] log Ẑ_c; minus infinity where nothing was accepted, NaN where nothing was drawn."""
        return torch.where(self.counts > 0, self.log_sums - self.counts.log(), math.nan)

    def log_partition_of(self, context: Tensor, log_weights: Tensor) -> tuple[Tensor, int]:
        """log Ẑ of each sample's context, from earlier draws where there are any.

        Args:
            context: [N] context numbers of this batch.
            log_weights: [N] its log-weights, for contexts that were never drawn from.

        Returns:
            [N] log Ẑ, and how many contexts needed their own batch.
        """
        known = self.log_partition()[context]
        missing = known.isnan()
        if not bool(missing.any()):
            return known, 0
        current = self.empty(len(self.counts))
        current.add(context[missing], log_weights[missing])
        filled = torch.where(missing, current.log_partition()[context], known)
        return filled, int(context[missing].unique().numel())
