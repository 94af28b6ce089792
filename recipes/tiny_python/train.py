"""Train `tiny-python`, the embedded language model, from scratch.

Documents are short Python functions (see corpus.py), written as

    <|endoftext|> function <|endoftext|>

and whole documents are packed into rows. A block-diagonal attention mask and positions that begin
at 0 in every document make each one be seen as it is sampled: alone, after the start token. The
model is a small GPT-2 with tied embeddings, trained on the cross-entropy of the function and its
end token. Matrices are moved by Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon),
embeddings and gains by AdamW (Loshchilov & Hutter, arXiv 1711.05101). The learning rate warms up,
stays, and falls linearly to zero over the last part of the time given. The saved weights are
rounded to bfloat16. A training can be given more time later, as a further leg with a schedule of
its own.

    python recipes/tiny_python/train.py --minutes 60 --output-dir build/tiny-python
    python recipes/tiny_python/train.py --minutes 60 --start-from build/tiny-python \
        --output-dir build/longer
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from corpus import Corpus, read_corpus

END_OF_TEXT = "<|endoftext|>"
PIECES = r"[^\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^\sA-Za-z0-9]+|\n[\n ]*| +|\s"
"""A word with the sign before it, digits, signs, or a line's end with the indent after it."""


@dataclass(frozen=True)
class Settings:
    """What a training is made of.

    Attributes:
        seed: Seed of the weights and of the order of the documents.
        vocabulary: Entries of the tokenizer.
        max_tokens: Longest document in tokens, end token included, start token not.
        width: Size of the hidden states.
        layers: Number of blocks.
        heads: Attention heads.
        row_tokens: Tokens in a row of packed documents.
        rows: Rows in a micro-batch.
        micro_batches: Micro-batches in a step.
        matrix_learning_rate: Peak learning rate of Muon.
        vector_learning_rate: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay.
        warm_up: Share of the time over which the learning rate rises.
        decay: Share of the time over which it falls to zero.
    """

    seed: int = 1
    vocabulary: int = 4096
    max_tokens: int = 128
    width: int = 192
    layers: int = 4
    heads: int = 6
    row_tokens: int = 128
    rows: int = 16
    micro_batches: int = 2
    matrix_learning_rate: float = 0.02
    vector_learning_rate: float = 0.003
    weight_decay: float = 0.1
    warm_up: float = 0.02
    decay: float = 0.4


def train_tokenizer(texts: list[str], vocabulary: int, longest: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one special token for start, end and padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=longest,
    )


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_tokens: int, chunk: int = 10_000
) -> list[list[int]]:
    """Token ids, end token included, of the texts that have at most `max_tokens` of them."""
    end = cast(int, tokenizer.eos_token_id)
    documents: list[list[int]] = []
    for at in range(0, len(texts), chunk):
        rows = tokenizer(texts[at : at + chunk], add_special_tokens=False, verbose=False)
        ids = cast(list[list[int]], rows["input_ids"])
        documents.extend([*row, end] for row in ids if len(row) < max_tokens)
    return documents


def decode(tokenizer: PreTrainedTokenizerBase, documents: list[list[int]]) -> list[str]:
    """The texts of encoded documents, without their end tokens."""
    return tokenizer.batch_decode(documents, skip_special_tokens=True)


def new_model(settings: Settings, end: int) -> GPT2LMHeadModel:
    """A model with random weights, whose context is the longest document."""
    torch.manual_seed(settings.seed)
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.max_tokens,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return GPT2LMHeadModel(config)


def pack(documents: list[list[int]], row_tokens: int, open_rows: int = 64) -> list[list[list[int]]]:
    """Rows of whole documents: each goes into the fullest open row that still holds it.

    Args:
        documents: Token ids by document, in the order in which they are packed.
        row_tokens: Room of a row; a document's start token takes the place of its end token.
        open_rows: Rows kept open; beyond it the fullest one is closed.
    """
    closed: list[list[list[int]]] = []
    rows: list[tuple[int, list[list[int]]]] = []
    for document in documents:
        need = len(document)
        fitting = [at for at, (room, _) in enumerate(rows) if room >= need]
        if fitting:
            at = min(fitting, key=lambda index: rows[index][0])
            room, row = rows.pop(at)
        else:
            room, row = row_tokens, []
        rows.append((room - need, [*row, document]))
        if len(rows) > open_rows:
            closed.append(rows.pop(min(range(len(rows)), key=lambda index: rows[index][0]))[1])
    return closed + [row for _, row in rows]


@dataclass(frozen=True)
class Batch:
    """A micro-batch of packed rows.

    Attributes:
        tokens: `[rows, row_tokens]`, start tokens and padding included.
        labels: `[rows, row_tokens]`, the next token within the document, or −100.
        positions: `[rows, row_tokens]`, from 0 in every document.
        mask: `[rows, 1, row_tokens, row_tokens]`, true where a token may look.
    """

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor


