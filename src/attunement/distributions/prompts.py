"""Prompts: from contexts to token ids, and from ids to texts.

Everything that a model is conditioned on goes through here, so that two readers of one context
always see the same ids. For a causal model a text is tokenised without the tokenizer's own special
tokens and follows the start token of the outcomes. For an encoder it is tokenised with them, as
such models were trained: to T5 the empty text is its end token. A conversation is rendered by the
tokenizer's chat template, which writes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from attunement.core import AttunementError, Context, Message, Outcomes, Samples


@dataclass(frozen=True)
class Prompts:
    """Contexts as a model is to read them.

    Attributes:
        contexts: C contexts.
        heads: C rows of ids that the completions go on from.
        sources: C rows of ids for the encoder, or none where there is no encoder.
    """

    contexts: tuple[Context, ...]
    heads: tuple[tuple[int, ...], ...]
    sources: tuple[tuple[int, ...], ...] = ()

    @property
    def lengths(self) -> Tensor:
        """[C] int64: tokens to read of each."""
        return torch.tensor([len(row) for row in self.sources or self.heads])


def tokenize_contexts(
    tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Context], start: int | None
) -> tuple[tuple[int, ...], ...]:
    """The token ids of each context for a causal model, the start token included.

    Args:
        tokenizer: The model's tokenizer.
        contexts: C contexts.
        start: The id that stands before a text, unless the text begins with it already.

    Returns:
        C rows of ids.

    Raises:
        AttunementError: A conversation needs a chat template that the tokenizer doesn't have, or
            a context is left without any token.
    """

    def text_ids(text: str) -> tuple[int, ...]:
        ids = _text_ids(tokenizer, text)
        return ids if start is None or ids[:1] == (start,) else (start, *ids)

    mend = "these outcomes have no start token: give it a prompt, or outcomes with a start"
    return _tokenized(tokenizer, contexts, text_ids, mend)


def tokenize_sources(
    tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Context]
) -> tuple[tuple[int, ...], ...]:
    """The token ids of each context for an encoder, the tokenizer's special tokens included.

    Args:
        tokenizer: The model's tokenizer.
        contexts: C contexts.

    Returns:
        C rows of ids.

    Raises:
        AttunementError: A conversation needs a chat template that the tokenizer doesn't have, or
            a context is left without any token.
    """

    def text_ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=True))

    mend = (
        "the tokenizer adds no token of its own, so the encoder has nothing to read: give it a "
        "prompt"
    )
    return _tokenized(tokenizer, contexts, text_ids, mend)


def distinct_rows(
    rows: Sequence[tuple[int, ...]],
) -> tuple[list[tuple[int, ...]], Tensor]:
    """The different rows in the order of their first, and [R] int64, which each row is."""
    numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    return list(numbers), torch.tensor([numbers[row] for row in rows])


def decode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of each row of ids, special tokens left out."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return [str(tokenizer.decode(list(row), **options)) for row in rows]


def context_limit(config: PreTrainedConfig) -> int | None:
    """How many tokens a model can read in one sequence; None is no limit."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def check_lengths(
    context_tokens: Sequence[Sequence[int]], outcomes: Outcomes, limit: int | None
) -> None:
    """Check that every prompt leaves room for its completion.

    The last token of a completion is never read, so a prompt of L tokens needs
    L + max_new_tokens - 1 positions.

    Raises:
        AttunementError: A prompt is too long; the message names the first such prompt.
    """
    if limit is None:
        return
    for index, tokens in enumerate(context_tokens):
        if len(tokens) + outcomes.max_new_tokens - 1 > limit:
            raise AttunementError(
                f"prompt {index} has {len(tokens)} tokens, which with "
                f"max_new_tokens={outcomes.max_new_tokens} is beyond the model's context of "
                f"{limit}: shorten the prompt or lower max_new_tokens"
            )


def check_source_lengths(
    sources: Sequence[Sequence[int]], outcomes: Outcomes, limit: int | None
) -> None:
    """Check that an encoder can read every prompt, and a decoder every completion.

    Raises:
        AttunementError: One is too long; the message names the first such prompt.
    """
    if limit is None:
        return
    if outcomes.max_new_tokens > limit:
        raise AttunementError(
            f"max_new_tokens={outcomes.max_new_tokens} is beyond the model's {limit} positions: "
            "lower it"
        )
    for index, tokens in enumerate(sources):
        if len(tokens) > limit:
            raise AttunementError(
                f"prompt {index} has {len(tokens)} tokens, beyond the {limit} that the model's "
                "encoder can read: shorten it"
            )


def check_scored_lengths(samples: Samples, limit: int | None) -> None:
    """Check that a model can read given completions after what they go on from.

    Raises:
        AttunementError: One is too long; the message names its context.
    """
    for index, length in zip(samples.context_index.tolist(), samples.lengths.tolist(), strict=True):
        total = len(samples.context_tokens[index]) + length - 1
        if limit is not None and total > limit:
            raise AttunementError(
                f"a completion of context {index} needs {total} positions, beyond the "
                f"model's context of {limit}"
            )


def _tokenized(
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[Context],
    text_ids: Callable[[str], tuple[int, ...]],
    mend: str,
) -> tuple[tuple[int, ...], ...]:
    """Texts as `text_ids` says, conversations as the template writes them; none may be empty."""
    rows = []
    for index, context in enumerate(contexts):
        if isinstance(context.prompt, str):
            ids = text_ids(context.prompt)
        else:
            ids = _text_ids(tokenizer, _render(tokenizer, context.prompt, index))
        if not ids:
            raise AttunementError(f"context {index} is empty and {mend}")
        rows.append(ids)
    return tuple(rows)


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _render(
    tokenizer: PreTrainedTokenizerBase, conversation: tuple[Message, ...], index: int
) -> str:
    if tokenizer.chat_template is None:
        raise AttunementError(
            f"context {index} is a conversation, but the tokenizer has no chat template: "
            "set tokenizer.chat_template or give the prompt as a text"
        )
    text = tokenizer.apply_chat_template(
        [dict(message) for message in conversation], tokenize=False, add_generation_prompt=True
    )
    return str(text)
