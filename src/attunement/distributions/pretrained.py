"""What all language models of transformers have in common: everything but how a context is read.

`Causal` and `Seq2Seq` are the two families. Each says how contexts become tokens and what reads
them (`sample`); loading, scoring, copying and saving are the same for both and stand here.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attunement.core import Context, Decoder, Outcomes, Samples, Stop
from attunement.distributions.completing import score_samples, score_vocabulary
from attunement.distributions.drawing import Warp
from attunement.distributions.language import Warped, require_drawable
from attunement.distributions.loading import (
    load_network,
    model_outcomes,
    require_length,
    save_network,
)
from attunement.distributions.prompts import context_limit, decode_rows
from attunement.distributions.tiny import TINY_PYTHON, TINY_PYTHON_MAX_NEW_TOKENS


class Pretrained(ABC):
    """A language model of transformers as a distribution over completions.

    Attributes:
        has_encoder: Whether the family reads a context with an encoder.
        module: The network; its parameters are what is trained.
        tokenizer: Its tokenizer.
        outcomes: The sample space.
        decoder: Token ids to texts, special tokens left out.
        batch_size: Completions decoded at a time.
    """

    has_encoder: ClassVar[bool]

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        outcomes: Outcomes,
        *,
        batch_size: int = 256,
    ):
        """Wrap a network as it stands; `load` is the usual way.

        Raises:
            AttunementError: Forbidden ids that the vocabulary doesn't have, or all of it; or
                outcomes without a start where a decoder needs one.
        """
        require_drawable(outcomes, module, batch_size)
        self.module = module
        self.tokenizer = tokenizer
        self.outcomes = outcomes
        self.batch_size = batch_size
        self.decoder: Decoder = partial(decode_rows, tokenizer)

    @classmethod
    def load(
        cls,
        model: str | Path | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        max_new_tokens: int | None = None,
        stop: Stop | None = None,
        forbidden: frozenset[int] = frozenset(),
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        batch_size: int = 256,
    ) -> Self:
        """Load a model.

        Args:
            model: A hub id, a folder, `tiny-python`, or a model object, which is not copied and
                keeps its dtype. Activations are fused where PyTorch has a kernel for them.
            tokenizer: A tokenizer or where to find one; by default where the model is.
            max_new_tokens: The length at which completions are cut; 64 for `tiny-python`.
            stop: What ends a completion; without a token of its own it is given the model's.
            forbidden: Ids that are never drawn.
            dtype: What weights are loaded as. The log-softmax is float32 in any case.
            device: Where to put the model; by default an object stays where it is, and others
                go to the first GPU if there is one.
            batch_size: Completions decoded at a time.

        Raises:
            AttunementError: Something can't be found or read; the message names the mend.
        """
        if model == TINY_PYTHON and max_new_tokens is None and not cls.has_encoder:
            max_new_tokens = TINY_PYTHON_MAX_NEW_TOKENS
        length = require_length(max_new_tokens)
        module, tokenizer = load_network(
            model, tokenizer, has_encoder=cls.has_encoder, dtype=dtype, device=device
        )
        outcomes = model_outcomes(module, tokenizer, length, stop, forbidden)
        return cls(module, tokenizer, outcomes, batch_size=batch_size)

    @property
    def full_support(self) -> bool:
        """True: softmax gives every outcome a probability above 0."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the parameters are. Samples and log-probabilities are on the CPU in any case."""
        return self.module.device

    @abstractmethod
    def sample(
        self,
        contexts: Sequence[Context | str] | None,
        n: int,
        *,
        generator: torch.Generator,
        warp: Warp | None = None,
    ) -> Samples:
        """Draw n completions for each context, those of one context next to each other.

        The uniforms [N, max_new_tokens] of all completions are drawn first; each completion is a
        function of its context and its own row of them, whatever `batch_size` is.

        Args:
            contexts: C contexts; None for the empty one.
            n: Completions for each.
            generator: The source of randomness.
            warp: A reshaping of each token's distribution, of which `log_prob` is then that.

        Raises:
            AttunementError: A prompt is too long or can't be rendered, n is below 1, or the
                model's logits aren't finite.
        """
        ...

    def log_prob(self, samples: Samples, *, warp: Warp | None = None) -> Tensor:
        """[N] float64: log-probability in nats of each completion; differentiable.

        The graph of a differentiable result can be walked once.

        Raises:
            AttunementError: The samples have other outcomes, or exceed the model's context.
        """
        return self.token_log_probs(samples, warp=warp).double().sum(1)

    def token_log_probs(self, samples: Samples, *, warp: Warp | None = None) -> Tensor:
        """[N, T] float32: log-probability of each token, 0 where the mask is false.

        Raises:
            AttunementError: The samples have other outcomes, or exceed the model's context.
        """
        return score_samples(self, samples, context_limit(self.module.config), warp)

    def next_token_log_probs(self, samples: Samples) -> Tensor:
        """[N, T, V] float32: log-probability of every token at each place of the mask.

        Minus infinity for a forbidden token; 0 outside the mask. Differentiable.

        Raises:
            AttunementError: The samples have other outcomes, or exceed the model's context.
        """
        return score_vocabulary(self, samples, context_limit(self.module.config))

    def warped(self, warp: Warp) -> Warped:
        """The same model with each token's distribution reshaped, to be used as a proposal."""
        return Warped(self, warp)

    def copy(self) -> Self:
        """An independent copy, parameters included; shared are tokenizer and an adapter's base."""
        module = copy.deepcopy(self.module)
        module.zero_grad(set_to_none=True)
        return type(self)(module, self.tokenizer, self.outcomes, batch_size=self.batch_size)

    def save(self, folder: Path | str) -> None:
        """Write model (safetensors) and tokenizer as transformers does, to be loaded by either."""
        save_network(self.module, self.tokenizer, folder)