def collate(rows: list[list[list[int]]], row_tokens: int, end: int) -> Batch:
    """Lay packed rows out as tensors."""
    tokens = torch.full((len(rows), row_tokens), end)
    labels = torch.full((len(rows), row_tokens), -100)
    positions = torch.zeros(len(rows), row_tokens, dtype=torch.long)
    owner = torch.full((len(rows), row_tokens), -1)
    for line, row in enumerate(rows):
        at = 0
        for number, document in enumerate(row):
            stop = at + len(document)
            tokens[line, at + 1 : stop] = torch.tensor(document[:-1], dtype=torch.long)
            labels[line, at:stop] = torch.tensor(document)
            positions[line, at:stop] = torch.arange(len(document))
            owner[line, at:stop] = number
            at = stop
    same = owner[:, :, None] == owner[:, None, :]
    causal = torch.ones(row_tokens, row_tokens, dtype=torch.bool).tril()
    return Batch(tokens, labels, positions, (same & causal)[:, None])


def batches(documents: list[list[int]], settings: Settings, end: int) -> Iterator[Batch]:
    """Micro-batches for ever: each pass over the documents is in a new order.

    Raises:
        ValueError: The documents don't fill one micro-batch.
    """
    order = random.Random(settings.seed)
    while True:
        rows = pack(order.sample(documents, len(documents)), settings.row_tokens)
        order.shuffle(rows)
        if len(rows) < settings.rows:
            raise ValueError(f"{len(rows)} rows of documents don't fill a batch of {settings.rows}")
        for at in range(0, len(rows) - settings.rows + 1, settings.rows):
            yield collate(rows[at : at + settings.rows], settings.row_tokens, end)


