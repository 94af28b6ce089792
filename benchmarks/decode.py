"""Tokens decoded per CPU-second, against `generate` of transformers.

One GPT-2 shape (4 layers, 4 heads, 128 wide, vocabulary 4,096), 128 sequences of 64 tokens from
the start token, sampled at temperature 1 over the full vocabulary, on one thread. No row ends
early on either side: the end token is forbidden to both. Ours also records log-probabilities.

    python benchmarks/decode.py --repetitions 9
"""

from __future__ import annotations

from typing import Any

import harness
import torch
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from attunement.distributions.causal import Causal

SEQUENCES, TOKENS, VOCABULARY, END = 128, 64, 4096, 0


def reference_model() -> GPT2LMHeadModel:
    """The reference shape with random weights."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=4,
            n_head=4,
            n_embd=128,
            vocab_size=VOCABULARY,
            n_positions=256,
            bos_token_id=END,
            eos_token_id=END,
        )
    ).eval()


def any_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A tokenizer of the right size; neither side decodes any text."""
    vocabulary = {"<end>": END} | {f"t{token}": token for token in range(1, size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")


def main() -> None:
    """Run the comparison and write `results/decode.json`."""
    repetitions = harness.repetitions_wanted(__doc__ or "", default=9)
    model: Any = reference_model()
    causal = Causal.load(
        reference_model(),
        tokenizer=any_tokenizer(),
        max_new_tokens=TOKENS,
        forbidden=frozenset({END}),
    )
    generator = torch.Generator().manual_seed(0)
    start = torch.full((SEQUENCES, 1), END)

    def ours() -> None:
        samples = causal.sample(None, SEQUENCES, generator=generator)
        assert int(samples.lengths.sum()) == SEQUENCES * TOKENS

    def peer() -> None:
        ids = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            min_new_tokens=TOKENS,
            max_new_tokens=TOKENS,
            pad_token_id=END,
        )
        assert ids.shape == (SEQUENCES, TOKENS + 1)

    result = harness.compare(
        "decode: GPT-2 shape, 128 x 64 tokens",
        ours,
        peer,
        work=SEQUENCES * TOKENS,
        unit="tokens per CPU-second",
        repetitions=repetitions,
    )
    harness.write(result, "decode.json")


if __name__ == "__main__":
    main()
