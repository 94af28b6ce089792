"""One forward pass of a language model: what it costs is the body and the head.

The head (hidden width times vocabulary) is as dear as several layers, so it should only see the
positions whose logits are wanted. `logits_at` narrows the input of the model's own head: whatever
the model does with the logits afterwards (scaling, soft caps) stays in place, and no family of
models needs code of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside (no dropout in a sample or a score), every module's own mode after it."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def vocabulary_of(model: PreTrainedModel) -> int:
    """V, the tokens that a language model has logits for."""
    return model.config.get_text_config(decoder=True).vocab_size


def logits_at(model: PreTrainedModel, chosen: Tensor, inputs: Mapping[str, object]) -> Tensor:
    """The logits at some positions of a batch.

    Args:
        model: A language model, with an encoder or without.
        chosen: [B, W] bool, M of them true.
        inputs: The arguments of the model's `forward`.

    Returns:
        [M, V] logits in the model's dtype, in the row-major order of `chosen`.
    """
    head = model.get_output_embeddings()
    if head is None:
        return model(**inputs).logits[chosen]

    def narrow(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = arguments
        return hidden[chosen][None], *rest

    handle = head.register_forward_pre_hook(narrow)
    try:
        logits = model(**inputs).logits
    finally:
        handle.remove()
    return logits.flatten(0, 1)  # a view in the backward pass too; logits[0] would copy there


def fuse_activations(module: nn.Module) -> None:
    """Let PyTorch's fused kernel compute the tanh form of GELU, in place.

    Transformers writes it out as eight elementwise operations, each of which reads and writes the
    widest activations of the model and, in training, keeps them. Parameters, configuration and
    files stay as they are; values agree to rounding.
    """
    for name, part in list(module.named_modules()):
        if isinstance(part, (NewGELUActivation, FastGELUActivation)):
            module.set_submodule(name, nn.GELU(approximate="tanh"))


def causal_inputs(tokens: Tensor) -> dict[str, Tensor]:
    """The arguments of a pass over [B, W] tokens padded at the right, if at all.

    No token attends to what follows it, so padding at the right needs no mask; a mask of ones
    says that this is meant, and lets attention take its fast path.
    """
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
