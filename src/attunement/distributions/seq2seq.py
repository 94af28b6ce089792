"""Encoder-decoder language models: T5 and its family, BART and its.

    log p(x | c) = sum_t log softmax(logits(c, x_<t))[x_t]

over the tokens of the completion, the end token included, as for `Causal`; what is conditioned on
is read by an encoder, and the completion begins after the decoder's own start token, which isn't
part of it. (T5 starts from its padding token. Padding never counts, wherever it stands; a padding
token that was drawn does, like any other.) The gradient of a log-probability reaches the encoder.

The encoder reads a prompt with the special tokens that its tokenizer adds, as such models were
trained; so it reads something of the empty context too, T5 its end token. A completion is a text
of its own: `Samples.full_texts` are the completions.

What a checkpoint's generation settings force upon its samples (a first token, for models of many
languages) isn't part of the model's distribution, and is left out. M2M100 derives positions from
where padding tokens stand, so for it the padding token has to be forbidden. Encoders that route
tokens to experts aren't read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast, final

import torch

from attunement.core import Context, Samples, as_contexts
from attunement.distributions.completing import draw_samples
from attunement.distributions.drawing import Warp
from attunement.distributions.pretrained import Pretrained
from attunement.distributions.prompts import (
    Prompts,
    check_source_lengths,
    context_limit,
    tokenize_sources,
)
from attunement.distributions.reading import EncoderDecoderReader


@final
class Seq2Seq(Pretrained):
    """An encoder-decoder language model; its decoder begins with the outcomes' start."""

    has_encoder: ClassVar[bool] = True

    @property
    def start(self) -> int:
        """What the decoder reads before a completion."""
        return cast(int, self.outcomes.start)

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
        sources = tokenize_sources(self.tokenizer, contexts)
        check_source_lengths(sources, self.outcomes, context_limit(self.module.config))
        prompts = Prompts(contexts, ((self.start,),) * len(contexts), sources)
        steps = self.outcomes.max_new_tokens

        def reader_of(rows: Sequence[int]) -> EncoderDecoderReader:
            chosen = [sources[row] for row in rows]
            return EncoderDecoderReader(self.module, chosen, self.start, steps)

        return draw_samples(self, prompts, n, reader_of, generator, warp)
