"""Encoding: what an encoder-decoder model's encoder makes of prompts, for its decoder to look at.

Every different source is read once, whatever number of completions go with it: of 32 completions
of one document the encoder sees one. Sources of unequal length are padded at the right, where
absolute positions begin at 0 for all, and the mask keeps encoder and decoder from looking at the
padding. What comes out is differentiable, so a gradient reaches the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


@dataclass(frozen=True)
class Encoded:
    """B encoded sources.

    Attributes:
        states: [B, S, D], the encoder's last hidden states.
        mask: [B, S] int64, 1 on the source's tokens and 0 on padding.
    """

    states: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.states.shape[0]

    def __getitem__(self, rows: Tensor) -> Encoded:
        """The sources at some indices, which may come more than once."""
        return Encoded(self.states[rows], self.mask[rows])

    def inputs(self, tokens: Tensor, seen: int) -> dict[str, object]:
        """The arguments of the model's pass over decoder tokens.

        Args:
            tokens: [B, W] int64, padded at the right, if at all, where no token looks.
            seen: Tokens that the decoder has read when it has read these.
        """
        # A mask of ones is given because models make their own of the padding token, and T5 starts
        # from that token.
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=self.states),  # pyright: ignore[reportArgumentType]
            "attention_mask": self.mask,
            "decoder_input_ids": tokens,
            "decoder_attention_mask": tokens.new_ones(len(tokens), seen),
        }


def encode(model: PreTrainedModel, sources: Sequence[Sequence[int]]) -> tuple[Encoded, Tensor]:
    """Read every different source once.

    Args:
        model: An encoder-decoder model in eval mode.
        sources: R rows of ids, none empty.

    Returns:
        The different sources, U of them, and [R] int64, which of them each row has.
    """
    numbers = {source: number for number, source in enumerate(dict.fromkeys(map(tuple, sources)))}
    width = max(map(len, numbers))
    padded = [[*source, *source[:1] * (width - len(source))] for source in numbers]
    lengths = torch.tensor([len(source) for source in numbers], device=model.device)
    mask = (torch.arange(width, device=model.device) < lengths[:, None]).long()
    tokens = torch.tensor(padded, device=model.device)
    states = model.get_encoder()(input_ids=tokens, attention_mask=mask).last_hidden_state
    rows = [numbers[tuple(source)] for source in sources]
    return Encoded(states, mask), torch.tensor(rows, device=model.device)
