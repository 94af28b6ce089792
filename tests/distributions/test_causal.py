import math
from itertools import product

import pytest
import torch
from scipy import stats

from attunement.core import AttunementError, Outcomes, Samples, Stop, Trainable
from attunement.distributions.causal import Causal
from attunement.distributions.drawing import Warp
from attunement.distributions.language import Warped

PROMPTS = ["", "hello", "a longer prompt"]
FURTHER_ENDS = frozenset(range(1, 12))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def causal(model, byte_tokenizer) -> Causal:
    stop = Stop(0, further_tokens=FURTHER_ENDS)
    return Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=20, stop=stop)


def every_outcome(outcomes: Outcomes, prompt=(0,)) -> Samples:
    """All completions of a five-token model, as samples of one context."""
    steps, end = outcomes.max_new_tokens, outcomes.stop.token
    ordinary = [token for token in range(5) if token != end]
    rows = []
    for length in range(steps):
        rows += [[*row, end] for row in product(ordinary, repeat=length)]
    rows += [list(row) for row in product(ordinary, repeat=steps)]
    lengths = torch.tensor([len(row) for row in rows])
    return Samples(
        tokens=torch.tensor([row + [0] * (steps - len(row)) for row in rows]),
        mask=torch.arange(steps) < lengths[:, None],
        context_index=torch.zeros(len(rows), dtype=torch.int64),
        contexts=(),
        context_tokens=(prompt,),
        log_prob=torch.zeros(len(rows), dtype=torch.float64),
        finished=torch.tensor([row[-1] == end for row in rows]),
        outcomes=outcomes,
    )


def test_it_is_a_trainable_distribution(causal):
    assert isinstance(causal, Trainable)
    assert isinstance(causal.warped(Warp()), Warped)


def test_the_recorded_log_prob_is_that_of_a_fresh_score(causal):
    samples = causal.sample(PROMPTS, 40, generator=generator())
    assert samples.log_prob.dtype == torch.float64
    assert 0.05 < samples.finished.double().mean() < 0.95
    with torch.no_grad():
        fresh = causal.log_prob(samples)
        tokenwise = causal.token_log_probs(samples)
    assert fresh.dtype == torch.float64
    assert (fresh - samples.log_prob).abs().max() < 1e-4
    assert tokenwise.dtype == torch.float32
    assert not tokenwise[~samples.mask].any()
    assert (tokenwise[samples.mask] < 0).all()


def test_the_end_token_is_scored_though_it_is_the_padding_token(causal):
    samples = causal.sample(PROMPTS, 40, generator=generator())
    last = samples.tokens[torch.arange(len(samples)), samples.lengths - 1]
    ended = last == 0
    assert ended.any()
    with torch.no_grad():
        tokenwise = causal.token_log_probs(samples)
    assert (tokenwise[torch.arange(len(samples)), samples.lengths - 1][ended] < 0).all()


@pytest.mark.parametrize("forbidden", [frozenset(), frozenset({2}), frozenset({0, 4})])
@pytest.mark.parametrize(
    "warp", [None, Warp(temperature=0.6), Warp(temperature=1.5, top_k=3), Warp(top_p=0.7)]
)
def test_samples_fit_the_enumerated_probabilities(
    five_token_model, byte_tokenizer, forbidden, warp
):
    outcomes = Outcomes(0, Stop(1), 3, forbidden)
    causal = Causal(five_token_model, byte_tokenizer, outcomes, batch_size=10_000)
    table = every_outcome(outcomes)
    with torch.no_grad():
        probabilities = causal.log_prob(table, warp=warp).exp()
    assert abs(probabilities.sum().item() - 1) < 1e-5
    has_forbidden = torch.tensor([bool(forbidden & set(row)) for row in table.token_lists])
    assert not probabilities[has_forbidden].any()
    samples = causal.sample(None, 4000, generator=generator(3), warp=warp)
    index = {tuple(row): number for number, row in enumerate(table.token_lists)}
    drawn = torch.tensor([index[tuple(row)] for row in samples.token_lists])
    counts = drawn.bincount(minlength=len(probabilities))
    expected = probabilities * len(samples)
    assert not counts[expected == 0].any()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]]).double()
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    kept = wanted > 1e-6
    scale = observed[kept].sum() / wanted[kept].sum()
    assert stats.chisquare(observed[kept], wanted[kept] * scale).pvalue > 1e-4


