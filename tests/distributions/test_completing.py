import math

import pytest
import torch

from attunement.core import AttunementError, Context, Outcomes, Stop, TokenWise
from attunement.distributions.causal import Causal
from attunement.distributions.completing import draw_samples, score_samples, score_vocabulary
from attunement.distributions.prompts import Prompts
from attunement.distributions.reading import CausalReader

OUTCOMES = Outcomes(0, Stop(0, further_tokens=frozenset(range(1, 30))), 10)
HEADS = ((0, 7, 8, 9), (0,), (0, 5))


@pytest.fixture
def causal(model, byte_tokenizer) -> Causal:
    return Causal(model, byte_tokenizer, OUTCOMES, batch_size=4)


def prompts() -> Prompts:
    return Prompts(tuple(Context(str(length)) for length in range(len(HEADS))), HEADS)


def draw(causal, n=5, seed=0, asked=None):
    def reader_of(rows):
        if asked is not None:
            asked.append(rows)
        return CausalReader(causal.module, [HEADS[row] for row in rows], 10)

    generator = torch.Generator().manual_seed(seed)
    return draw_samples(causal, prompts(), n, reader_of, generator, None)


def test_completions_stand_in_the_order_of_contexts_whatever_order_they_were_decoded_in(causal):
    asked = []
    samples = draw(causal, asked=asked)
    assert asked == [[1, 1, 1, 1], [1, 2, 2, 2], [2, 2, 0, 0], [0, 0, 0]]
    assert samples.context_index.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert samples.context_tokens == HEADS
    with torch.no_grad():
        scores = score_samples(causal, samples, 64, None)
    torch.testing.assert_close(scores.double().sum(1), samples.log_prob, atol=1e-4, rtol=0)
    assert not scores[~samples.mask].any()


def test_every_token_is_scored_at_the_places_of_the_mask(model, byte_tokenizer):
    outcomes = Outcomes(0, OUTCOMES.stop, 10, frozenset({40, 41}))
    causal = Causal(model, byte_tokenizer, outcomes)
    assert isinstance(causal, TokenWise)
    samples = draw(causal)
    assert not samples.mask.all()
    every = score_vocabulary(causal, samples, 64)
    assert every.shape == (*samples.tokens.shape, 257)
    assert not every[~samples.mask].any()
    assert (every[samples.mask][:, [40, 41]] == -math.inf).all()
    chosen = every.gather(2, samples.tokens[:, :, None])[:, :, 0]
    with torch.no_grad():
        torch.testing.assert_close(chosen.detach(), score_samples(causal, samples, 64, None))
    (chosen * samples.mask).sum().backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    causal.log_prob(samples).sum().backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-3, rtol=1e-3)


def test_a_mode_that_was_on_is_on_again(causal):
    causal.module.train()
    draw(causal)
    assert causal.module.training


def test_impossible_requests(causal):
    with pytest.raises(AttunementError, match="n must be at least 1"):
        draw(causal, n=0)
    samples = draw(causal)
    with pytest.raises(AttunementError, match="beyond the model's context of 4"):
        score_samples(causal, samples, 4, None)
    other = Causal(causal.module, causal.tokenizer, Outcomes(0, Stop(0), 10))
    with pytest.raises(AttunementError, match="further_stop_tokens"):
        score_samples(other, samples, 64, None)
    with torch.no_grad():
        causal.module.get_output_embeddings().weight.fill_(math.nan)
    with pytest.raises(AttunementError, match="aren't finite"):
        draw(causal)
