"""A small language whose every sentence can be enumerated: the oracle for everything else.

An autoregressive model over `vocabulary` symbols, symbol 0 being the end token, cut at
`max_new_tokens`. It has one row of logits for every context and prefix, so it can represent any
distribution over its outcomes, and expectations under it are finite sums. It is trainable like a
transformer and satisfies the same protocol, which is why estimators, samplers and objectives are
tested on it.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attunement.core import AttunementError, Context, Outcomes, Samples, Stop, as_contexts
from attunement.distributions.drawing import Warp

END = 0
"""The end token's id."""
_SYMBOLS = string.ascii_lowercase


class Tabular(nn.Module):
    """An exact autoregressive distribution; a policy when its logits are trained.

    Attributes:
        logits: [C, P, V] float64 parameter: a row for every context and prefix.
        prompts: The C prompts that it knows; `("",)` when it is unconditional.
    """

    def __init__(self, logits: Tensor, max_new_tokens: int, prompts: Sequence[str] = ("",)):
        """Hold the logits.

        Args:
            logits: [C, P, V], P = (V^L - 1)/(V - 1) prefixes shorter than L = `max_new_tokens`.
            max_new_tokens: L.
            prompts: C distinct prompts.

        Raises:
            AttunementError: The shape of the logits doesn't fit, or a prompt occurs twice.
        """
        super().__init__()
        if len(set(prompts)) < len(prompts):
            raise AttunementError("the prompts of a tabular model must be distinct")
        vocabulary = logits.shape[-1]
        prefixes = sum(vocabulary**length for length in range(max_new_tokens))
        if tuple(logits.shape) != (len(prompts), prefixes, vocabulary):
            raise AttunementError(
                f"logits of shape {tuple(logits.shape)} don't fit {len(prompts)} prompts, "
                f"{prefixes} prefixes and {vocabulary} symbols"
            )
        if not 2 <= vocabulary <= len(_SYMBOLS) + 1:
            raise AttunementError(f"a tabular vocabulary has 2 to {len(_SYMBOLS) + 1} symbols")
        self.logits = nn.Parameter(logits.detach().to(torch.float64).clone())
        self.prompts = tuple(prompts)
        self._outcomes = Outcomes(None, Stop(token=END), max_new_tokens)

    @classmethod
    def random(
        cls,
        vocabulary: int,
        max_new_tokens: int,
        *,
        generator: torch.Generator,
        prompts: Sequence[str] = ("",),
        scale: float = 1.0,
    ) -> Self:
        """A distribution with normal logits of standard deviation `scale`."""
        prefixes = sum(vocabulary**length for length in range(max_new_tokens))
        shape = (len(prompts), prefixes, vocabulary)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return cls(logits, max_new_tokens, prompts)

    @property
    def outcomes(self) -> Outcomes:
        """The sample space."""
        return self._outcomes

    @property
    def full_support(self) -> bool:
        """Whether every outcome has a probability above 0: no logit is minus infinity."""
        return bool(torch.isfinite(self.logits).all())

    @property
    def module(self) -> nn.Module:
        """Itself: the logits are its parameters."""
        return self

    @property
    def vocabulary(self) -> int:
        """V, the end token included."""
        return self.logits.shape[-1]

    def decoder(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Symbol k is the k-th letter; the end token is nothing."""
        return ["".join(_SYMBOLS[token - 1] for token in row if token != END) for row in rows]

    def sample(
        self, contexts: Sequence[Context | str] | None, n: int, *, generator: torch.Generator
    ) -> Samples:
        """Draw n completions for each context.

        Raises:
            AttunementError: A prompt is unknown.
        """
        contexts = as_contexts(contexts)
        length = self.outcomes.max_new_tokens
        context_index = torch.arange(len(contexts)).repeat_interleave(n)
        rows = self._rows(contexts)[context_index]
        uniforms = torch.rand((len(rows), length), generator=generator, dtype=torch.float64)
        with torch.no_grad():
            probabilities = self.logits.softmax(-1).cumsum(-1)
        prefix = torch.zeros_like(rows)
        open_rows = torch.ones_like(rows, dtype=torch.bool)
        tokens = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for step in range(length):
            cumulative = probabilities[rows, prefix]
            threshold = uniforms[:, step : step + 1] * cumulative[:, -1:]
            drawn = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
            drawn = drawn.clamp(max=self.vocabulary - 1)
            tokens[:, step] = torch.where(open_rows, drawn, END)
            mask[:, step] = open_rows
            open_rows = open_rows & (drawn != END)
            prefix = self._child(prefix, drawn, step)
        return self._samples(tokens, mask, context_index, contexts)

    def log_prob(self, samples: Samples) -> Tensor:
        """[N] float64 log-probabilities in nats, differentiable."""
        return self.token_log_probs(samples).sum(1)

    def token_log_probs(self, samples: Samples) -> Tensor:
        """[N, T] float64: log-probability of each token, 0 where the mask is false."""
        chosen = self.next_token_log_probs(samples).gather(2, samples.tokens[:, :, None])[:, :, 0]
        return torch.where(samples.mask, chosen, 0.0)

    def next_token_log_probs(self, samples: Samples) -> Tensor:
        """[N, T, V] float64: log-probability of every token at each place."""
        rows = self._rows(samples.contexts)[samples.context_index]
        return self.logits.log_softmax(-1)[rows[:, None], self._prefixes(samples.tokens)]

    def enumerate(self, contexts: Sequence[Context | str] | None = None) -> Samples:
        """Every outcome of every context, with its exact log-probability."""
        contexts = as_contexts(contexts)
        length = self.outcomes.max_new_tokens
        grid = torch.cartesian_prod(*[torch.arange(self.vocabulary)] * length).reshape(-1, length)
        ended_before = (grid == END).cumsum(1) - (grid == END).long()
        mask = ended_before == 0
        canonical = ((grid == END) | mask).all(1)
        tokens, mask = grid[canonical], mask[canonical]
        context_index = torch.arange(len(contexts)).repeat_interleave(len(tokens))
        times = len(contexts)
        return self._samples(
            tokens.repeat(times, 1), mask.repeat(times, 1), context_index, contexts
        )

    def warped(self, warp: Warp) -> Self:
        """The same model with each token's distribution reshaped, to be used as a proposal."""
        rows = self.logits.detach().flatten(0, 1)
        logits = warp(rows).reshape(self.logits.shape)
        return type(self)(logits, self.outcomes.max_new_tokens, self.prompts)

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(self.logits, self.outcomes.max_new_tokens, self.prompts)

    def save(self, folder: Path | str) -> None:
        """Write `tabular.safetensors` into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        header = json.dumps({"length": self.outcomes.max_new_tokens, "prompts": self.prompts})
        path = Path(folder) / "tabular.safetensors"
        save_file({"logits": self.logits.detach()}, str(path), metadata={"tabular": header})

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote.

        Raises:
            AttunementError: There is no readable tabular model in the folder.
        """
        path = Path(folder) / "tabular.safetensors"
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["tabular"])
                return cls(file.get_tensor("logits"), header["length"], header["prompts"])
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise AttunementError(f"{path} is not a readable tabular model: {error}") from error

    def _samples(
        self, tokens: Tensor, mask: Tensor, context_index: Tensor, contexts: tuple[Context, ...]
    ) -> Samples:
        samples = Samples(
            tokens=tokens,
            mask=mask,
            context_index=context_index,
            contexts=contexts,
            context_tokens=((),) * len(contexts),
            log_prob=torch.zeros(len(tokens), dtype=torch.float64),
            finished=((tokens == END) & mask).any(1),
            outcomes=self.outcomes,
            decoder=self.decoder,
        )
        with torch.no_grad():
            return replace(samples, log_prob=self.log_prob(samples))

    def _prefixes(self, tokens: Tensor) -> Tensor:
        """[N, T] the row of the prefix that stands before each token."""
        prefix = torch.zeros(len(tokens), dtype=torch.long)
        columns = []
        for step in range(tokens.shape[1]):
            columns.append(prefix)
            prefix = self._child(prefix, tokens[:, step], step)
        return torch.stack(columns, 1)

    def _child(self, prefix: Tensor, token: Tensor, step: int) -> Tensor:
        """The row of a prefix with one more token: prefixes are numbered breadth first."""
        if step + 1 == self.outcomes.max_new_tokens:
            return prefix
        return prefix * self.vocabulary + 1 + token

    def _rows(self, contexts: Sequence[Context]) -> Tensor:
        known = {prompt: row for row, prompt in enumerate(self.prompts)}
        for context in contexts:
            if not isinstance(context.prompt, str) or context.prompt not in known:
                raise AttunementError(
                    f"the tabular model doesn't know the prompt {context.prompt!r}"
                )
        return torch.tensor([known[str(context.prompt)] for context in contexts])