def test_probabilities_sum_to_one_after_a_prompt(five_token_model, byte_tokenizer):
    outcomes = Outcomes(0, Stop(1), 3)
    causal = Causal(five_token_model, byte_tokenizer, outcomes)
    with torch.no_grad():
        total = causal.log_prob(every_outcome(outcomes, prompt=(0, 3, 2, 2))).exp().sum()
    assert abs(total.item() - 1) < 1e-5


def test_forbidden_tokens_are_never_drawn(model, byte_tokenizer):
    forbidden = frozenset(range(100)) | {256}
    causal = Causal.load(
        model, tokenizer=byte_tokenizer, max_new_tokens=8, forbidden=forbidden, batch_size=7
    )
    samples = causal.sample(PROMPTS, 20, generator=generator())
    assert not forbidden & set(samples.tokens[samples.mask].tolist())
    with torch.no_grad():
        assert (causal.log_prob(samples) - samples.log_prob).abs().max() < 1e-4
    differentiable = causal.log_prob(samples)
    torch.testing.assert_close(differentiable.detach(), samples.log_prob, atol=1e-4, rtol=0)
    differentiable.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_seed_gives_the_same_samples_for_any_batch_size(causal, model, byte_tokenizer):
    samples = causal.sample(PROMPTS, 8, generator=generator(5))
    for batch_size in (3, 7, 24):
        other = Causal(model, byte_tokenizer, causal.outcomes, batch_size=batch_size)
        again = other.sample(PROMPTS, 8, generator=generator(5))
        assert torch.equal(again.tokens, samples.tokens)
        assert torch.equal(again.mask, samples.mask)
        torch.testing.assert_close(again.log_prob, samples.log_prob, atol=1e-4, rtol=0)
    different = causal.sample(PROMPTS, 8, generator=generator(6))
    assert different.token_lists != samples.token_lists


def test_scores_do_not_depend_on_the_order_of_the_batch(causal):
    samples = causal.sample(PROMPTS, 10, generator=generator())
    shuffled = torch.randperm(len(samples), generator=generator(1))
    with torch.no_grad():
        whole = causal.log_prob(samples)
        torch.testing.assert_close(
            causal.log_prob(samples[shuffled]), whole[shuffled], atol=1e-4, rtol=0
        )
        alone = torch.cat([causal.log_prob(samples[[row]]) for row in range(len(samples))])
    torch.testing.assert_close(alone, whole, atol=1e-4, rtol=0)


def test_a_mask_covers_a_completion_up_to_its_end(causal):
    samples = causal.sample(PROMPTS, 40, generator=generator())
    ends = {0} | FURTHER_ENDS
    assert samples.context_index.tolist() == [0] * 40 + [1] * 40 + [2] * 40
    for row, finished in zip(samples.token_lists, samples.finished.tolist(), strict=True):
        assert not ends & set(row[:-1])
        assert finished == (row[-1] in ends)
        assert finished or len(row) == 20
    assert not samples.tokens[~samples.mask].any()
    assert samples.mask.any(0).all()


def test_a_stop_string_ends_a_completion_and_is_cut_from_its_text(model, byte_tokenizer):
    free = Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=20, forbidden=frozenset({0}))
    texts = free.sample(None, 60, generator=generator()).texts
    characters = sorted({character for text in texts for character in text if character.isascii()})
    stop = Stop(strings=(characters[0], characters[-1]))
    causal = Causal.load(
        model, tokenizer=byte_tokenizer, max_new_tokens=20, stop=stop, forbidden=frozenset({0})
    )
    assert causal.outcomes.stop.token == 0
    samples = causal.sample(None, 60, generator=generator())
    assert samples.finished.any()
    for text, whole, finished, length in zip(
        samples.texts, texts, samples.finished.tolist(), samples.lengths.tolist(), strict=True
    ):
        assert finished == any(string in whole for string in stop.strings)
        assert not any(string in text for string in stop.strings)
        assert whole.startswith(text)
        assert finished or length == 20


def test_log_prob_has_the_gradient_of_plain_autograd(causal):
    samples = causal.sample(PROMPTS, 3, generator=generator())
    weights = torch.randn(len(samples), generator=generator(1), dtype=torch.float64)
    (causal.log_prob(samples) * weights).sum().backward()
    ours = [parameter.grad.clone() for parameter in causal.module.parameters()]
    causal.module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for row, weight in enumerate(weights):
        head = samples.context_tokens[int(samples.context_index[row])]
        completion = samples.token_lists[row]
        logits = causal.module(input_ids=torch.tensor([[*head, *completion]])).logits
        log_probs = logits[0, len(head) - 1 : -1].double().log_softmax(1)
        total = total + weight * log_probs[range(len(completion)), completion].sum()
    total.backward()
    for mine, parameter in zip(ours, causal.module.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-3, rtol=1e-3)


