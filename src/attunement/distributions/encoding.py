"""Encoding: what the encoder of an encoder-decoder model is given to read, and how often.

Sources of unequal length are padded at the right, where absolute positions begin at 0 for all, and
a mask keeps encoder and decoder from looking at the padding. Of 32 completions of one document the
encoder need only see one. `encoded_once` makes equal rows of a batch one between the model and its
encoder, and repeats what comes out; the model is called as ever, so no family needs code of its
own, and a gradient reaches the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from attunement.distributions.prompts import distinct_rows


def source_inputs(sources: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """The encoder's part of the arguments of a model's `forward`.

    Args:
        sources: R rows of ids, none empty.
        device: Where the model is.
    """
    width = max(map(len, sources))
    padded = [[*source, *[source[0]] * (width - len(source))] for source in sources]
    lengths = torch.tensor([len(source) for source in sources], device=device)
    mask = (torch.arange(width, device=device) < lengths[:, None]).long()
    return {"input_ids": torch.tensor(padded, device=device), "attention_mask": mask}


def decoder_inputs(tokens: Tensor, seen: int) -> dict[str, Tensor]:
    """The decoder's part of the arguments of a model's `forward`.

    A mask of ones is given because models make their own of the padding token, and T5 starts from
    that token.

    Args:
        tokens: [R, W] int64, padded at the right, if at all, where no token looks.
        seen: Tokens that the decoder has read when it has read these.
    """
    return {
        "decoder_input_ids": tokens,
        "decoder_attention_mask": tokens.new_ones(len(tokens), seen),
    }


@contextmanager
def encoded_once(
    model: PreTrainedModel, sources: Sequence[Sequence[int]]
) -> Iterator[dict[str, Tensor]]:
    """Inside, the encoder reads every different source of a batch once.

    Args:
        model: An encoder-decoder model in eval mode.
        sources: R rows of ids, none empty: the batch of the passes inside.

    Yields:
        The encoder's part of the arguments of those passes.
    """
    different, numbers = distinct_rows([tuple(source) for source in sources])
    places = torch.arange(len(sources))
    first = places.new_empty(len(different)).scatter_reduce(
        0, numbers, places, "amin", include_self=False
    )
    first, number = first.to(model.device), numbers.to(model.device)

    def narrow(_: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        narrowed = {name: named[name][first] for name in ("input_ids", "attention_mask")}
        return arguments, named | narrowed

    def widen(_: nn.Module, __: Any, output: BaseModelOutput) -> BaseModelOutput:
        output.last_hidden_state = output.last_hidden_state[number]  # pyright: ignore
        return output

    encoder = model.get_encoder()
    hooks = [
        encoder.register_forward_pre_hook(narrow, with_kwargs=True),
        encoder.register_forward_hook(widen),
    ]
    try:
        yield source_inputs(sources, model.device)
    finally:
        for hook in hooks:
            hook.remove()
