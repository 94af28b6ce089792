"""The embedded model: a complete transformers folder, small, that loads and samples functions."""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from attunement.core import AttunementError
from attunement.distributions import tiny
from attunement.distributions.tiny import tiny_python_path

FUNCTION = 'def area(self, width):\n    """The area."""\n    return width * self.height\n'


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_python_path(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_python_path())


def bits_per_byte(model, tokenizer, text: str) -> float:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]])
    with torch.inference_mode():
        log_probs = model(tokens[:, :-1]).logits.log_softmax(-1)
    log_prob = log_probs.gather(-1, tokens[:, 1:, None]).sum()
    return float(-log_prob) / math.log(2) / len(text.encode())


def test_folder_is_complete_and_small():
    folder = tiny_python_path()
    names = {file.name for file in folder.iterdir()}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed | {"README.md"} <= names
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 12e6


def test_a_missing_folder_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny, "__file__", str(tmp_path / "tiny.py"))
    with pytest.raises(AttunementError, match="reinstall attunement"):
        tiny_python_path()


def test_weights_are_stored_in_bfloat16():
    with safe_open(tiny_python_path() / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_size_and_context(model):
    assert 2e6 <= model.num_parameters() <= 4e6
    assert model.config.max_position_embeddings == 128
    assert model.dtype == torch.float32


def test_one_special_token_starts_ends_and_pads(model, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert tokenizer.all_special_tokens == ["<|endoftext|>"]
    assert {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} == {end}
    assert {model.config.bos_token_id, model.config.eos_token_id} == {end}
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize(
    "text", [FUNCTION, "", "  \n\t\n é 漢 🙂 \r\n", "x = '''a  b''' # c , d . e !\n", " a 's n't"]
)
def test_tokenizer_gives_back_every_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id not in ids


def test_generation_defaults_do_not_warp():
    defaults = json.loads((Path(tiny_python_path()) / "generation_config.json").read_text())
    assert {"temperature", "top_k", "top_p", "do_sample"}.isdisjoint(defaults)


def test_python_is_likelier_than_the_same_bytes_in_another_order(model, tokenizer):
    shuffled = "".join(sorted(FUNCTION))
    assert bits_per_byte(model, tokenizer, FUNCTION) < 2.5
    assert bits_per_byte(model, tokenizer, shuffled) > 2.5


def test_a_useful_share_of_samples_end_and_compile(model, tokenizer):
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    drawn = model.generate(
        torch.full((400, 1), end),
        attention_mask=torch.ones(400, 1, dtype=torch.long),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=64,
        pad_token_id=end,
    )[:, 1:]
    ended = drawn[(drawn == end).any(dim=1)]
    compiled = sum(_compiles(tokenizer.decode(row, skip_special_tokens=True)) for row in ended)
    assert 0.3 <= compiled / len(drawn) <= 0.7


def _compiles(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "<sample>", "exec")
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
            return False
    return True
