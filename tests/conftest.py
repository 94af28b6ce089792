"""Offline, one thread a worker, no progress in the output; and a small model with an encoder."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

torch.set_num_threads(1)


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
