import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from attunement.distributions.forward import (
    causal_inputs,
    evaluating,
    fuse_activations,
    logits_at,
)


def some_tokens(model, shape=(3, 7)):
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    return torch.randint(1, vocabulary, shape, generator=generator)


def test_logits_at_chosen_positions_are_those_of_a_full_pass(model):
    tokens = some_tokens(model)
    chosen = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    with torch.no_grad():
        narrowed = logits_at(model, chosen, causal_inputs(tokens))
        full = model(input_ids=tokens).logits
    torch.testing.assert_close(narrowed, full[chosen])
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_soft_caps_after_the_head_are_kept():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=3.0,
        final_logit_softcapping=2.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = Gemma2ForCausalLM(config).eval()
    tokens = some_tokens(model)
    chosen = torch.zeros(tokens.shape, dtype=torch.bool)
    chosen[:, 3:] = True
    with torch.no_grad():
        narrowed = logits_at(model, chosen, causal_inputs(tokens))
        full = model(input_ids=tokens).logits
    assert full.abs().max() > 1.5
    torch.testing.assert_close(narrowed, full[chosen])


def test_every_module_gets_its_own_mode_back(model):
    model.train()
    frozen = model.get_output_embeddings()
    frozen.eval()
    modes = [part.training for part in model.modules()]
    with pytest.raises(AssertionError), evaluating(model):
        assert any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == modes


def test_fused_activations_compute_the_same(model):
    tokens = some_tokens(model)
    parameters = set(model.state_dict())
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        fuse_activations(model)
        after = model(input_ids=tokens).logits
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)
    assert set(model.state_dict()) == parameters
    assert not any(type(part).__name__ == "NewGELUActivation" for part in model.modules())
