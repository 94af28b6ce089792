"""Readers: how each family of models takes in prompts and the tokens drawn after them.

A causal model reads prompt and completion as one sequence; prompts of unequal length are padded at
the left. An encoder-decoder model reads the prompt with its encoder, once, and the completion with
its decoder, from the start token on; at every step the decoder looks at what it has read (its own
cache, which grows) and at the encoded prompt (the cross-attention's cache, which doesn't).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from attunement.distributions.caching import reserved_cache, select_rows
from attunement.distributions.encoding import decoder_inputs, source_inputs
from attunement.distributions.forward import logits_at
from attunement.distributions.prompts import distinct_rows


@final
class CausalReader:
    """Of a causal language model: every different prompt is read once, then its cache repeated."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], steps: int):
        """Hold the prompts.

        Args:
            model: A causal language model in eval mode.
            prompts: R rows of ids, none empty.
            steps: How many tokens will be drawn at most.
        """
        self.prompts, numbers = distinct_rows(prompts)
        self.model = model
        self.device = model.device
        self.width = max(map(len, self.prompts))
        self.cache = reserved_cache(model.config, self.width + steps)
        self.prompt_of_row = numbers.to(model.device)
        self.lengths = torch.tensor([len(p) for p in self.prompts], device=model.device)
        places = torch.arange(self.width + steps, device=model.device)
        self.mask = (places >= self.width - self.lengths[:, None]).long()
        # Positions are passed only where padding moves them, and only to models that take them:
        # others derive them from the mask.
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.gives_positions = takes_positions and bool((self.lengths < self.width).any())
        self.seen = self.width

    def begin(self) -> Tensor:
        """Read every different prompt, then repeat cache and logits for the rows."""
        padded = [[p[0]] * (self.width - len(p)) + list(p) for p in self.prompts]
        positions = (self.mask[:, : self.width].cumsum(1) - 1).clamp(min=0)
        logits = self._forward(torch.tensor(padded, device=self.model.device), positions)
        self.keep(self.prompt_of_row)
        return logits[self.prompt_of_row]

    def read(self, tokens: Tensor) -> Tensor:
        """Read one more token [A] for each row."""
        positions = (self.lengths + (self.seen - self.width))[:, None]
        self.seen += 1
        return self._forward(tokens[:, None], positions)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (an index may come more than once)."""
        select_rows(self.cache, rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        further = {"position_ids": positions} if self.gives_positions else {}
        inputs = {
            "input_ids": tokens,
            "attention_mask": self.mask[:, : self.seen],
            "past_key_values": self.cache,
            "use_cache": True,
            **further,
        }
        if tokens.shape[1] == 1:
            return self.model(**inputs).logits[:, -1].float()
        last = torch.zeros_like(tokens, dtype=torch.bool)
        last[:, -1] = True
        return logits_at(self.model, last, inputs).float()


@final
class EncoderDecoderReader:
    """Of a model with an encoder: every different source is encoded once, then repeated."""

    def __init__(
        self, model: PreTrainedModel, sources: Sequence[tuple[int, ...]], start: int, steps: int
    ):
        """Hold the sources.

        Args:
            model: An encoder-decoder model in eval mode.
            sources: R rows of ids, none empty, for the encoder.
            start: The id that the decoder reads first.
            steps: How many tokens will be drawn at most.
        """
        different, numbers = distinct_rows(sources)
        self.model = model
        self.device = model.device
        self.source = source_inputs(different, model.device)
        self.source_of_row = numbers.to(model.device)
        self.start = torch.full((len(different), 1), start, device=model.device)
        own = reserved_cache(model.get_decoder().config, steps)
        self.cache = EncoderDecoderCache(own, DynamicCache())
        self.seen = 1

    def begin(self) -> Tensor:
        """Read every different source and the start token, then repeat for the rows."""
        output = self._forward(self.start, self.source)
        self.mask, self.encoded = self.source["attention_mask"], output.encoder_last_hidden_state
        self.keep(self.source_of_row)
        return output.logits[:, -1].float()[self.source_of_row]

    def read(self, tokens: Tensor) -> Tensor:
        """Read one more token [A] for each row."""
        self.seen += 1
        encoded = BaseModelOutput(last_hidden_state=self.encoded)
        source = {"encoder_outputs": encoded, "attention_mask": self.mask}
        return self._forward(tokens[:, None], source).logits[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (an index may come more than once)."""
        self.cache.batch_select_indices(rows)
        self.mask, self.encoded = self.mask[rows], self.encoded[rows]

    def _forward(self, tokens: Tensor, source: Mapping[str, object]) -> Any:
        inputs = {**source, **decoder_inputs(tokens, self.seen)}
        return self.model(**inputs, past_key_values=self.cache, use_cache=True)
