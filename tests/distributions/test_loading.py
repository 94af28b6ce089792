import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attunement.core import AttunementError, Stop
from attunement.distributions.causal import Causal
from attunement.distributions.loading import local_folder, model_outcomes


@pytest.fixture
def folder(model, byte_tokenizer, tmp_path):
    Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=6).save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)


def test_what_is_saved_is_loaded_again(model, byte_tokenizer, folder):
    before = Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=6)
    samples = before.sample(["ab", ""], 5, generator=torch.Generator().manual_seed(0))
    for source in (folder, str(folder)):
        after = Causal.load(source, max_new_tokens=6, device="cpu")
        assert after.outcomes == before.outcomes
        assert not after.module.training
        with torch.no_grad():
            assert (after.log_prob(samples) - samples.log_prob).abs().max() < 1e-4
        assert after.decoder(samples.token_lists) == samples.texts
    assert list(folder.glob("*.safetensors"))
    assert not list(folder.glob("*.bin"))


def test_transformers_loads_what_is_saved(model, folder):
    tokens = torch.tensor([[0, 5, 6]])
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).encode("ab") == AutoTokenizer.from_pretrained(
        folder
    ).encode("ab", add_special_tokens=False)


def test_weights_are_loaded_in_the_dtype_asked_for(folder):
    causal = Causal.load(folder, max_new_tokens=6, dtype=torch.bfloat16, device="cpu")
    assert causal.module.dtype == torch.bfloat16


def test_sampling_defaults_of_a_checkpoint_are_not_read(model, byte_tokenizer, folder):
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    plain = Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=6)
    loaded = Causal.load(folder, max_new_tokens=6, device="cpu")
    first, second = (
        causal.sample(None, 20, generator=torch.Generator().manual_seed(0))
        for causal in (plain, loaded)
    )
    assert torch.equal(first.tokens, second.tokens)


def test_the_embedded_model_has_its_own_length():
    causal = Causal.load("tiny-python", device="cpu")
    assert causal.outcomes.max_new_tokens == 64
    assert Causal.load("tiny-python", max_new_tokens=9, device="cpu").outcomes.max_new_tokens == 9
    samples = causal.sample(None, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (causal.log_prob(samples) - samples.log_prob).abs().max() < 1e-4


def test_further_end_tokens_are_special_tokens_that_the_settings_list(model, byte_tokenizer):
    byte_tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    turn = byte_tokenizer.convert_tokens_to_ids("<turn>")
    model.generation_config.eos_token_id = [0, turn, 7]
    outcomes = model_outcomes(model, byte_tokenizer, 5, None, frozenset())
    assert outcomes.stop == Stop(0, further_tokens=frozenset({turn}))
    assert outcomes.start == 0


def test_a_stop_without_a_token_is_given_the_models(model, byte_tokenizer):
    stop = model_outcomes(model, byte_tokenizer, 5, Stop(strings=("x",)), frozenset()).stop
    assert stop == Stop(0, strings=("x",))
    stop = model_outcomes(model, byte_tokenizer, 5, Stop(token=3), frozenset()).stop
    assert stop == Stop(3)


def test_the_start_is_the_bos_token_if_there_is_one(model, byte_tokenizer):
    byte_tokenizer.bos_token = "a"
    start = model_outcomes(model, byte_tokenizer, 5, None, frozenset()).start
    assert start == byte_tokenizer.convert_tokens_to_ids("a")


def test_a_tokenizer_without_special_tokens_is_an_error(model, byte_tokenizer):
    byte_tokenizer.eos_token = None
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    with pytest.raises(AttunementError, match="set its bos_token"):
        model_outcomes(model, byte_tokenizer, 5, None, frozenset())


def test_missing_arguments_are_named(model, byte_tokenizer):
    with pytest.raises(AttunementError, match="max_new_tokens is missing"):
        Causal.load(model, tokenizer=byte_tokenizer)
    with pytest.raises(AttunementError, match="give tokenizer="):
        Causal.load(model, max_new_tokens=5)


@pytest.mark.usefixtures("offline")
def test_a_hub_id_out_of_reach_names_the_embedded_model():
    with pytest.raises(AttunementError, match=r"'no-such/model'.*'tiny-python'"):
        Causal.load("no-such/model", max_new_tokens=5)


@pytest.mark.parametrize("source", ["./nothing/here", "/nothing", "a/b/c", "~/nothing-at-all"])
def test_a_folder_that_is_not_there(source):
    with pytest.raises(AttunementError, match="there is no folder"):
        Causal.load(source, max_new_tokens=5)


def test_a_hub_id_is_no_folder():
    assert local_folder("owner/name") is None
    assert local_folder("gpt2") is None


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(AttunementError, match=r"has no config\.json"):
        Causal.load(tmp_path, max_new_tokens=5)


def test_corrupt_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(AttunementError, match="are complete"):
        Causal.load(folder, max_new_tokens=5)


def test_a_corrupt_configuration(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(AttunementError, match="no model can be loaded from folder"):
        Causal.load(folder, max_new_tokens=5)


def test_missing_weights(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "norm" in name or "ln_f" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AttunementError, match="lacks 1 of the model's weights"):
        Causal.load(folder, max_new_tokens=5)


def test_a_missing_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(AttunementError, match="give one with tokenizer="):
        Causal.load(folder, max_new_tokens=5)


def test_loading_is_quiet(folder, capsys):
    Causal.load(folder, max_new_tokens=5, device="cpu").save(folder.parent / "again")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("device", ["nowhere", "mtia", "cuda:99"])
def test_a_device_that_is_not_there(model, byte_tokenizer, device):
    with pytest.raises(AttunementError, match=f"device '{device}' can't be used here"):
        Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=3, device=device)
