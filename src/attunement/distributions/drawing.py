"""Drawing: one token for each row of logits, by inverting the cumulative distribution.

The token drawn is the first at which the running sum of the probabilities exceeds u times their
total, u uniform in [0, 1). The draw is a function of u, so a row's completion depends on its own
uniforms alone, whatever else is in the batch; and the log-probability comes free.
`torch.multinomial` has the same distribution and costs many times as much on a CPU.

The running sum is taken in two levels, first over blocks of the vocabulary, then inside the one
block that the draw falls in, in float64; so the cost is a softmax and a vectorised sum. A `Warp`
reshapes the logits before the draw (temperature, top-k, top-p; Holtzman et al. 2020, arXiv
1904.09751), and scores are then those of the reshaped distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attunement.core import AttunementError

_BLOCK = 64


@dataclass(frozen=True)
class Warp:
    """A reshaping of each token's distribution: temperature, then top-k, then top-p.

    Attributes:
        temperature: Logits are divided by it.
        top_p: The smallest set of most probable tokens whose probability reaches it is kept.
        top_k: This many most probable tokens are kept, or None for all. Tokens that tie with the
            last one are kept too.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise AttunementError(f"temperature must be positive, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise AttunementError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise AttunementError(f"top_k must be at least 1, not {self.top_k}")

    @property
    def full_support(self) -> bool:
        """Whether every token keeps a positive probability, as importance weights need."""
        return self.top_p == 1 and self.top_k is None

    def __call__(self, logits: Tensor) -> Tensor:
        """Warp [R, V] logits; what is cut off becomes minus infinity. Differentiable.

        Near a cut the result depends on rounding: a token that was drawn as the last one kept may
        fall outside the cut when it is scored again in another batch.
        """
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            last = logits.detach().topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < last, -math.inf)
        if self.top_p < 1:
            probabilities, order = logits.detach().float().softmax(-1).sort(-1, descending=True)
            beyond = probabilities.cumsum(-1, dtype=torch.float64) - probabilities >= self.top_p
            logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -math.inf)
        return logits


def draw(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token for each row.

    Args:
        logits: [R, V] float32; minus infinity for a token that is never drawn.
        uniforms: [R] float64 in [0, 1).

    Returns:
        tokens [R] int64 and their log-probabilities [R] float32, in nats. A row with a NaN in its
        logits gives an arbitrary token with log-probability NaN.
    """
    probabilities = logits.softmax(1)
    vocabulary = logits.shape[1]
    whole = vocabulary - vocabulary % _BLOCK
    blocks = probabilities[:, :whole].unflatten(1, (-1, _BLOCK)).sum(2)
    rest = probabilities[:, whole:].sum(1, keepdim=True)
    running = torch.cat([blocks, rest], 1).cumsum(1, dtype=torch.float64)
    point = _strictly_below(uniforms[:, None] * running[:, -1:], running[:, -1:])
    block = torch.searchsorted(running, point, right=True).clamp_(max=running.shape[1] - 1)
    before = running.gather(1, (block - 1).clamp_(min=0)).masked_fill_(block == 0, 0)
    places = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    inside = probabilities.gather(1, places.clamp(max=vocabulary - 1))
    inside = inside.masked_fill_(places >= vocabulary, 0).cumsum(1, dtype=torch.float64)
    remainder = _strictly_below(point - before, inside[:, -1:])
    within = torch.searchsorted(inside, remainder, right=True)
    tokens = (block * _BLOCK + within).clamp_(max=vocabulary - 1)
    below_largest = logits.gather(1, tokens)[:, 0] - logits.amax(1)
    return tokens[:, 0], below_largest + probabilities.amax(1).log()


def _strictly_below(point: Tensor, total: Tensor) -> Tensor:
    """`point`, or the number just under `total` where rounding has carried it there."""
    return torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))


@dataclass(frozen=True)
class Reshape:
    """From a model's logits to those that are drawn from.

    Attributes:
        forbidden: [F] int64 ids that are never drawn, on the model's device.
        warp: A further reshaping of what is left, or None.
    """

    forbidden: Tensor
    warp: Warp | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Reshape [R, V] logits; they are overwritten unless they need a gradient."""
        if len(self.forbidden) and logits.requires_grad:
            logits = logits.index_fill(1, self.forbidden, -math.inf)
        elif len(self.forbidden):
            logits.index_fill_(1, self.forbidden, -math.inf)
        return logits if self.warp is None else self.warp(logits)
