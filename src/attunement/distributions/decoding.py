"""Decoding: completions from any causal language model of transformers, over its own cache.

The prompts are read once each and their cache is repeated for the completions that continue
them. Then one token a step is drawn for every row (`drawing.draw`) from uniforms that were made
beforehand, so that a row's completion depends on its prompt and its own uniforms, not on the rows
beside it. Rows that have ended leave the batch, cache and all, as soon as a quarter has.

The cache is the one that the model's configuration asks for, but full-attention layers write into
room reserved ahead instead of being concatenated anew at each step, which for a small model on a
CPU is most of the cost of a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from attunement.core import Decoder, Outcomes
from attunement.distributions.drawing import draw
from attunement.distributions.forward import logits_at

_LEAST_ROOM = 4
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


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    uniforms: Tensor,
    outcomes: Outcomes,
    decoder: Decoder,
    reshape: Callable[[Tensor], Tensor],
) -> Completions:
    """Draw one completion for each prompt.

    Args:
        model: A causal language model in eval mode.
        prompts: R rows of token ids, none empty; equal prompts are read once.
        uniforms: [R, max_new_tokens] float64 in [0, 1), the randomness of each token.
        outcomes: What ends a completion, and where it is cut.
        decoder: Token ids to texts; only called if the stop reads text.
        reshape: The logits to draw from, given the model's.
    """
    device = model.device
    uniforms = uniforms.to(device)
    rows, steps = uniforms.shape
    tokens = torch.zeros(rows, steps, dtype=torch.int64, device=device)
    log_probs = torch.zeros(rows, steps, device=device)
    lengths = torch.full((rows,), steps, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    ends = _Ends(outcomes, decoder, rows, device)
    reader = _Reader(model, prompts, steps)
    held = torch.arange(rows, device=device)
    logits = reader.read_prompts()
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


class _Reader:
    """Feeds tokens to a model and its cache; gives the logits [A, V] of what follows, float32."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], steps: int):
        unique = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        self.model = model
        self.prompts = list(unique)
        self.width = max(map(len, self.prompts))
        self.cache = reserved_cache(model, self.width + steps)
        self.prompt_of_row = torch.tensor([unique[p] for p in prompts], device=model.device)
        self.lengths = torch.tensor([len(p) for p in self.prompts], device=model.device)
        places = torch.arange(self.width + steps, device=model.device)
        self.mask = (places >= self.width - self.lengths[:, None]).long()
        # Positions are passed only where padding moves them, and only to models that take them:
        # others derive them from the mask.
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.gives_positions = takes_positions and bool((self.lengths < self.width).any())
        self.seen = self.width

    def read_prompts(self) -> Tensor:
        """Read every unique prompt, then repeat cache and logits for the rows."""
        padded = [[p[0]] * (self.width - len(p)) + list(p) for p in self.prompts]
        positions = (self.mask[:, : self.width].cumsum(1) - 1).clamp(min=0)
        logits = self._forward(torch.tensor(padded, device=self.model.device), positions)
        self.keep(self.prompt_of_row)
        return logits[self.prompt_of_row]

    def read(self, tokens: Tensor) -> Tensor:
        """Read one more token [A] for each row."""
        positions = (self.lengths + (self.seen - self.width))[:, None]
        self.seen += 1
        return self._forward(tokens[:, None], positions)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (an index may come more than once)."""
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        further = {"position_ids": positions} if self.gives_positions else {}
        inputs = {
            "input_ids": tokens,
            "attention_mask": self.mask[:, : self.seen],
            "past_key_values": self.cache,
            "use_cache": True,
            **further,
        }
        if tokens.shape[1] == 1:
            return self.model(**inputs).logits[:, -1].float()
        last = torch.zeros_like(tokens, dtype=torch.bool)
        last[:, -1] = True
        return logits_at(self.model, last, inputs).float()


def reserved_cache(model: PreTrainedModel, limit: int) -> DynamicCache:
    """The cache of the model's kind, with room ahead in its full-attention layers.

    Args:
        model: A causal language model.
        limit: The number of tokens that it will never exceed.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [
        _ReservedLayer(limit) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class _ReservedLayer(DynamicLayer):
    """A layer of a cache that writes new keys and values into room reserved ahead.

    `keys` and `values` are views [B, H, seen, D] of buffers with room for an eighth more. Little
    room is better than all of it: gaps between the rows waste the processor's caches.
    """

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Append [B, H, new, D] keys and values; the same over all tokens seen."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        total = seen + key_states.shape[2]
        if self.buffers is None or total > self.buffers[0].shape[2]:
            size = min(self.limit, total + max(_LEAST_ROOM, total // 8))
            self.buffers = (_roomy(key_states, size), _roomy(value_states, size))
            if self.keys is not None and self.values is not None and seen:
                self.buffers[0][:, :, :seen] = self.keys
                self.buffers[1][:, :, :seen] = self.values
        keys, values = self.buffers
        keys[:, :, seen:total] = key_states
        values[:, :, seen:total] = value_states
        self.keys, self.values = keys[:, :, :total], values[:, :, :total]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, which may come more than once, and the room ahead."""
        if self.buffers is None or self.keys is None or self.values is None:
            return
        seen, size = self.keys.shape[2], self.buffers[0].shape[2]
        chosen = self.keys[indices], self.values[indices]
        self.buffers = (_roomy(chosen[0], size), _roomy(chosen[1], size))
        for buffer, states in zip(self.buffers, chosen, strict=True):
            buffer[:, :, :seen] = states
        self.keys, self.values = (buffer[:, :, :seen] for buffer in self.buffers)


def _roomy(states: Tensor, size: int) -> Tensor:
    batch, heads, _, width = states.shape
    return states.new_empty(batch, heads, size, width)
