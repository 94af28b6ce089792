"""Completions drawn from a language, with the log-probabilities that they were drawn with.

They can be indexed and concatenated, and kept in a file; texts are decoded when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attunement.core.context import Context, Message
from attunement.core.errors import AttunementError
from attunement.core.outcomes import Outcomes

Decoder: TypeAlias = Callable[[Sequence[Sequence[int]]], list[str]]
"""Token ids to texts, special tokens left out: `decoder([[1, 2], [3]]) == ["ab", "c"]`."""


@dataclass(frozen=True)
class Samples:
    """Completions with the log-probabilities that they were drawn with.

    Attributes:
        tokens: [N, T] int64, completion tokens, padded at the right.
        mask: [N, T] bool, true on completion tokens, the end token included.
        context_index: [N] int64, the row of `contexts` that each sample belongs to.
        contexts: The C contexts.
        context_tokens: The token ids that the completions of each context go on from, C rows; the
            start token is part of them.
        log_prob: [N] float64, in nats, under the distribution that drew them.
        finished: [N] bool, false where the completion was cut at `max_new_tokens`.
        outcomes: The sample space that they were drawn from.
        decoder: Token ids to text, or None where the tokens stand for no text.
        source_tokens: The token ids that an encoder reads of each context, C rows; none where the
            model has no encoder and the completion goes on from the context itself.
    """

    tokens: Tensor
    mask: Tensor
    context_index: Tensor
    contexts: tuple[Context, ...]
    context_tokens: tuple[tuple[int, ...], ...]
    log_prob: Tensor
    finished: Tensor
    outcomes: Outcomes
    decoder: Decoder | None = field(default=None, repr=False, compare=False)
    source_tokens: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Samples:
        """The samples at a slice, a list of positions, or an index or boolean tensor."""
        rows = torch.arange(len(self))[index]
        names = ("tokens", "mask", "context_index", "log_prob", "finished")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @cached_property
    def lengths(self) -> Tensor:
        """[N] int64: completion tokens, the end token included."""
        return self.mask.sum(1)

    @cached_property
    def token_lists(self) -> list[list[int]]:
        """The N completions as lists of ids, without padding."""
        return [
            row[:length]
            for row, length in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        ]

    @cached_property
    def texts(self) -> list[str]:
        """The N completions decoded, what follows a stop cut off.

        Raises:
            AttunementError: The samples have no decoder.
        """
        stop = self.outcomes.stop
        texts = self._decode(self.token_lists)
        if not stop.reads_text:
            return texts
        return [text[: stop.find(text)] for text in texts]

    @cached_property
    def full_texts(self) -> list[str]:
        """Context and completion decoded at once (a token may straddle), cut like `texts`.

        What an encoder read isn't part of it: a translation is a text of its own.
        """
        heads = [self.context_tokens[index] for index in self.context_index.tolist()]
        whole = self._decode([[*h, *t] for h, t in zip(heads, self.token_lists, strict=True)])
        if not self.outcomes.stop.reads_text:
            return whole
        uncut = self._decode(self.token_lists)
        surplus = [len(u) - len(t) for u, t in zip(uncut, self.texts, strict=True)]
        return [text[: len(text) - extra] for text, extra in zip(whole, surplus, strict=True)]

    @property
    def sample_contexts(self) -> list[Context]:
        """The context of each of the N samples."""
        return [self.contexts[index] for index in self.context_index.tolist()]

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        if self.decoder is None:
            raise AttunementError("these samples have no decoder: load them with decoder=...")
        return self.decoder(rows)

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """One `Samples` of all parts, in order; equal context tables are kept once.

        Raises:
            AttunementError: Nothing to concatenate, the outcomes differ, or only some of the
                samples have an encoder's tokens.
        """
        if not parts:
            raise AttunementError("there are no samples to concatenate")
        first = parts[0]
        if any(part.outcomes != first.outcomes for part in parts):
            raise AttunementError("samples of different outcomes can't be concatenated")
        if any(bool(part.source_tokens) != bool(first.source_tokens) for part in parts):
            raise AttunementError(
                "samples of a model with an encoder and of one without can't be concatenated"
            )
        contexts, context_tokens, index = first.contexts, first.context_tokens, []
        source_tokens = first.source_tokens
        for part in parts:
            known = (
                part.contexts == first.contexts
                and part.context_tokens == first.context_tokens
                and part.source_tokens == first.source_tokens
            )
            index.append(part.context_index + (0 if known else len(contexts)))
            if not known:
                contexts += part.contexts
                context_tokens += part.context_tokens
                source_tokens += part.source_tokens
        width = max(part.tokens.shape[1] for part in parts)

        def padded(tensor: Tensor) -> Tensor:
            return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))

        return replace(
            first,
            tokens=torch.cat([padded(part.tokens) for part in parts]),
            mask=torch.cat([padded(part.mask) for part in parts]),
            context_index=torch.cat(index),
            contexts=contexts,
            context_tokens=context_tokens,
            source_tokens=source_tokens,
            log_prob=torch.cat([part.log_prob for part in parts]),
            finished=torch.cat([part.finished for part in parts]),
        )

    def save(self, path: Path | str) -> None:
        """Write a safetensors file; contexts travel as JSON in its header, the decoder does not."""
        contexts = [{"prompt": c.prompt, "columns": dict(c.columns)} for c in self.contexts]
        header = {
            "contexts": contexts,
            "context_tokens": self.context_tokens,
            "source_tokens": self.source_tokens,
        }
        names = ("tokens", "mask", "context_index", "log_prob", "finished")
        tensors = {name: getattr(self, name).contiguous() for name in names}
        save_file(tensors, str(path), metadata={"samples": json.dumps(header)})

    @classmethod
    def load(cls, path: Path | str, outcomes: Outcomes, decoder: Decoder | None = None) -> Self:
        """Read what `save` wrote.

        Raises:
            AttunementError: The file isn't a file of samples.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["samples"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
            raise AttunementError(f"{path} is not a readable file of samples: {error}") from error
        return cls(
            **tensors,
            contexts=tuple(
                Context(_frozen_prompt(row["prompt"]), row["columns"]) for row in header["contexts"]
            ),
            context_tokens=tuple(tuple(row) for row in header["context_tokens"]),
            source_tokens=tuple(tuple(row) for row in header["source_tokens"]),
            outcomes=outcomes,
            decoder=decoder,
        )


def _frozen_prompt(prompt: str | list[Message]) -> str | tuple[Message, ...]:
    return prompt if isinstance(prompt, str) else tuple(prompt)
