"""The cache of what a new token looks back on: keys and values, and states of linear attention.

It is the one that the model's configuration asks for, but full-attention layers write into room
reserved ahead instead of being concatenated anew at each step, which for a small model on a CPU is
most of the cost of a step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

_LEAST_ROOM = 4


def reserved_cache(config: PreTrainedConfig, limit: int) -> DynamicCache:
    """The cache that a configuration asks for, with room ahead in its full-attention layers.

    Args:
        config: Of a causal language model, or of the decoder of one with an encoder.
        limit: The number of tokens that it will never exceed.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        _ReservedLayer(limit) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows of a cache, which may come more than once.

    Args:
        cache: Of any layers.
        rows: [R] int64, the rows to keep, in their new order.
    """
    layer: Any
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(rows)  # pyright: ignore[reportArgumentType]
        else:
            layer.batch_select_indices(rows)


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
