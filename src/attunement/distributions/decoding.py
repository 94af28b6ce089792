"""Decoding: completions from any language model of transformers, one token a step.

A `Reader` reads tokens and gives the logits of what follows; `reading` has one for each family of
models. One token a step is drawn for every row (`drawing.draw`) from uniforms that were made
beforehand, so that a row's completion depends on its prompt and its own uniforms, not on the rows
beside it. Rows that have ended leave the batch, cache and all, as soon as a quarter has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attunement.core import Decoder, Outcomes
from attunement.distributions.drawing import draw

_DENSE = 0.75


@dataclass(frozen=True)
class Completions:
    """R completions on the CPU.

    Attributes:
        tokens: [R, T] int64, zero behind the end.
        lengths: [R] int64, the ending token included.
        log_prob: [R] float64, in nats.
        finished: [R] bool.
    """

    tokens: Tensor
    lengths: Tensor
    log_prob: Tensor
    finished: Tensor

    @staticmethod
    def concatenate(parts: Sequence[Completions], width: int) -> Completions:
        """All parts as one, in order; none is as wide as a completion may be long."""
        nothing = Completions(
            torch.zeros(0, width, dtype=torch.long),
            torch.zeros(0, dtype=torch.long),
            torch.zeros(0, dtype=torch.float64),
            torch.zeros(0, dtype=torch.bool),
        )
        columns = zip(*(vars(part).values() for part in (nothing, *parts)), strict=True)
        return Completions(*map(torch.cat, columns))


class Reader(Protocol):
    """Feeds tokens to a model and its cache, for rows that go on from prompts read before."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    def begin(self) -> Tensor:
        """Read the prompts of all R rows; [R, V] logits of what follows, float32."""
        ...

    def read(self, tokens: Tensor) -> Tensor:
        """Read one more token [A] for each row held; [A, V] logits of what follows, float32."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these of the rows held only (an index may come more than once)."""
        ...


@torch.no_grad()
def decode(
    reader: Reader,
    uniforms: Tensor,
    outcomes: Outcomes,
    decoder: Decoder,
    reshape: Callable[[Tensor], Tensor],
) -> Completions:
    """Draw one completion for each of a reader's rows.

    Args:
        reader: Of a model in eval mode, nothing read yet.
        uniforms: [R, max_new_tokens] float64 in [0, 1), the randomness of each token.
        outcomes: What ends a completion, and where it is cut.
        decoder: Token ids to texts; only called if the stop reads text.
        reshape: The logits to draw from, given the model's.
    """
    device = reader.device
    uniforms = uniforms.to(device)
    rows, steps = uniforms.shape
    tokens = torch.zeros(rows, steps, dtype=torch.int64, device=device)
    log_probs = torch.zeros(rows, steps, device=device)
    lengths = torch.full((rows,), steps, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    ends = _Ends(outcomes, decoder, rows, device)
    held = torch.arange(rows, device=device)
    logits = reader.begin()
    for step in range(steps):
        drawn, log_probs[held, step] = draw(reshape(logits), uniforms[held, step])
        tokens[held, step] = drawn
        ended = ends.reached(drawn, held, finished[held])
        if ended.any():
            lengths[held[ended & ~finished[held]]] = step + 1
            finished[held[ended]] = True
            going = ~finished[held]
            count = int(going.sum())
            if count == 0:
                break
            if count <= _DENSE * len(held):
                held, drawn = held[going], drawn[going]
                reader.keep(going.nonzero()[:, 0])
        if step + 1 < steps:
            logits = reader.read(drawn)
    behind = torch.arange(steps, device=device) >= lengths[:, None]
    return Completions(
        tokens=tokens.masked_fill(behind, 0).cpu(),
        lengths=lengths.cpu(),
        log_prob=log_probs.masked_fill(behind, 0).cpu().double().sum(1),
        finished=finished.cpu(),
    )


class _Ends:
    """Which rows have met a stop: an end token, or a text that the stop finds."""

    def __init__(self, outcomes: Outcomes, decoder: Decoder, rows: int, device: torch.device):
        self.stop = outcomes.stop
        self.decoder = decoder
        self.end_tokens = torch.tensor(sorted(self.stop.tokens), device=device)
        self.histories: list[list[int]] = [[] for _ in range(rows)]

    def reached(self, drawn: Tensor, held: Tensor, finished: Tensor) -> Tensor:
        """[A] bool for the rows `held` after the tokens `drawn`; finished rows don't count."""
        ended = torch.isin(drawn, self.end_tokens)
        if not self.stop.reads_text:
            return ended
        going = (~(ended | finished)).nonzero()[:, 0]
        histories = [self.histories[row] for row in held[going].tolist()]
        for history, token in zip(histories, drawn[going].tolist(), strict=True):
            history.append(token)
        stopped = [self.stop.find(text) is not None for text in self.decoder(histories)]
        ended[going] = torch.tensor(stopped, dtype=torch.bool, device=ended.device)
        return ended
