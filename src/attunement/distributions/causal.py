"""Causal language models: what most policies and bases are.

    log p(x | c) = sum_t log softmax(logits(c, x_<t))[x_t]

over the tokens of the completion, the end token included, with forbidden tokens left out of the
softmax. Any causal language model of transformers serves, from the hub, a folder, or as an
object. It is sampled at temperature 1 over its full vocabulary unless a `Warp` is asked for, and
what is recorded while sampling is what scoring gives: the same outcomes, the same softmax in
float32, and sums over tokens in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch

from attunement.core import Context, Samples, as_contexts
from attunement.distributions.completing import draw_samples
from attunement.distributions.drawing import Warp
from attunement.distributions.pretrained import Pretrained
from attunement.distributions.prompts import (
    Prompts,
    check_lengths,
    context_limit,
    tokenize_contexts,
)
from attunement.distributions.reading import CausalReader


@final
class Causal(Pretrained):
    """A causal language model as a distribution over completions."""

    has_encoder: ClassVar[bool] = False

    def sample(
        self,
        contexts: Sequence[Context | str] | None,
        n: int,
        *,
        generator: torch.Generator,
        warp: Warp | None = None,
    ) -> Samples:
        """Draw n completions for each context; see `Pretrained.sample`."""
        contexts = as_contexts(contexts)
        heads = tokenize_contexts(self.tokenizer, contexts, self.outcomes.start)
        check_lengths(heads, self.outcomes, context_limit(self.module.config))
        steps = self.outcomes.max_new_tokens

        def reader_of(rows: Sequence[int]) -> CausalReader:
            return CausalReader(self.module, [heads[row] for row in rows], steps)

        return draw_samples(self, Prompts(contexts, heads), n, reader_of, generator, warp)
