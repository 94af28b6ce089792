import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from attunement.core import AttunementError
from attunement.distributions.drawing import Reshape, Warp, draw

ALMOST_ONE = math.nextafter(1.0, 0.0)
SIZES = (1, 2, 5, 63, 64, 65, 200)


def one_hot_logits(vocabulary, token):
    logits = torch.full((1, vocabulary), -math.inf)
    logits[0, token] = 3.0
    return logits


@pytest.mark.parametrize("vocabulary", SIZES)
@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.5, ALMOST_ONE])
def test_all_mass_on_one_token(vocabulary, uniform):
    for token in {0, vocabulary // 2, vocabulary - 1}:
        drawn, log_prob = draw(
            one_hot_logits(vocabulary, token), torch.tensor([uniform], dtype=torch.float64)
        )
        assert drawn.item() == token
        assert log_prob.item() == 0


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(SIZES[1:]),
    st.sampled_from([0.0, ALMOST_ONE]) | st.floats(0, ALMOST_ONE),
    st.integers(0, 2**31),
    st.sampled_from([1.0, 30.0, 200.0]),
)
def test_a_forbidden_token_is_never_drawn(vocabulary, uniform, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(4, vocabulary, generator=generator)
    forbidden = torch.rand(4, vocabulary, generator=generator) < 0.5
    forbidden[0, -1], forbidden[1, 0] = True, True
    forbidden[:, vocabulary // 2] = False
    logits[forbidden] = -math.inf
    tokens, log_prob = draw(logits, torch.full((4,), uniform, dtype=torch.float64))
    assert not forbidden[torch.arange(4), tokens].any()
    exact = logits.double().log_softmax(1)[torch.arange(4), tokens]
    torch.testing.assert_close(log_prob.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("vocabulary", SIZES)
def test_equally_spaced_uniforms_give_each_token_its_share(vocabulary):
    n = 20_000
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    uniforms = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, _ = draw(logits.expand(n, -1), uniforms)
    shares = tokens.bincount(minlength=vocabulary) / n
    assert (shares - logits.softmax(0)).abs().max() < 1.5 / n
    assert (tokens.diff() >= 0).all()


def test_random_uniforms_fit_the_softmax():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(100, generator=generator)
    uniforms = torch.rand(50_000, generator=generator, dtype=torch.float64)
    tokens, _ = draw(logits.expand(len(uniforms), -1), uniforms)
    expected = logits.double().softmax(0) * len(uniforms)
    observed = tokens.bincount(minlength=100)
    assert stats.chisquare(observed, expected * len(uniforms) / expected.sum()).pvalue > 1e-4


def test_a_nan_is_reported_by_its_log_probability():
    logits = torch.zeros(2, 70)
    logits[1, 3] = math.nan
    tokens, log_prob = draw(logits, torch.full((2,), 0.5, dtype=torch.float64))
    assert log_prob.isnan().tolist() == [False, True]
    assert ((tokens >= 0) & (tokens < 70)).all()


def test_warps_keep_what_they_say():
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))
    kept = {
        Warp(top_k=2): [1, 3],
        Warp(top_k=9): [0, 1, 2, 3],
        Warp(top_p=0.4): [1],
        Warp(top_p=0.41): [1, 3],
        Warp(top_p=0.71): [1, 2, 3],
        Warp(top_p=1e-9): [1],
    }
    for warp, tokens in kept.items():
        assert warp(logits).isfinite().nonzero()[:, 1].tolist() == tokens
    torch.testing.assert_close(Warp(temperature=0.5)(logits), 2 * logits)


def test_only_uncut_warps_have_full_support():
    assert Warp(temperature=2.0).full_support
    assert not Warp(top_p=0.9).full_support
    assert not Warp(top_k=50).full_support


@pytest.mark.parametrize(
    "arguments", [{"temperature": 0.0}, {"temperature": math.inf}, {"top_p": 0.0}, {"top_k": 0}]
)
def test_impossible_warps(arguments):
    with pytest.raises(AttunementError, match=next(iter(arguments))):
        Warp(**arguments)


def test_reshape_leaves_logits_that_need_a_gradient_untouched():
    reshape = Reshape(torch.tensor([1]))
    logits = torch.zeros(2, 3, requires_grad=True)
    reshaped = reshape(logits)
    assert reshaped[:, 1].tolist() == [-math.inf, -math.inf]
    assert logits.isfinite().all()
