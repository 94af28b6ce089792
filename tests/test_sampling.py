import math

import pytest
import torch

from attunement.core import AttunementError
from attunement.distributions.tabular import Tabular
from attunement.laws import goodness_of_fit
from attunement.sampling import importance_resampling, quasi_rejection, rejection
from attunement.scorers import length
from attunement.targets import Target

LEVEL = 1e-4
"""A goodness of fit below it is a failure; the seeds are fixed."""


def has_a(texts):
    return ["a" in text for text in texts]


def is_ba(texts):
    return [text == "ba" for text in texts]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def language(prompts=("",), seed=0, scale=1.0):
    return Tabular.random(3, 3, generator=seeded(seed), prompts=prompts, scale=scale)


def never_a(prompts, row):
    base = language(prompts)
    logits = base.logits.detach().clone()
    logits[row, :, 1] = -1e4
    return Tabular(logits, 3, prompts)


def normalised(support, log_score):
    """[N] probabilities in each context, and [C] log Z."""
    log_z = torch.stack(
        [
            torch.logsumexp(log_score[support.context_index == index], 0)
            for index in range(len(support.contexts))
        ]
    )
    return (log_score - log_z[support.context_index]).exp(), log_z


def exact_target(target, contexts=None):
    support = target.base.enumerate(contexts)
    return support, *normalised(support, support.log_prob + target.log_potential(support))


def require_fit(samples, support, probabilities, n):
    """n samples for each context, in order, that follow the probabilities."""
    count = len(support.contexts)
    assert samples.contexts == support.contexts
    assert torch.equal(samples.context_index, torch.arange(count).repeat_interleave(n))
    for index in range(count):
        rows = support.context_index == index
        outcomes = support[rows].token_lists
        drawn = samples[samples.context_index == index].token_lists
        counts = torch.tensor([drawn.count(outcome) for outcome in outcomes], dtype=torch.float64)
        assert int(counts.sum()) == n
        assert goodness_of_fit(counts, probabilities[rows]) > LEVEL


@pytest.mark.parametrize("prompts", [None, ("x", "y", "z")])
@pytest.mark.parametrize("floor", [None, 0.2])
def test_rejection_follows_the_exact_target(prompts, floor):
    base = language(prompts or ("",))
    target = Target(base).constrain(has_a, floor=floor)
    support, probabilities, log_z = exact_target(target, prompts)
    drawn = rejection(target, prompts, 1500, generator=seeded(1))
    require_fit(drawn.samples, support, probabilities, 1500)
    shares = drawn.accepted.double() / drawn.draws
    errors = (log_z.exp() * (1 - log_z.exp()) / drawn.draws).sqrt()
    assert bool(((shares - log_z.exp()).abs() < 4 * errors).all())
    rate = drawn.acceptance
    assert rate.n == int(drawn.draws.sum())
    assert rate.value == pytest.approx(float(drawn.accepted.sum() / drawn.draws.sum()))


def test_the_acceptance_of_rejection_is_z():
    target = Target(language()).constrain(has_a)
    _, _, log_z = exact_target(target)
    rate = rejection(target, None, 4000, generator=seeded()).acceptance
    assert rate.low <= float(log_z.exp()) <= rate.high


def test_samples_keep_the_log_probability_of_the_proposal():
    prompts = ("x", "y")
    target = Target(language(prompts)).constrain(has_a, floor=0.1)
    drawn = rejection(target, prompts, 20, generator=seeded()).samples
    torch.testing.assert_close(drawn.log_prob, target.base.log_prob(drawn).detach())


def test_contexts_of_unequal_acceptance_keep_their_places():
    base = language(("x", "y", "z"), scale=0.3)
    logits = base.logits.detach().clone()
    logits[1, :, 1] -= 4.0
    target = Target(Tabular(logits, 3, base.prompts)).constrain(has_a)
    support, probabilities, _ = exact_target(target, base.prompts)
    drawn = rejection(target, base.prompts, 200, generator=seeded(2))
    require_fit(drawn.samples, support, probabilities, 200)
    assert len(drawn.samples.context_tokens) == 3
    assert int(drawn.draws[1]) > 5 * int(drawn.draws[0])
    assert bool((drawn.accepted >= 200).all())


def test_the_budget_is_kept_and_named():
    target = Target(language()).constrain(is_ba)
    with pytest.raises(
        AttunementError, match=r"context 0 accepted \d+ of 60 draws, 20 were wanted"
    ):
        rejection(target, None, 20, generator=seeded(), budget=3)
    target = Target(never_a(("x", "y"), 1)).constrain(has_a)
    with pytest.raises(AttunementError, match=r"context 1 accepted 0 of 100 draws, 10 were wanted"):
        rejection(target, ["x", "y"], 10, generator=seeded(), budget=10)


def test_rejection_refuses_what_is_not_below_its_base():
    target = Target(language()).tilt(length, beta=1.0)
    with pytest.raises(AttunementError, match="use quasi_rejection for tilts"):
        rejection(target, None, 5, generator=seeded())


@pytest.mark.parametrize("sampler", [rejection, quasi_rejection, importance_resampling])
def test_the_number_of_samples_is_at_least_1(sampler):
    target = Target(language()).constrain(has_a)
    with pytest.raises(AttunementError, match="number of samples must be at least 1, not 0"):
        sampler(target, None, 0, generator=seeded())


