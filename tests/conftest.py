"""Offline, one thread a worker, no progress; samples made of texts, a model with an encoder."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from attunement.core import Context, Message, Outcomes, Samples, Stop

torch.set_num_threads(1)

END = 0x110000
"""The end token; every other token is the code point of a character."""


def _decode(rows: Sequence[Sequence[int]]) -> list[str]:
    return ["".join(chr(token) for token in row if token != END) for row in rows]


def _content(prompt: str | tuple[Message, ...]) -> str:
    return prompt if isinstance(prompt, str) else "".join(turn["content"] for turn in prompt)


def _make_samples(
    texts: Sequence[str],
    prompts: Sequence[str | tuple[Message, ...]] | None = None,
    columns: Sequence[Mapping[str, object]] | None = None,
    finished: Sequence[bool] | None = None,
    decoded: bool = True,
) -> Samples:
    """Samples whose completions read as given, one context a sample."""
    count = len(texts)
    prompts = [""] * count if prompts is None else prompts
    columns = [{}] * count if columns is None else columns
    finished = [True] * count if finished is None else finished
    ends = [[END] if done else [] for done in finished]
    rows = [[*map(ord, text), *end] for text, end in zip(texts, ends, strict=True)]
    width = max(map(len, rows), default=0)
    return Samples(
        tokens=torch.tensor(
            [[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64
        ).reshape(count, width),
        mask=torch.tensor(
            [[position < len(row) for position in range(width)] for row in rows], dtype=torch.bool
        ).reshape(count, width),
        context_index=torch.arange(count),
        contexts=tuple(
            Context(prompt, fields) for prompt, fields in zip(prompts, columns, strict=True)
        ),
        context_tokens=tuple(tuple(map(ord, _content(prompt))) for prompt in prompts),
        log_prob=torch.zeros(count, dtype=torch.float64),
        finished=torch.tensor(finished, dtype=torch.bool),
        outcomes=Outcomes(start=None, stop=Stop(token=END), max_new_tokens=max(1, width)),
        decoder=_decode if decoded else None,
    )


def _letters() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<end>": 1} | {x: id for id, x in enumerate("abcdefghijkl", start=2)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing("$A <end>", special_tokens=[("<end>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")


def _make_t5(vocabulary: int = 14, spread: float = 1.0) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        num_layers=1,
        num_decoder_layers=2,
        num_heads=2,
        d_model=16,
        d_kv=8,
        d_ff=32,
        vocab_size=vocabulary,
        initializer_factor=spread,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def letters() -> PreTrainedTokenizerFast:
    """A token a letter, a to l, after padding (0) and end (1), which stands behind a text."""
    return _letters()


@pytest.fixture(scope="session")
def make_t5() -> Callable[..., T5ForConditionalGeneration]:
    """Makes a T5 with random weights, for `letters`; it starts from its padding token."""
    return _make_t5


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 and its tokenizer as transformers saves them, not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "t5"
    _make_t5().save_pretrained(folder)
    _letters().save_pretrained(folder)
    return folder


def _launch(*arguments: str, count: int = 2) -> list[str]:
    """Run Python with these arguments in several processes that know of each other.

    Returns:
        What each wrote on standard output.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        done = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    errors = "\n".join(error for _, error in done)
    assert all(process.returncode == 0 for process in started), errors
    return [out for out, _ in done]


@pytest.fixture(scope="session")
def launch() -> Callable[..., list[str]]:
    """Several processes as a launcher starts them, on gloo."""
    return _launch


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., Samples]:
    """Samples whose completions read as given."""
    return _make_samples
