"""Attention of one new token: what decoding does at every step, as two matrix products.

PyTorch's fused attention is made for many queries; for a single one, on a CPU, its fixed cost is
most of what it costs. `single_query_attention` has the same value to rounding:

    softmax(q·Kᵀ·scale + bias) · V

It is offered to transformers under a name of its own and asked for while decoding only. Whatever
it doesn't cover (many queries, narrower floats, an additive mask) goes to the
implementation that it stands in for, so a model computes what it always does. A model on a GPU, or
with a part that asks for another implementation, is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_REPLACED, _NAME = "sdpa", "attunement_single_query"


def single_query_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls it.

    Args:
        module: The attention layer.
        query: [B, H, Q, D].
        key: [B, G, S, D]; H is a multiple of G, and heads of one group share keys and values.
        value: [B, G, S, D].
        attention_mask: [B, 1, Q, S] bool, true where a query may look, or None for everywhere.
        dropout: Share of the weights that is dropped; 0 in eval mode.
        scaling: What products are multiplied by; 1/√D where None.
        position_bias: [B or 1, H, Q, S], added to the products, as in T5; or None.
        **further: What other implementations may want.

    Returns:
        [B, Q, H, D], and None for the weights.
    """
    batch, heads, queries, width = query.shape
    covered = (
        queries == 1
        and dropout == 0
        and query.dtype == torch.float32
        and key.shape[0] == batch
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and further.get("softcap") is None
    )
    if not covered:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout,
            scaling,
            position_bias=position_bias,
            **further,
        )
    grouped = query.reshape(batch * key.shape[1], heads // key.shape[1], width)
    scale = 1 / math.sqrt(width) if scaling is None else scaling
    weights = torch.bmm(grouped * scale, key.flatten(0, 1).mT)
    by_row = weights.view(batch, heads, -1)
    if position_bias is not None:
        by_row += position_bias[:, :, 0]
    if attention_mask is not None:
        by_row.masked_fill_(~attention_mask[:, :, 0], -math.inf)
    attended = torch.bmm(weights.softmax(2), value.flatten(0, 1))
    return attended.view(batch, 1, heads, -1), None


AttentionInterface.register(_NAME, single_query_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextmanager
def single_queries(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's attention is fast for one query; its own choice is back after it."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    replaceable = all(part.config._attn_implementation == _REPLACED for part in parts)
    if model.device.type != "cpu" or not replaceable:
        yield
        return
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(_REPLACED)
