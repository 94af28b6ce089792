"""What a completion is conditioned on: a prompt, and the columns of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from attunement.core.errors import AttunementError

Message: TypeAlias = Mapping[str, str]
"""One turn of a conversation: `{"role": ..., "content": ...}`."""


@dataclass(frozen=True)
class Context:
    """What a completion is conditioned on.

    Attributes:
        prompt: A text, or a conversation (a tuple of messages) for a tokenizer's chat template.
        columns: Further fields of the data set's row, which scorers may read.
    """

    prompt: str | tuple[Message, ...] = ""
    columns: Mapping[str, object] = field(default_factory=dict)


UNCONDITIONAL: tuple[Context, ...] = (Context(),)
"""The single empty context of an unconditional model."""


def as_contexts(contexts: Sequence[Context | str] | None) -> tuple[Context, ...]:
    """Contexts from contexts or plain prompts; None is the empty context.

    Raises:
        AttunementError: There is none, or a bare string was given where a list is meant.
    """
    if contexts is None:
        return UNCONDITIONAL
    if isinstance(contexts, str):
        raise AttunementError("contexts must be a list of prompts, not one string")
    if len(contexts) == 0:
        raise AttunementError("there is no context: give at least one prompt, or [''] for none")
    return tuple(c if isinstance(c, Context) else Context(c) for c in contexts)
