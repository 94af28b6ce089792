import pytest
import torch

from attunement.core import AttunementError, Stop
from attunement.distributions.causal import Causal
from attunement.distributions.models import load
from attunement.distributions.seq2seq import Seq2Seq


def test_the_configuration_says_which_family(encoder_decoder, letters, model, byte_tokenizer):
    assert isinstance(load(encoder_decoder, tokenizer=letters, max_new_tokens=4), Seq2Seq)
    assert isinstance(load(model, tokenizer=byte_tokenizer, max_new_tokens=4), Causal)
    assert isinstance(load("tiny-python", device="cpu"), Causal)


def test_a_folder_is_loaded_with_what_was_asked(t5_folder):
    stop = Stop(strings=("d",))
    loaded = load(
        t5_folder,
        max_new_tokens=4,
        stop=stop,
        forbidden=frozenset({0}),
        dtype=torch.bfloat16,
        device="cpu",
        batch_size=7,
    )
    assert isinstance(loaded, Seq2Seq)
    assert loaded.module.dtype == torch.bfloat16
    assert loaded.outcomes.stop == Stop(1, strings=("d",))
    assert loaded.outcomes.forbidden == {0}
    assert loaded.outcomes.max_new_tokens == 4
    assert loaded.batch_size == 7
    samples = loaded.sample(["ab"], 10, generator=torch.Generator().manual_seed(0))
    assert samples.log_prob.dtype == torch.float64


def test_the_other_familys_class_is_named(t5_folder, encoder_decoder, letters):
    with pytest.raises(AttunementError, match=r"t5 has an encoder: load it with Seq2Seq\.load"):
        Causal.load(t5_folder, max_new_tokens=4)
    with pytest.raises(AttunementError, match=r"has an encoder: load it with Seq2Seq\.load"):
        Causal.load(encoder_decoder, tokenizer=letters, max_new_tokens=4)
    with pytest.raises(AttunementError, match=r"tiny-python has no encoder.*Causal\.load"):
        Seq2Seq.load("tiny-python", max_new_tokens=4)


def test_missing_arguments_are_named(t5_folder, encoder_decoder):
    with pytest.raises(AttunementError, match="max_new_tokens is missing"):
        load(t5_folder)
    with pytest.raises(AttunementError, match="give tokenizer="):
        load(encoder_decoder, max_new_tokens=4)


def test_a_hub_id_out_of_reach_names_the_local_alternatives(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    with pytest.raises(AttunementError, match=r"'no-such/t5'.* a local folder or 'tiny-python'"):
        load("no-such/t5", max_new_tokens=5)


def test_a_corrupt_configuration_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(AttunementError, match="no model can be loaded from folder"):
        load(tmp_path, max_new_tokens=5)
