"""One way to load any language model: its configuration says of which family it is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attunement.core import Stop
from attunement.distributions.causal import Causal
from attunement.distributions.loading import is_encoder_decoder
from attunement.distributions.seq2seq import Seq2Seq


def load(
    model: str | Path | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    max_new_tokens: int | None = None,
    stop: Stop | None = None,
    forbidden: frozenset[int] = frozenset(),
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    batch_size: int = 256,
) -> Causal | Seq2Seq:
    """Load a language model: `Seq2Seq` where it has an encoder, else `Causal`.

    Args:
        model: A hub id, a folder, `tiny-python`, or a model object.
        tokenizer: A tokenizer or where to find one; by default where the model is.
        max_new_tokens: The length at which completions are cut; 64 for `tiny-python`.
        stop: What ends a completion; without a token of its own it is given the model's.
        forbidden: Ids that are never drawn.
        dtype: What weights are loaded as.
        device: Where to put the model; the first GPU if there is one when None.
        batch_size: Completions decoded at a time.

    Raises:
        AttunementError: Something can't be found or read; the message names the mend.
    """
    family = Seq2Seq if is_encoder_decoder(model) else Causal
    return family.load(
        model,
        tokenizer=tokenizer,
        max_new_tokens=max_new_tokens,
        stop=stop,
        forbidden=forbidden,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
    )
