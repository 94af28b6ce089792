"""Measure a trained `tiny-python`: bits per byte on held-out files, and the share that compiles.

Bits per byte. Over held-out functions short enough to have been trained on were they not held
out, Σ −log₂ p(function, end token) / Σ bytes. The unit of the 95 % interval is the file: for the
ratio R = Σ y_i / Σ x_i over n files, se² = n/(n−1) · Σ (y_i − R x_i)² / (Σ x_i)², with the t
quantile of n − 1 degrees of freedom (Cochran, Sampling Techniques, 1977, §2.11).

Share that compiles. Of samples at temperature 1 over the full vocabulary, those that end within
the limit and compile; 95 % interval of Wilson (JASA 22, 1927).

    python recipes/tiny_python/evaluate.py --model-dir build/tiny-python
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from corpus import CorpusError, compiles, read_corpus
from train import Settings, decode, encode

LIMITS = (64, 128)


def ratio_interval(
    numerators: list[float], denominators: list[float]
) -> tuple[float, float, float]:
    """The ratio of two sums over the same units, with its 95 % interval.

    Args:
        numerators: One number a unit.
        denominators: One number a unit.

    Returns:
        The ratio, the lower and the upper end.

    Raises:
        ValueError: There are fewer than two units.
    """
    n = len(numerators)
    if n < 2:
        raise ValueError(f"an interval over files needs two files or more, not {n}")
    total = sum(denominators)
    ratio = sum(numerators) / total
    squares = sum((y - ratio * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    error = math.sqrt(n / (n - 1) * squares) / total
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return ratio, ratio - half, ratio + half


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@torch.inference_mode()
def bits_of(model: PreTrainedModel, documents: list[list[int]], rows: int = 64) -> list[float]:
    """−log₂ p of every document, end token included, after the start token.

    Args:
        model: The language model, in float32.
        documents: Token ids, each ended by the end token.
        rows: Documents in a batch.
    """
    bits = [0.0] * len(documents)
    order = sorted(range(len(documents)), key=lambda index: len(documents[index]))
    for at in range(0, len(order), rows):
        chunk = order[at : at + rows]
        length = max(len(documents[index]) for index in chunk)
        end = documents[chunk[0]][-1]
        targets = torch.full((len(chunk), length), -1)
        for line, index in enumerate(chunk):
            targets[line, : len(documents[index])] = torch.tensor(documents[index])
        inputs = torch.cat([torch.full((len(chunk), 1), end), targets[:, :-1]], dim=1)
        log_probs = model(inputs.clamp(min=0)).logits.log_softmax(-1)
        picked = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        sums = (picked * (targets >= 0)).sum(-1) / -math.log(2)
        for index, value in zip(chunk, sums.tolist(), strict=True):
            bits[index] = value
    return bits


def held_out_bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: dict[str, list[str]],
    max_tokens: int,
) -> dict[str, object]:
    """Bits per byte on held-out files, with the interval over files, and bits per token."""
    files = [
        (documents, sum(len(text.encode()) for text in decode(tokenizer, documents)))
        for texts in held_out.values()
        if (documents := encode(tokenizer, texts, max_tokens))
    ]
    bits = iter(bits_of(model, [document for documents, _ in files for document in documents]))
    by_file = [sum(next(bits) for _ in documents) for documents, _ in files]
    sizes = [size for _, size in files]
    ratio, low, high = ratio_interval(by_file, [float(size) for size in sizes])
    tokens = sum(len(document) for documents, _ in files for document in documents)
    return {
        "bits_per_byte": ratio,
        "interval_95": [low, high],
        "bits_per_token": sum(by_file) / tokens,
        "files": len(files),
        "functions": sum(len(documents) for documents, _ in files),
        "bytes": sum(sizes),
        "tokens": tokens,
    }


@torch.inference_mode()
def sample(
    model: PreTrainedModel, end: int, n: int, max_new_tokens: int, generator: torch.Generator
) -> Tensor:
    """Draw `n` completions at temperature 1: `[n, max_new_tokens]`, `end` after the end."""
    inputs = torch.full((n, 1), end)
    cache, drawn = None, []
    running = torch.ones(n, dtype=torch.bool)
    for _ in range(max_new_tokens):
        output = model(inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = torch.multinomial(output.logits[:, -1].softmax(-1), 1, generator=generator)
        token = torch.where(running[:, None], token, end)
        running = running & (token[:, 0] != end)
        drawn.append(token)
        inputs = token
    return torch.cat(drawn, dim=1)


def shares(
    tokens: Tensor, tokenizer: PreTrainedTokenizerBase, end: int, limit: int
) -> dict[str, object]:
    """How many of the completions end within `limit` tokens, and how many of these compile."""
    completions = tokens[:, :limit]
    ended = completions[(completions == end).any(dim=1)]
    good = sum(map(compiles, decode(tokenizer, ended.tolist())))
    return {
        "max_new_tokens": limit,
        "samples": len(tokens),
        "ended": len(ended),
        "ended_share": len(ended) / len(tokens),
        "ended_and_compile": good,
        "share": good / len(tokens),
        "interval_95": list(wilson_interval(good, len(tokens))),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure a trained tiny-python.")
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="a file to write as well")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=Settings.max_tokens,
        help="longest held-out function measured, end token included",
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not (arguments.model_dir / "config.json").is_file():
        parser.error(f"{arguments.model_dir} holds no model: train one with train.py")
    if arguments.samples < 1:
        parser.error("--samples must be positive")
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_dir)
    end = tokenizer.eos_token_id
    generator = torch.Generator().manual_seed(arguments.seed)
    tokens = sample(model, end, arguments.samples, max(LIMITS), generator)
    try:
        held_out = read_corpus().held_out
    except CorpusError as error:
        sys.exit(f"error: {error}")
    report = {
        "parameters": model.num_parameters(),
        "seed": arguments.seed,
        "held_out": held_out_bits_per_byte(model, tokenizer, held_out, arguments.max_tokens),
        "samples": [shares(tokens, tokenizer, end, limit) for limit in LIMITS],
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
