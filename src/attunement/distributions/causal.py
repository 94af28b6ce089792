"""Causal language models: what most policies and bases are.

    log p(x | c) = sum_t log softmax(logits(c, x_<t))[x_t]

over the tokens of the completion, the end token included, with forbidden tokens left out of the
softmax. Any causal language model of transformers serves, from the hub, a folder, or as an
object. It is sampled at temperature 1 over its full vocabulary unless a `Warp` is asked for, and
what is recorded while sampling is what scoring gives: the same outcomes, the same softmax in
float32, and sums over tokens in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attunement.core import (
    AttunementError,
    Context,
    Decoder,
    Outcomes,
    Samples,
    Stop,
    as_contexts,
)
from attunement.distributions.attending import single_queries
from attunement.distributions.decoding import Completions, decode
from attunement.distributions.drawing import Reshape, Warp
from attunement.distributions.forward import evaluating, fuse_activations
from attunement.distributions.loading import (
    load_model,
    load_tokenizer,
    model_outcomes,
    require_device,
)
from attunement.distributions.prompts import (
    check_lengths,
    context_limit,
    decode_rows,
    tokenize_contexts,
)
from attunement.distributions.scoring import score
from attunement.distributions.tiny import (
    TINY_PYTHON,
    TINY_PYTHON_MAX_NEW_TOKENS,
    tiny_python_path,
)
from attunement.hub import quiet


@final
class Causal:
    """A causal language model as a distribution over completions.

    Attributes:
        module: The network; its parameters are what is trained.
        tokenizer: Its tokenizer.
        outcomes: The sample space.
        decoder: Token ids to texts, special tokens left out.
        batch_size: Completions decoded at a time.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        outcomes: Outcomes,
        *,
        batch_size: int = 256,
    ):
        """Wrap a network as it stands; `Causal.load` is the usual way.

        Raises:
            AttunementError: Forbidden ids that the vocabulary doesn't have, or all of it.
        """
        vocabulary = module.config.get_text_config(decoder=True).vocab_size
        beyond = [token for token in outcomes.forbidden if not 0 <= token < vocabulary]
        if beyond:
            raise AttunementError(
                f"token {beyond[0]} can't be forbidden: the vocabulary has {vocabulary} tokens"
            )
        if len(outcomes.forbidden) == vocabulary:
            raise AttunementError("every token of the vocabulary is forbidden: allow some")
        if batch_size < 1:
            raise AttunementError(f"batch_size must be at least 1, not {batch_size}")
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
        if device is not None:
            require_device(device)
        if model == TINY_PYTHON:
            model = tiny_python_path()
            if max_new_tokens is None:
                max_new_tokens = TINY_PYTHON_MAX_NEW_TOKENS
        if max_new_tokens is None:
            raise AttunementError(
                "max_new_tokens is missing: say where completions are cut (--max-new-tokens 64)"
            )
        if isinstance(model, PreTrainedModel):
            module = model
            if tokenizer is None:
                raise AttunementError("a model object needs its tokenizer: give tokenizer=...")
        else:
            module = load_model(model, dtype)
            tokenizer = model if tokenizer is None else tokenizer
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = load_tokenizer(tokenizer)
        outcomes = model_outcomes(module, tokenizer, max_new_tokens, stop, forbidden)
        fuse_activations(module)
        if device is not None:
            module.to(device=device)  # pyright: ignore[reportCallIssue]
        return cls(module, tokenizer, outcomes, batch_size=batch_size)

    @property
    def full_support(self) -> bool:
        """True: softmax gives every outcome a probability above 0."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the parameters are. Samples and log-probabilities are on the CPU in any case."""
        return self.module.device

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
        if n < 1:
            raise AttunementError(f"n must be at least 1, not {n}")
        contexts = as_contexts(contexts)
        context_tokens = tokenize_contexts(self.tokenizer, contexts, self.outcomes.start)
        check_lengths(context_tokens, self.outcomes, context_limit(self.module.config))
        context_index = torch.arange(len(contexts)).repeat_interleave(n)
        drawn = self._decode(context_tokens, context_index, generator, warp)
        if not drawn.log_prob.isfinite().all():
            row = int((~drawn.log_prob.isfinite()).nonzero()[0, 0])
            raise AttunementError(
                f"the model's logits aren't finite while sampling from context "
                f"{int(context_index[row])}: its parameters have diverged, or need float32"
            )
        width = int(drawn.lengths.max())
        return Samples(
            tokens=drawn.tokens[:, :width],
            mask=torch.arange(width) < drawn.lengths[:, None],
            context_index=context_index,
            contexts=contexts,
            context_tokens=context_tokens,
            log_prob=drawn.log_prob,
            finished=drawn.finished,
            outcomes=self.outcomes,
            decoder=self.decoder,
        )

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
        self._check(samples)
        heads = [samples.context_tokens[index] for index in samples.context_index.tolist()]
        result = torch.zeros(samples.tokens.shape)
        if not samples.mask.any():
            return result
        with evaluating(self.module):
            rows, columns, values = score(
                self.module, heads, samples.token_lists, self._reshape(warp)
            )
        return result.index_put((rows, columns), values.cpu())

    def warped(self, warp: Warp) -> Warped:
        """The same model with each token's distribution reshaped, to be used as a proposal."""
        return Warped(self, warp)

    def copy(self) -> Self:
        """An independent copy, parameters included; the tokenizer is shared."""
        module = copy.deepcopy(self.module)
        module.zero_grad(set_to_none=True)
        return type(self)(module, self.tokenizer, self.outcomes, batch_size=self.batch_size)

    def save(self, folder: Path | str) -> None:
        """Write model (safetensors) and tokenizer as transformers does, to be loaded by either."""
        with quiet():
            self.module.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def _decode(
        self,
        context_tokens: Sequence[tuple[int, ...]],
        context_index: Tensor,
        generator: torch.Generator,
        warp: Warp | None,
    ) -> Completions:
        """All completions, `batch_size` at a time, prompts of like length together."""
        uniforms = torch.rand(
            (len(context_index), self.outcomes.max_new_tokens),
            generator=generator,
            dtype=torch.float64,
            device=generator.device,
        )
        lengths = torch.tensor([len(tokens) for tokens in context_tokens])[context_index]
        order = lengths.argsort(stable=True)
        with evaluating(self.module), single_queries(self.module):
            parts = [
                decode(
                    self.module,
                    [context_tokens[index] for index in context_index[rows].tolist()],
                    uniforms[rows],
                    self.outcomes,
                    self.decoder,
                    self._reshape(warp),
                )
                for rows in order.split(self.batch_size)
            ]
        back = order.argsort()
        return Completions(
            tokens=torch.cat([part.tokens for part in parts])[back],
            lengths=torch.cat([part.lengths for part in parts])[back],
            log_prob=torch.cat([part.log_prob for part in parts])[back],
            finished=torch.cat([part.finished for part in parts])[back],
        )

    def _reshape(self, warp: Warp | None) -> Reshape:
        forbidden = torch.tensor(sorted(self.outcomes.forbidden), device=self.device)
        return Reshape(forbidden, warp)

    def _check(self, samples: Samples) -> None:
        if samples.outcomes != self.outcomes:
            mine, theirs = self.outcomes.to_json(), samples.outcomes.to_json()
            different = [key for key in mine if mine[key] != theirs[key]] or ["stop_function"]
            raise AttunementError(
                "samples of other outcomes can't be scored; they differ in "
                + ", ".join(f"{key}: {theirs[key]!r} against {mine[key]!r}" for key in different)
            )
        limit = context_limit(self.module.config)
        for index, length in zip(
            samples.context_index.tolist(), samples.lengths.tolist(), strict=True
        ):
            total = len(samples.context_tokens[index]) + length - 1
            if limit is not None and total > limit:
                raise AttunementError(
                    f"a completion of context {index} needs {total} positions, beyond the "
                    f"model's context of {limit}"
                )


@final
@dataclass(frozen=True)
class Warped:
    """A causal model whose tokens are drawn from reshaped distributions (`Warp`).

    Attributes:
        model: The model.
        warp: The reshaping.
    """

    model: Causal
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
        """Draw n completions for each context, as `Causal.sample`."""
        return self.model.sample(contexts, n, generator=generator, warp=self.warp)

    def log_prob(self, samples: Samples) -> Tensor:
        """[N] float64: log-probability under the reshaped distribution; minus infinity is one."""
        return self.model.log_prob(samples, warp=self.warp)
