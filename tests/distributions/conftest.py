"""Small models with random weights and a byte-level tokenizer, made on the spot."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from attunement.distributions.language import LanguageModel
from attunement.distributions.models import load

torch.set_num_threads(1)


@pytest.fixture
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte after the end token, which is also the padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0} | {byte: index for index, byte in enumerate(alphabet, start=1)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


def make_gpt2(vocabulary: int = 257, spread: float = 0.4) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        vocab_size=vocabulary,
        n_positions=64,
        initializer_range=spread,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def make_llama(vocabulary: int = 257, spread: float = 0.4) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        vocab_size=vocabulary,
        max_position_embeddings=64,
        initializer_range=spread,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


MAKERS = {"gpt2": make_gpt2, "llama": make_llama}


@pytest.fixture(params=sorted(MAKERS))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A model of 257 tokens and 64 positions, of either family."""
    return MAKERS[request.param]()


@pytest.fixture(params=sorted(MAKERS))
def five_token_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A model whose outcomes can be enumerated."""
    return MAKERS[request.param](vocabulary=5, spread=0.15)


def make_bart(vocabulary: int = 14, spread: float = 0.4) -> BartForConditionalGeneration:
    """Starts from its end token, as every BART does, and has 32 positions."""
    torch.manual_seed(0)
    config = BartConfig(
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=16,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=vocabulary,
        max_position_embeddings=32,
        init_std=spread,
        decoder_start_token_id=1,
        forced_eos_token_id=1,
        bos_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return BartForConditionalGeneration(config).eval()


@pytest.fixture(params=["bart", "t5"])
def make_encoder_decoder(
    request: pytest.FixtureRequest, make_t5: Callable[..., PreTrainedModel]
) -> Callable[..., PreTrainedModel]:
    """Makes a model with an encoder, of either family."""
    return make_t5 if request.param == "t5" else make_bart


@pytest.fixture
def encoder_decoder(make_encoder_decoder: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """A model with an encoder, of the 14 tokens of `letters`."""
    return make_encoder_decoder()


@pytest.fixture
def four_token_model(make_encoder_decoder: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """A model with an encoder whose outcomes can be enumerated: padding, end, a, b."""
    return make_encoder_decoder(vocabulary=4)


@pytest.fixture(params=[*sorted(MAKERS), "t5"])
def language_model(
    request: pytest.FixtureRequest,
    byte_tokenizer: PreTrainedTokenizerFast,
    letters: PreTrainedTokenizerFast,
    make_t5: Callable[..., PreTrainedModel],
) -> LanguageModel:
    """A causal model of either family, or one with an encoder, cut at 12 tokens."""
    if request.param == "t5":
        return load(make_t5(), tokenizer=letters, max_new_tokens=12)
    return load(MAKERS[request.param](), tokenizer=byte_tokenizer, max_new_tokens=12)