def test_the_seed_decides():
    target = Target(language()).constrain(has_a)
    first, again, other = (
        rejection(target, None, 50, generator=seeded(s)).samples.tokens for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("prompts", [None, ("x", "y")])
@pytest.mark.parametrize("other_proposal", [False, True])
def test_quasi_rejection_follows_p_beta(prompts, other_proposal):
    base = language(prompts or ("",))
    proposal = language(prompts or ("",), seed=9) if other_proposal else base
    target = Target(base).tilt(length, beta=0.7).constrain(has_a, floor=0.3)
    support, probabilities, _ = exact_target(target, prompts)
    near = quasi_rejection(
        target,
        prompts,
        1500,
        acceptance=0.3,
        proposal=proposal if other_proposal else None,
        pool=4000,
        generator=seeded(1),
    )
    log_score = support.log_prob + target.log_potential(support)
    log_proposal = proposal.log_prob(support).detach()
    log_cut = torch.minimum(log_score - near.log_beta, log_proposal)
    p_beta, log_accepted = normalised(support, log_cut)
    require_fit(near.draws.samples, support, p_beta, 1500)
    rates, count = log_accepted.exp(), len(support.contexts)
    assert float(rates.mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.3 / (4000 * count)))
    shares = near.draws.accepted.double() / near.draws.draws
    errors = (rates * (1 - rates) / near.draws.draws).sqrt()
    assert bool(((shares - rates).abs() < 4 * errors).all())
    exact = float(0.5 * (p_beta - probabilities).abs().sum()) / count
    distance = near.total_variation
    assert distance.stderr is not None
    assert abs(distance.value - exact) < 4 * max(distance.stderr, 0.005)


def test_a_lower_acceptance_is_nearer_to_the_target():
    target = Target(language()).tilt(length, beta=0.3)
    distances = [
        quasi_rejection(target, None, 10, acceptance=a, generator=seeded()).total_variation.value
        for a in (1.0, 0.9, 0.7, 0.02)
    ]
    assert distances[:3] == sorted(distances[:3], reverse=True)
    assert distances[0] > 0.1
    assert distances[-1] < 0.01


def test_acceptance_is_at_most_the_share_that_satisfies_the_constraint():
    target = Target(language()).constrain(has_a)
    _, _, log_z = exact_target(target)
    near = quasi_rejection(target, None, 500, acceptance=0.99, generator=seeded())
    rate = near.draws.acceptance
    assert near.log_beta == pytest.approx(0.0, abs=1e-9)
    assert rate.low <= float(log_z.exp()) <= rate.high
    assert near.total_variation.value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("acceptance", [0.0, -0.1, 1.1, math.nan])
def test_the_acceptance_is_a_rate(acceptance):
    with pytest.raises(AttunementError, match=r"the acceptance rate lies in \(0, 1\]"):
        quasi_rejection(Target(language()), None, 5, acceptance=acceptance, generator=seeded())


def test_a_pool_that_nothing_satisfies_is_named():
    target = Target(never_a(("x", "y"), 1)).constrain(has_a)
    with pytest.raises(AttunementError, match="none of 100 samples of context 1 satisfies"):
        quasi_rejection(target, ["x", "y"], 5, pool=100, generator=seeded())


@pytest.mark.parametrize("sampler", [quasi_rejection, importance_resampling])
def test_a_proposal_with_other_outcomes_is_refused(sampler):
    other = Tabular.random(3, 4, generator=seeded())
    with pytest.raises(AttunementError, match="max_new_tokens 3 against 4"):
        sampler(Target(language()), None, 5, proposal=other, generator=seeded())


@pytest.mark.parametrize("prompts", [None, ("x", "y")])
def test_importance_resampling_follows_the_target(prompts):
    base = language(prompts or ("",))
    proposal = language(prompts or ("",), seed=9)
    target = Target(base).tilt(length, beta=0.7).constrain(has_a)
    support, probabilities, _ = exact_target(target, prompts)
    drawn = importance_resampling(
        target, prompts, 400, proposal=proposal, pool=40_000, generator=seeded()
    )
    require_fit(drawn, support, probabilities, 400)
    torch.testing.assert_close(drawn.log_prob, proposal.log_prob(drawn).detach())


class Cut:
    """A proposal that says that it can't draw everything."""

    full_support = False

    def __init__(self, whole):
        self.outcomes, self.sample, self.log_prob = whole.outcomes, whole.sample, whole.log_prob


@pytest.mark.parametrize("sampler", [quasi_rejection, importance_resampling])
def test_a_proposal_that_cuts_something_off_is_refused(sampler):
    target = Target(language()).tilt(length, beta=2)
    with pytest.raises(AttunementError, match=r"can't be weighed: use a temperature"):
        sampler(target, None, 5, proposal=Cut(target.base), generator=seeded())


def test_a_pool_worth_too_little_is_refused():
    target = Target(never_a(("x", "y"), 1)).constrain(has_a)
    with pytest.raises(AttunementError, match=r"pool of 200 samples of context 1 is worth 0\.0"):
        importance_resampling(target, ["x", "y"], 5, pool=200, generator=seeded())
    single = Target(language()).constrain(is_ba)
    with pytest.raises(AttunementError, match=r"draw a larger pool or use a nearer proposal"):
        importance_resampling(single, None, 100, pool=20, generator=seeded())


def test_one_effective_sample_is_enough_for_one():
    target = Target(language()).constrain(is_ba)
    for seed in range(100):
        pool = target.base.sample(None, 12, generator=seeded(seed))
        if pool.texts.count("ba") == 1:
            break
    drawn = importance_resampling(target, None, 1, pool=12, generator=seeded(seed))
    assert drawn.texts == ["ba"]
