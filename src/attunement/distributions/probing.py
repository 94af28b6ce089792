"""Whether a causal model can be decoded here: what it says token by token is what it says at once.

Decoding hands a model a cache, pads prompts at the left, and lets rows go and come. A model that
keeps what it has read anywhere but in that cache would then draw from one distribution and be
scored by another, which no later figure would show. So every model is tried as it is loaded, on
two rows of a few tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attunement.core import AttunementError
from attunement.distributions.forward import evaluating, vocabulary_of
from attunement.distributions.reading import CausalReader
from attunement.distributions.scoring import every_log_prob, score
from attunement.hub import first_line

_EXACT, _ROUNDED = 1e-3, 0.25
"""Total variation that two ways to a token's distribution may differ by, in float32 and below."""
_Rows: TypeAlias = Sequence[tuple[int, ...]]
_PROMPTS: _Rows = ((1, 2, 3), (4,))
_COMPLETIONS: _Rows = ((5, 7, 1), (6, 8, 1))


def require_decodable(model: PreTrainedModel) -> None:
    """Raise unless a causal model says token by token what it says of a whole text.

    Raises:
        AttunementError: It takes no cache, can't go on from one, or goes on differently.
    """
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise _undecodable(model, "it takes no past_key_values")
    vocabulary = vocabulary_of(model)
    prompts, completions = (
        [tuple(token % vocabulary for token in row) for row in rows]
        for rows in (_PROMPTS, _COMPLETIONS)
    )
    try:
        with torch.no_grad(), evaluating(model):
            stepwise = _stepwise(model, prompts, completions)
            at_once = _at_once(model, prompts, completions)
    except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise _undecodable(model, first_line(error)) from error
    gap = float((stepwise - at_once).abs().sum(1).max()) / 2
    if gap > (_EXACT if torch.finfo(model.dtype).bits >= 32 else _ROUNDED):
        raise _undecodable(
            model, f"what it says of a token differs by {gap:.2g} in total variation"
        )


def _stepwise(model: PreTrainedModel, prompts: _Rows, completions: _Rows) -> Tensor:
    """[2, V] probabilities of the last tokens, the rows changing places one token before."""
    first, second, _ = torch.tensor(completions, device=model.device).T
    reader = CausalReader(model, prompts, 2)
    reader.begin()
    reader.read(first)
    reader.keep(torch.tensor([1, 0], device=model.device))
    return reader.read(second.flip(0)).flip(0).softmax(1)


def _at_once(model: PreTrainedModel, prompts: _Rows, completions: _Rows) -> Tensor:
    """The same, as samples are scored."""
    rows, columns, log_probs = score(model, prompts, completions, lambda x: x, every_log_prob)
    last = columns == columns.max()
    return log_probs[last][rows[last].argsort()].exp()


def _undecodable(model: PreTrainedModel, reason: str) -> AttunementError:
    return AttunementError(
        f"{type(model).__name__} can't be decoded with a cache ({reason}): choose another model, "
        "e.g. of GPT-2's, Llama's or Qwen's family"
    )
