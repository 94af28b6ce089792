import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from attunement.core import AttunementError
from attunement.distributions.causal import Causal
from attunement.distributions.probing import require_decodable
from attunement.laws import check_distribution

COMMON = {
    "vocab_size": 257,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ATTENTION = {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture
def hybrid() -> PreTrainedModel:
    """A layer of linear attention under one of full attention."""
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        **COMMON,
        **ATTENTION,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        initializer_range=0.4,
    )
    return Qwen3_5ForCausalLM(config).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_with_attention_can_be_decoded(model, dtype):
    before = [parameter.clone() for parameter in model.to(dtype).parameters()]
    model.train()
    require_decodable(model)
    assert model.training
    assert all(map(torch.equal, before, model.parameters()))


def test_of_linear_attention_the_states_follow_their_rows(hybrid, byte_tokenizer):
    causal = Causal.load(hybrid, tokenizer=byte_tokenizer, max_new_tokens=12)
    check_distribution(causal, ["def f(", "x", "ab"])


def test_a_model_without_a_cache_of_keys_is_refused(byte_tokenizer):
    model = MambaForCausalLM(MambaConfig(**COMMON, state_size=4))
    with pytest.raises(AttunementError, match=r"MambaForCausalLM can't .* takes no past_key_val"):
        Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=4)


def test_a_model_that_keeps_a_state_of_its_own_is_refused():
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        **COMMON,
        **ATTENTION,
        lru_width=16,
        attention_window_size=8,
        block_types=["recurrent", "attention"],
    )
    with pytest.raises(AttunementError, match=r"differs by 0\.\d+ in total variation"):
        require_decodable(RecurrentGemmaForCausalLM(config))


def test_what_a_model_raises_is_named(model):
    def broken(past_key_values=None, **_):  # noqa: ARG001
        raise ValueError("caches of my own\nand more")

    model.forward = broken
    with pytest.raises(AttunementError, match=r"\(caches of my own\)"):
        require_decodable(model)