def test_dropout_is_off_and_the_mode_is_kept(model, byte_tokenizer):
    model.train()
    causal = Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=8)
    samples = causal.sample(PROMPTS, 5, generator=generator())
    scores = causal.log_prob(samples)
    assert (scores - samples.log_prob).abs().max() < 1e-4
    assert model.training


def test_warped_proposals_know_their_log_prob(causal):
    for warp in (Warp(temperature=0.7), Warp(top_k=5), Warp(temperature=1.3, top_p=0.9)):
        proposal = causal.warped(warp)
        assert proposal.outcomes == causal.outcomes
        assert proposal.full_support == warp.full_support
        samples = proposal.sample(PROMPTS, 20, generator=generator())
        with torch.no_grad():
            fresh = proposal.log_prob(samples)
            unwarped = causal.log_prob(samples)
        assert (fresh - samples.log_prob).abs().max() < 1e-4
        assert (fresh - unwarped).abs().mean() > 0.1


def test_cut_off_tokens_have_log_prob_minus_infinity_and_no_gradient(causal):
    samples = causal.sample(PROMPTS, 10, generator=generator())
    scores = causal.warped(Warp(top_k=2)).log_prob(samples)
    assert (scores == -math.inf).any()
    scores.masked_fill(scores == -math.inf, 0).sum().backward()
    assert all(
        part.grad is None or part.grad.isfinite().all() for part in causal.module.parameters()
    )


def test_a_copy_is_independent(causal):
    samples = causal.sample(PROMPTS, 5, generator=generator())
    policy = causal.copy()
    assert policy.outcomes is causal.outcomes
    with torch.no_grad():
        before = causal.log_prob(samples)
        assert torch.equal(policy.log_prob(samples), before)
        for parameter in policy.module.parameters():
            parameter.mul_(0.5)
        assert torch.equal(causal.log_prob(samples), before)
        assert not torch.equal(policy.log_prob(samples), before)


def test_bfloat16_models_give_float32_log_probs(model, byte_tokenizer):
    causal = Causal.load(model.bfloat16(), tokenizer=byte_tokenizer, max_new_tokens=8)
    samples = causal.sample(PROMPTS, 10, generator=generator())
    with torch.no_grad():
        assert causal.token_log_probs(samples).dtype == torch.float32
        assert (causal.log_prob(samples) - samples.log_prob).abs().median() < 0.5


def test_empty_samples_have_no_scores(causal):
    samples = causal.sample(PROMPTS, 2, generator=generator())
    assert causal.log_prob(samples[[]]).shape == (0,)


def test_samples_of_other_outcomes_are_refused(causal, model, byte_tokenizer):
    other = Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=5)
    samples = other.sample(None, 2, generator=generator())
    with pytest.raises(AttunementError, match="max_new_tokens: 5 against 20"):
        causal.log_prob(samples)


def test_a_prompt_that_is_too_long_is_named(causal):
    with pytest.raises(AttunementError, match=r"prompt 1 has 51 tokens.*=20 .* 64"):
        causal.sample(["fine", "x" * 50], 1, generator=generator())


def test_a_completion_beyond_the_context_is_named(causal):
    samples = causal.sample(["x" * 40], 40, generator=generator())
    longer = Samples(**{**vars(samples), "context_tokens": ((0,) * 60,)})
    with pytest.raises(AttunementError, match="beyond the model's context of 64"):
        causal.log_prob(longer)


def test_diverged_parameters_are_an_error(causal):
    with torch.no_grad():
        causal.module.get_output_embeddings().weight.fill_(math.nan)
    with pytest.raises(AttunementError, match="aren't finite"):
        causal.sample(None, 2, generator=generator())


@pytest.mark.parametrize(
    ("outcomes", "batch_size", "message"),
    [
        (Outcomes(0, Stop(0), 4, frozenset({257})), 8, "token 257"),
        (Outcomes(0, Stop(0), 4, frozenset(range(257))), 8, "every token"),
        (Outcomes(0, Stop(0), 4), 0, "batch_size"),
    ],
)
def test_impossible_settings(model, byte_tokenizer, outcomes, batch_size, message):
    with pytest.raises(AttunementError, match=message):
        Causal(model, byte_tokenizer, outcomes, batch_size=batch_size)


def test_at_least_one_sample_is_drawn(causal):
    with pytest.raises(AttunementError, match="n must be"):
        causal.sample(None, 0, generator=generator())
