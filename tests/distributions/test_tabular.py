from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from attunement.core import AttunementError, Context, Distribution, Trainable
from attunement.distributions.tabular import END, Tabular


def model(seed: int = 0, vocabulary: int = 3, length: int = 3) -> Tabular:
    generator = torch.Generator().manual_seed(seed)
    return Tabular.random(vocabulary, length, generator=generator, prompts=["one", "two"])


@given(vocabulary=st.integers(2, 4), length=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_outcomes_are_distinct_and_their_probabilities_sum_to_one(
    vocabulary: int, length: int, seed: int
):
    tabular = model(seed, vocabulary, length)
    outcomes = tabular.enumerate(["two", "one"])
    for index in range(2):
        chosen = outcomes[outcomes.context_index == index]
        assert float(chosen.log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-12)
        assert len({tuple(row) for row in chosen.token_lists}) == len(chosen)
    letters = vocabulary - 1
    ended = sum(letters**before for before in range(length))
    assert len(outcomes) == 2 * (ended + letters**length)


def test_probability_is_the_product_of_the_tokens():
    tabular = model()
    outcomes = tabular.enumerate(["one"])
    table = tabular.logits[0].detach().log_softmax(-1)
    for tokens, log_prob in zip(outcomes.token_lists, outcomes.log_prob, strict=True):
        prefix, total = 0, 0.0
        for token in tokens:
            total += float(table[prefix, token])
            prefix = prefix * 3 + 1 + token
        assert float(log_prob) == pytest.approx(total, abs=1e-12)


def test_samples_fit_the_log_probabilities():
    tabular = model(3)
    samples = tabular.sample(["two"], 20000, generator=torch.Generator().manual_seed(5))
    outcomes = tabular.enumerate(["two"])
    place = {tuple(row): index for index, row in enumerate(outcomes.token_lists)}
    counts = torch.zeros(len(outcomes))
    for row in samples.token_lists:
        counts[place[tuple(row)]] += 1
    expected = outcomes.log_prob.exp() * len(samples)
    assert float(expected.min()) > 5
    assert chisquare(counts.double().numpy(), expected.numpy()).pvalue > 1e-3


def test_recorded_and_recomputed_log_probabilities_agree():
    tabular = model(4)
    samples = tabular.sample(["one", "two"], 50, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(samples.log_prob, tabular.log_prob(samples).detach())
    assert samples.context_index.tolist() == [0] * 50 + [1] * 50
    assert isinstance(tabular, Distribution)
    assert isinstance(tabular, Trainable)


def test_completions_end_at_the_end_token_or_at_the_limit():
    tabular = model(4)
    samples = tabular.sample(["one"], 300, generator=torch.Generator().manual_seed(7))
    for tokens, finished, text in zip(
        samples.token_lists, samples.finished.tolist(), samples.texts, strict=True
    ):
        assert END not in tokens[:-1]
        assert finished == (tokens[-1] == END)
        assert finished or len(tokens) == 3
        assert text == "".join("ab"[token - 1] for token in tokens if token != END)


def test_same_seed_same_samples():
    tabular = model(1)

    def draw(seed: int) -> torch.Tensor:
        return tabular.sample(["one"], 40, generator=torch.Generator().manual_seed(seed)).tokens

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_gradient_of_log_prob_is_that_of_finite_differences():
    tabular = model(2, vocabulary=2, length=2)
    samples = tabular.enumerate(["one", "two"])
    weights = torch.randn(len(samples), generator=torch.Generator().manual_seed(0)).double()
    (weights @ tabular.log_prob(samples)).backward()
    gradient = tabular.logits.grad
    assert gradient is not None
    for place in torch.cartesian_prod(*[torch.arange(size) for size in tabular.logits.shape]):
        ends = []
        for step in (1e-5, -1e-5):
            moved = tabular.copy()
            with torch.no_grad():
                moved.logits[tuple(place)] += step
                ends.append(float(weights @ moved.log_prob(samples)))
        slope = (ends[0] - ends[1]) / 2e-5
        assert float(gradient[tuple(place)]) == pytest.approx(slope, abs=1e-8)


def test_score_function_has_mean_zero():
    tabular = model(2)
    outcomes = tabular.enumerate(["one"])
    (outcomes.log_prob.exp() * tabular.log_prob(outcomes)).sum().backward()
    gradient = tabular.logits.grad
    assert gradient is not None
    assert float(gradient.abs().max()) < 1e-14


def test_probabilities_of_zero_are_never_drawn():
    tabular = model(2)
    with torch.no_grad():
        tabular.logits[..., 1] = -torch.inf
    samples = tabular.sample(["one"], 500, generator=torch.Generator().manual_seed(1))
    assert not bool(((samples.tokens == 1) & samples.mask).any())
    assert bool(samples.log_prob.isfinite().all())


def test_save_and_load(tmp_path: Path):
    tabular = model(5)
    tabular.save(tmp_path / "model")
    again = Tabular.load(tmp_path / "model")
    assert torch.equal(again.logits, tabular.logits)
    assert again.prompts == tabular.prompts
    assert again.outcomes == tabular.outcomes


def test_copy_is_independent():
    tabular = model(5)
    copy = tabular.copy()
    with torch.no_grad():
        copy.logits += 1.0 * torch.arange(3)
    assert not torch.equal(copy.logits, tabular.logits)
    assert copy.prompts == tabular.prompts
    assert tabular.module is tabular


def test_errors(tmp_path: Path):
    tabular = model()
    with pytest.raises(AttunementError, match="doesn't know the prompt 'three'"):
        tabular.enumerate(["three"])
    with pytest.raises(AttunementError, match="doesn't know the prompt"):
        tabular.enumerate([Context(({"role": "user", "content": "one"},))])
    with pytest.raises(AttunementError, match="don't fit 1 prompts"):
        Tabular(torch.zeros(1, 5, 3), 2)
    with pytest.raises(AttunementError, match="2 to 27 symbols"):
        Tabular(torch.zeros(1, 1, 1), 1)
    with pytest.raises(AttunementError, match="not a readable tabular model"):
        Tabular.load(tmp_path)
