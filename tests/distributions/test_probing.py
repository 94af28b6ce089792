import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
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
USUAL = COMMON | ATTENTION
LINEAR = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
OLD = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
ALL_HEADS = {"num_key_value_heads": 2}
WINDOW = {"sliding_window": 8}
ARCHITECTURES = {
    **dict.fromkeys(
        (
            "arcee",
            "bitnet",
            "cohere",
            "granite",
            "llama",
            "nemotron",
            "phi3",
            "qwen2",
            "smollm3",
            "stablelm",
            "starcoder2",
        ),
        USUAL,
    ),
    **dict.fromkeys(("biogpt", "gpt_neox", "olmo2", "persimmon", "phi"), USUAL | ALL_HEADS),
    **dict.fromkeys(
        ("ernie4_5", "gemma", "glm", "helium", "hunyuan_v1_dense", "qwen3", "seed_oss"),
        USUAL | {"head_dim": 8},
    ),
    **dict.fromkeys(("cohere2", "exaone4", "mistral", "olmo3"), USUAL | WINDOW),
    **dict.fromkeys(
        ("gemma2", "gemma3_text"), USUAL | WINDOW | {"head_dim": 8, "query_pre_attn_scalar": 8}
    ),
    **dict.fromkeys(("gptj", "codegen"), COMMON | OLD | {"rotary_dim": 2, "n_head": 4}),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), COMMON | OLD),
    **dict.fromkeys(("bloom", "falcon"), COMMON | {"num_attention_heads": 2, "n_head": 2}),
    "ctrl": COMMON | OLD | {"dff": 32},
    "gpt_neo": COMMON
    | {
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "max_position_embeddings": 64,
    },
    "mpt": COMMON | {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 64},
    "opt": USUAL | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "xglm": COMMON
    | {
        "d_model": 16,
        "num_layers": 2,
        "attention_heads": 2,
        "ffn_dim": 32,
        "max_position_embeddings": 64,
    },
    **dict.fromkeys(("mixtral", "gpt_oss"), USUAL | LOCAL_EXPERTS | WINDOW | {"head_dim": 8}),
    "qwen3_moe": USUAL | EXPERTS | {"head_dim": 8},
    "llama4_text": USUAL
    | {
        "head_dim": 8,
        "num_local_experts": 2,
        "intermediate_size_mlp": 32,
        "attention_chunk_size": 8,
    },
    "deepseek_v3": USUAL
    | ALL_HEADS
    | {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "qwen3_5_text": USUAL | LINEAR,
    "qwen3_next": USUAL | LINEAR | EXPERTS | {"shared_expert_intermediate_size": 16},
    "olmo_hybrid": USUAL | {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2": USUAL | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "jamba": USUAL
    | {
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "num_experts": 2,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "use_mamba_kernels": False,
    },
    "bamba": USUAL | MAMBA | {"attn_layer_indices": [1]},
    "falcon_h1": USUAL | MAMBA | {"mamba_n_heads": 2, "mamba_d_ssm": 16},
    "granitemoehybrid": USUAL
    | MAMBA
    | LOCAL_EXPERTS
    | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 16},
    "nemotron_h": USUAL
    | {
        "head_dim": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "ssm_state_size": 4,
        "hybrid_override_pattern": "M*",
    },
}
"""Small configurations of causal models, by the name that transformers has for them."""


@pytest.fixture
def hybrid() -> PreTrainedModel:
    """A layer of linear attention under one of full attention."""
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(**USUAL, **LINEAR, initializer_range=0.4)
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
        **USUAL,
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_decoded_as_they_are_scored(name, byte_tokenizer):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **ARCHITECTURES[name])
    network = AutoModelForCausalLM.from_config(config).eval()
    causal = Causal.load(network, tokenizer=byte_tokenizer, max_new_tokens=12)
    check_distribution(causal, ["def f(", "x", ""])
