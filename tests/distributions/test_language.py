import pytest
import torch

from attunement.core import AttunementError, Distribution, Outcomes, Stop
from attunement.distributions.causal import Causal
from attunement.distributions.drawing import Warp
from attunement.distributions.language import (
    LanguageModel,
    Warped,
    require_drawable,
    require_same_tokens,
)
from attunement.distributions.seq2seq import Seq2Seq
from attunement.distributions.tabular import Tabular

OUTCOMES = Outcomes(0, Stop(1), 6)


@pytest.fixture
def with_encoder(make_t5, letters) -> Seq2Seq:
    return Seq2Seq(make_t5(), letters, OUTCOMES)


@pytest.fixture
def causal(model, byte_tokenizer) -> Causal:
    return Causal(model, byte_tokenizer, OUTCOMES)


def test_both_families_are_language_models_and_a_table_is_not(causal, with_encoder):
    assert isinstance(causal, LanguageModel)
    assert isinstance(with_encoder, LanguageModel)
    table = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    assert not isinstance(table, LanguageModel)


def test_models_of_the_same_tokens_can_be_compared(causal, with_encoder):
    require_same_tokens(causal, causal.copy(), "a copy")
    require_same_tokens(with_encoder, with_encoder.copy(), "a copy")


def test_other_tokens_are_refused(make_t5, with_encoder, byte_tokenizer):
    other = Seq2Seq(make_t5(), byte_tokenizer, OUTCOMES)
    with pytest.raises(AttunementError, match="runs/other has another tokenizer than the base"):
        require_same_tokens(with_encoder, other, "runs/other")


def test_the_other_family_is_refused(causal, with_encoder):
    with pytest.raises(AttunementError, match="has an encoder for the context"):
        require_same_tokens(causal, with_encoder, "runs/other")


@pytest.mark.parametrize(
    ("outcomes", "batch_size", "message"),
    [
        (Outcomes(0, Stop(1), 4, frozenset({14})), 8, "token 14"),
        (Outcomes(0, Stop(1), 4, frozenset(range(14))), 8, "every token"),
        (OUTCOMES, 0, "batch_size"),
    ],
)
def test_what_cannot_be_drawn_is_named(encoder_decoder, outcomes, batch_size, message):
    with pytest.raises(AttunementError, match=message):
        require_drawable(outcomes, encoder_decoder, batch_size)


def require_warped(model):
    sharper = Warped(model, Warp(temperature=0.5))
    assert isinstance(sharper, Distribution)
    assert sharper.outcomes == model.outcomes
    assert sharper.full_support
    assert not Warped(model, Warp(top_p=0.5)).full_support
    samples = sharper.sample(["ab"], 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(sharper.log_prob(samples), samples.log_prob, atol=1e-4, rtol=0)
        assert (model.log_prob(samples) - samples.log_prob).abs().mean() > 0.1


def test_a_warped_causal_model_is_a_distribution_on_the_same_outcomes(causal):
    require_warped(causal)


def test_a_warped_model_with_an_encoder_is_a_distribution_on_the_same_outcomes(with_encoder):
    require_warped(with_encoder)