def learning_rate_factor(progress: float, settings: Settings) -> float:
    """The share of the peak learning rate at `progress` in [0, 1]: a trapezoid that ends at 0."""
    rising = progress / settings.warm_up if settings.warm_up else 1.0
    falling = (1 - progress) / settings.decay if settings.decay else 1.0
    return max(0.0, min(1.0, rising, falling))


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is orthogonalised, for matrices (Jordan et al. 2024).

    That of PyTorch computes in bfloat16, which takes most of a step on a processor without
    instructions for it; this one computes in float32, all matrices of one shape at once.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        fused: list[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ):
        """Move matrices [inputs, outputs] by `lr`, scaled by √(outputs / inputs) where above 1.

        Args:
            matrices: Each is orthogonalised whole.
            fused: Each holds three matrices side by side, those of queries, keys and values.
            lr: Learning rate.
            weight_decay: Decoupled weight decay.
            momentum: Weight of the past in the average of the gradients.
        """
        groups = [{"params": matrices, "parts": 1}, {"params": fused, "parts": 3}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002
        """One step, with Nesterov's momentum and decoupled weight decay."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for (inputs, outputs), matrices in by_shape.items():
                nesterov = torch.stack([self._lookahead(m, group["momentum"]) for m in matrices])
                width = outputs // group["parts"]
                parts = torch.cat(nesterov.split(width, dim=2))
                directions = torch.cat(orthogonalised(parts).split(len(matrices)), dim=2)
                scale = group["lr"] * max(1.0, width / inputs) ** 0.5
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.sub_(direction, alpha=scale)

    def _lookahead(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        gradient = matrix.grad
        if gradient is None:
            raise ValueError("Muon moves matrices that all have a gradient")
        average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """[K, rows, columns] about U Vᵀ for U S Vᵀ: a quintic Newton–Schulz iteration.

    The coefficients are Jordan's: singular values end between 0.7 and 1.2, which is near enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def make_optimizers(model: GPT2LMHeadModel, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, biases and gains."""
    blocks = [(name, p) for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    fused = [parameter for name, parameter in blocks if "c_attn" in name]
    matrices = [parameter for name, parameter in blocks if "c_attn" not in name]
    inside = {id(parameter) for _, parameter in blocks}
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    muon = Muon(matrices, fused, settings.matrix_learning_rate, settings.weight_decay)
    adam = torch.optim.AdamW(
        others, lr=settings.vector_learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def make_loss(
    model: GPT2LMHeadModel, *, compiled: bool, bfloat16: bool
) -> Callable[[Batch], Tensor]:
    """The summed cross-entropy, in nats, of a micro-batch.

    Args:
        model: The model, in float32.
        compiled: Whether to compile it.
        bfloat16: Whether products are computed in bfloat16, which pays only where the processor
            has instructions for it (AVX512-BF16, AMX): elsewhere it is tens of times slower.
    """

    def loss(tokens: Tensor, labels: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            hidden = model.transformer(
                tokens, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            logits = model.lm_head(hidden)
        return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")

    function = torch.compile(loss, dynamic=False) if compiled else loss
    return lambda batch: function(batch.tokens, batch.labels, batch.positions, batch.mask)


@dataclass
class Progress:
    """What a training has done: steps, tokens (end tokens included), seconds of training."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


def move(
    model: GPT2LMHeadModel,
    optimizers: list[torch.optim.Optimizer],
    loss_of: Callable[[Batch], Tensor],
    step: list[Batch],
    factor: float,
) -> tuple[float, int]:
    """One step of gradient descent on the mean loss of `step`.

    Args:
        model: Changed in place.
        optimizers: Each moves its own parameters.
        loss_of: The summed loss of a micro-batch.
        step: The micro-batches.
        factor: Share of the peak learning rates.

    Returns:
        The summed loss, in nats, and the number of tokens that it is a sum over.
    """
    count = sum(int((batch.labels >= 0).sum()) for batch in step)
    total = 0.0
    for batch in step:
        loss = loss_of(batch)
        (loss / count).backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
    model.zero_grad()
    return total, count


def train(
    model: GPT2LMHeadModel,
    documents: list[list[int]],
    settings: Settings,
    *,
    end: int,
    minutes: float,
    max_steps: int | None,
    compiled: bool,
    bfloat16: bool,
) -> Progress:
    """Train `model` in place until the time or the steps are over.

    The learning rate follows the clock, or the steps where `max_steps` is given; only the latter
    is repeated exactly by the same seed and number of threads.
    """
    loss_of = make_loss(model, compiled=compiled, bfloat16=bfloat16)
    optimizers = make_optimizers(model, settings)
    stream = batches(documents, settings, end)
    loss_of(next(stream)).backward()  # Compiles before the clock starts.
    model.zero_grad()
    done, start = Progress(), time.monotonic()
    recent_loss, recent_tokens = 0.0, 0
    while True:
        done.seconds = time.monotonic() - start
        share = done.steps / max_steps if max_steps else done.seconds / (60 * minutes)
        if share >= 1:
            return done
        step = [next(stream) for _ in range(settings.micro_batches)]
        factor = learning_rate_factor(share, settings)
        total, count = move(model, optimizers, loss_of, step, factor)
        done.steps += 1
        done.tokens += count
        recent_loss, recent_tokens = recent_loss + total, recent_tokens + count
        if done.steps % 100 == 0:
            print(
                f"step {done.steps}  {share:6.1%}  loss {recent_loss / recent_tokens:.4f} "
                f"nats/token  {done.tokens / (time.monotonic() - start):.0f} tokens/s",
                flush=True,
            )
            recent_loss, recent_tokens = 0.0, 0


def load(folder: Path) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast, list[dict]]:
    """A trained model in float32, its tokenizer, and what its legs did."""
    legs = json.loads((folder / "training.json").read_text())["legs"]
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    return model, PreTrainedTokenizerFast.from_pretrained(folder), legs


def save(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path, record: dict
) -> None:
    """Write the rounded weights, the tokenizer and the record of the training."""
    folder.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def describe(corpus: Corpus, documents: list[list[int]], kept: list[str]) -> dict:
    """What the corpus was, for the record."""
    return {
        "sources": [asdict(source) for source in corpus.sources],
        "distinct_functions": len(corpus.train),
        "training_functions": len(documents),
        "training_bytes": sum(len(text.encode()) for text in kept),
        "training_tokens": sum(map(len, documents)),
        "held_out_files": len(corpus.held_out),
    }


def main() -> None:
    """Read the corpus, train, save."""
    parser = argparse.ArgumentParser(description="Train the embedded model tiny-python.")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the training")
    parser.add_argument("--max-steps", type=int, help="number of steps; overrides --minutes")
    parser.add_argument("--start-from", type=Path, help="a trained folder, to go on from")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="slower; needs no C++ compiler")
    parser.add_argument(
        "--bfloat16", action="store_true", help="faster on AVX512-BF16 and AMX, slower elsewhere"
    )
    arguments = parser.parse_args()
    steps = 1 if arguments.max_steps is None else arguments.max_steps
    if min(arguments.minutes, arguments.threads, steps) <= 0:
        parser.error("--minutes, --max-steps and --threads must be positive")
    start = arguments.start_from
    if start is not None and not (start / "training.json").is_file():
        parser.error(f"--start-from {start}: no training.json there, so nothing was trained there")
    torch.set_num_threads(arguments.threads)
    settings = Settings(seed=arguments.seed)

    corpus = read_corpus()
    if start is None:
        short = [text for text in corpus.train if len(text) <= 4 * settings.max_tokens]
        tokenizer = train_tokenizer(short, settings.vocabulary, settings.max_tokens)
        model, legs = new_model(settings, cast(int, tokenizer.eos_token_id)), []
    else:
        model, tokenizer, legs = load(start)
    documents = encode(tokenizer, corpus.train, settings.max_tokens)
    kept = decode(tokenizer, documents)
    end = documents[0][-1]
    description = describe(corpus, documents, kept)
    print({key: value for key, value in description.items() if key != "sources"}, flush=True)

    print(f"{model.num_parameters()} parameters", flush=True)
    done = train(
        model,
        documents,
        replace(settings, seed=settings.seed + len(legs)),
        end=end,
        minutes=arguments.minutes,
        max_steps=arguments.max_steps,
        compiled=not arguments.no_compile,
        bfloat16=arguments.bfloat16,
    )
    legs = [*legs, {"seed": settings.seed + len(legs), **asdict(done)}]
    record = {"settings": asdict(settings), "corpus": description, "legs": legs}
    save(model, tokenizer, arguments.output_dir, record)


if __name__ == "__main__":
    main()
