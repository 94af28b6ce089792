import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from attunement.distributions.attending import single_queries, single_query_attention


@given(
    batch=st.integers(1, 4),
    groups=st.integers(1, 3),
    heads_a_group=st.integers(1, 3),
    seen=st.integers(1, 9),
    masked=st.booleans(),
    biased=st.booleans(),
    scaling=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 1000),
)
def test_it_is_pytorchs_attention(
    batch, groups, heads_a_group, seen, masked, biased, scaling, seed
):
    torch.manual_seed(seed)
    query = torch.randn(batch, groups * heads_a_group, 1, 8)
    room = torch.randn(2, batch, groups, seen + 3, 8)
    key, value = room[0, :, :, :seen], room[1, :, :, :seen]
    mask = None
    if masked:
        mask = torch.rand(batch, 1, 1, seen) < 0.5
        mask[..., -1] = True
    bias = torch.randn(1, groups * heads_a_group, 1, seen) if biased else None
    attended, _ = single_query_attention(
        nn.Module(), query, key, value, mask, scaling=scaling, position_bias=bias
    )
    added = mask
    if bias is not None:
        added = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=added, scale=scaling, enable_gqa=True
    )
    torch.testing.assert_close(attended, expected.transpose(1, 2))


def test_several_queries_are_causal_as_ever():
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    attended, _ = single_query_attention(nn.Module(), query, key, value, None)
    expected = scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(attended, expected.transpose(1, 2))


def test_what_it_does_not_cover_goes_to_the_one_it_stands_in_for():
    query, key, value = torch.randn(3, 2, 4, 1, 8)
    additive = torch.tensor([[[[-1.0]]]])
    attended, _ = single_query_attention(nn.Module(), query, key, value, additive)
    torch.testing.assert_close(attended, value.transpose(1, 2))
    query, key, value = (part.bfloat16() for part in (query, key, value))
    bias = torch.zeros(1, 4, 1, 1, dtype=torch.bfloat16)
    attended, _ = single_query_attention(nn.Module(), query, key, value, None, position_bias=bias)
    assert attended.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="softcap"):
        single_query_attention(nn.Module(), query, key, value, None, softcap=2.0)


def test_the_models_own_choice_is_back_afterwards(model):
    own = model.config._attn_implementation

    def fail_inside():
        with single_queries(model):
            assert model.config._attn_implementation != own
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert model.config._attn_implementation == own == "sdpa"


def test_both_halves_of_a_model_with_an_encoder_get_their_choice_back(encoder_decoder):
    parts = [encoder_decoder, encoder_decoder.get_encoder(), encoder_decoder.get_decoder()]
    with single_queries(encoder_decoder):
        inside = {part.config._attn_implementation for part in parts}
        assert len(inside) == 1
        assert inside != {"sdpa"}
    assert [part.config._attn_implementation for part in parts] == ["sdpa"] * 3


@pytest.mark.parametrize("half", ["get_encoder", "get_decoder"])
def test_a_model_of_mixed_choices_is_left_alone(make_t5, half):
    model = make_t5()
    part = getattr(model, half)()
    part.set_attn_implementation("eager")
    parts = [model, model.get_encoder(), model.get_decoder()]
    before = [part.config._attn_implementation for part in parts]
    assert sorted(before) == ["eager", "sdpa", "sdpa"]
    with single_queries(model):
        assert [part.config._attn_implementation for part in parts] == before
    assert [part.config._attn_implementation for part in parts] == before


def test_another_choice_is_left_alone(model):
    model.set_attn_implementation("eager")
    with single_queries(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"
