"""Whether a causal model can be decoded here: what it says token by token is what it says at once.

Decoding hands a model a cache, pads prompts at the left, and lets rows go and come. A model that
keeps what it has read anywhere but in that cache would then draw from one distribution and be
scored by another, which no later figure would show. So every model is tried as it is loaded, on
two rows of a few tokens.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attunement.core import AttunementError
from attunement.distributions.forward import causal_inputs, evaluating, logits_at, vocabulary_of
from attunement.distributions.reading import CausalReader
from attunement.hub import first_line

_EXACT, _ROUNDED = 1e-3, 0.25
"""Total variation that two ways to a token's distribution may differ by, in float32 and below."""
_PROMPTS = ((1, 2, 3), (4,))
_FURTHER = ((5, 6), (7, 8))


def require_decodable(model: PreTrainedModel) -> None:
    """Raise unless a causal model says token by token what it says of a whole text.

    Raises:
        AttunementError: It takes no cache, can't go on from one, or goes on differently.
    """
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise _undecodable(model, "it takes no past_key_values")
    try:
        with torch.no_grad(), evaluating(model):
            stepwise, at_once = _stepwise(model), _at_once(model)
    except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise _undecodable(model, first_line(error)) from error
    gap = float((stepwise.softmax(1) - at_once.softmax(1)).abs().sum(1).max()) / 2
    if gap > (_EXACT if torch.finfo(model.dtype).bits >= 32 else _ROUNDED):
        raise _undecodable(
            model, f"what it says of a token differs by {gap:.2g} in total variation"
        )


def _stepwise(model: PreTrainedModel) -> Tensor:
    """[2, V] logits behind five and three tokens, in rows that change places before the last."""
    vocabulary = vocabulary_of(model)
    prompts = [tuple(token % vocabulary for token in prompt) for prompt in _PROMPTS]
    first, second = torch.tensor(_FURTHER, device=model.device) % vocabulary
    reader = CausalReader(model, prompts, len(_FURTHER))
    reader.begin()
    reader.read(first)
    reader.keep(torch.tensor([1, 0], device=model.device))
    return reader.read(second.flip(0)).flip(0)


def _at_once(model: PreTrainedModel) -> Tensor:
    """The same, each text read as a whole."""
    texts = [
        (*prompt, *more) for prompt, more in zip(_PROMPTS, zip(*_FURTHER, strict=True), strict=True)
    ]
    width = max(map(len, texts))
    tokens = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
    last = torch.zeros_like(tokens, dtype=torch.bool)
    for row, text in enumerate(texts):
        last[row, len(text) - 1] = True
    tokens = tokens.to(model.device) % vocabulary_of(model)
    return logits_at(model, last.to(model.device), causal_inputs(tokens)).float()


def _undecodable(model: PreTrainedModel, reason: str) -> AttunementError:
    return AttunementError(
        f"{type(model).__name__} can't be decoded with a cache ({reason}): choose another model, "
        "e.g. of GPT-2's, Llama's or Qwen's family"
    )
