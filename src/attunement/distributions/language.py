"""What a language model of transformers is to the rest of the project, causal or with an encoder.

`Causal` and `Seq2Seq` are both; whoever needs a network with its tokenizer, and not just any
distribution, asks for this. `Warped` is either of them with each token's distribution reshaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attunement.core import AttunementError, Context, Decoder, Outcomes, Samples, TokenWise
from attunement.distributions.drawing import Warp
from attunement.distributions.forward import vocabulary_of


@runtime_checkable
class LanguageModel(TokenWise, Protocol):
    """A network of transformers and its tokenizer, as a distribution that can be trained."""

    @property
    def module(self) -> PreTrainedModel:
        """The network; its parameters are what is trained."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        ...

    @property
    def decoder(self) -> Decoder:
        """Token ids to texts, special tokens left out."""
        ...

    @property
    def batch_size(self) -> int:
        """Completions decoded at a time."""
        ...

    def sample(
        self,
        contexts: Sequence[Context | str] | None,
        n: int,
        *,
        generator: torch.Generator,
        warp: Warp | None = None,
    ) -> Samples:
        """Draw n completions for each context, reshaped where there is a warp."""
        ...

    def log_prob(self, samples: Samples, *, warp: Warp | None = None) -> Tensor:
        """[N] float64: log-probability in nats of each completion; differentiable."""
        ...


def require_same_tokens(base: LanguageModel, other: LanguageModel, name: str) -> None:
    """Raise an error unless two models mean the same by the same ids, and read contexts alike.

    Args:
        base: The base.
        other: What is to be compared with it.
        name: How its user calls the other.

    Raises:
        AttunementError: Their tokenizers differ, or one has an encoder and the other hasn't.
    """
    if base.module.config.is_encoder_decoder != other.module.config.is_encoder_decoder:
        raise AttunementError(
            f"{name} can't be compared with the base: one of them has an encoder for the context "
            "and the other hasn't"
        )
    if base.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise AttunementError(
            f"{name} has another tokenizer than the base: give a model whose tokens are the base's"
        )


def require_drawable(outcomes: Outcomes, module: PreTrainedModel, batch_size: int) -> None:
    """Raise an error unless completions can be drawn from a network.

    Raises:
        AttunementError: Forbidden ids that the vocabulary doesn't have, or all of it; batches of
            nothing; or a decoder without a token to start from.
    """
    vocabulary = vocabulary_of(module)
    beyond = [token for token in outcomes.forbidden if not 0 <= token < vocabulary]
    if beyond:
        raise AttunementError(
            f"token {beyond[0]} can't be forbidden: the vocabulary has {vocabulary} tokens"
        )
    if len(outcomes.forbidden) == vocabulary:
        raise AttunementError("every token of the vocabulary is forbidden: allow some")
    if batch_size < 1:
        raise AttunementError(f"batch_size must be at least 1, not {batch_size}")
    if module.config.is_encoder_decoder and outcomes.start is None:
        raise AttunementError("the decoder needs a token to start from: give the outcomes one")


@final
@dataclass(frozen=True)
class Warped:
    """A language model whose tokens are drawn from reshaped distributions (`Warp`).

    Attributes:
        model: The model.
        warp: The reshaping.
    """

    model: LanguageModel
    warp: Warp

    @property
    def outcomes(self) -> Outcomes:
        """The sample space, that of the model."""
        return self.model.outcomes

    @property
    def full_support(self) -> bool:
        """Whether it can draw whatever the model can, as importance weights need."""
        return self.warp.full_support

    def sample(
        self, contexts: Sequence[Context | str] | None, n: int, *, generator: torch.Generator
    ) -> Samples:
        """Draw n completions for each context, as the model does."""
        return self.model.sample(contexts, n, generator=generator, warp=self.warp)

    def log_prob(self, samples: Samples) -> Tensor:
        """[N] float64: log-probability under the reshaped distribution; minus infinity is one."""
        return self.model.log_prob(samples, warp=self.warp)
