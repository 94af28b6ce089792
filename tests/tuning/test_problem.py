import math

import pytest
import torch

from attunement.core import AttunementError
from attunement.distributions.drawing import Warp
from attunement.objectives import Baseline, Objective
from attunement.targets import Target
from attunement.tuning import Proposal, TuningSettings, init, step

SMALL = TuningSettings(batch_size=32, bank_size=128, learning_rate=0.05)


def test_init_leaves_the_base_alone(hard, base):
    before = base.logits.detach().clone()
    problem, state = init(hard, None, SMALL)
    for _ in range(3):
        step(problem, state)
    assert torch.equal(base.logits, before)
    assert not torch.equal(state.policy.module.logits, before)


def test_the_bank_is_a_function_of_the_seed(hard):
    first, _ = init(hard, None, SMALL)
    again, _ = init(hard, None, SMALL)
    other, _ = init(hard, None, SMALL.model_copy(update={"seed": 1}))
    assert torch.equal(first.bank.tokens, again.bank.tokens)
    assert not torch.equal(first.bank.log_prob, other.bank.log_prob)


@pytest.mark.parametrize("name", ["reverse_kl", "pearson_chi2", "alpha:2"])
def test_an_infinite_divergence_offers_a_floor(hard, name):
    with pytest.raises(AttunementError, match=r"--floor 0\.01"):
        init(hard, None, TuningSettings(divergence=name))


@pytest.mark.parametrize("name", ["reverse_kl", "pearson_chi2", "alpha:2"])
def test_with_a_floor_it_is_allowed(base, name):
    target = Target(base).constrain(lambda texts: ["a" in text for text in texts], floor=0.1)
    settings = SMALL.model_copy(update={"divergence": name})
    problem, state = init(target, None, settings)
    assert math.isfinite(step(problem, state).update.gradient_norm)


def test_a_constraint_that_nothing_satisfies(base):
    target = Target(base).constrain(lambda texts: [False] * len(texts))
    with pytest.raises(AttunementError, match="none of 128 samples"):
        init(target, None, SMALL)


def test_leave_one_out_needs_two_samples(hard, conditional):
    settings = SMALL.model_copy(update={"baseline": Baseline.LEAVE_ONE_OUT, "batch_size": 1})
    with pytest.raises(AttunementError, match=r"two or more samples.*raise --batch-size"):
        init(hard, None, settings)
    settings = settings.model_copy(update={"batch_size": 8, "samples_per_context": 1})
    with pytest.raises(AttunementError, match="raise --samples-per-context"):
        init(conditional, ["p", "q"], settings)


def test_an_unfitted_target_is_refused(base):
    target = Target(base).match({(lambda texts: [len(t) for t in texts]): 1.5})
    with pytest.raises(AttunementError, match="isn't fitted"):
        init(target, None, SMALL)


def test_trajectory_balance_needs_two_samples_of_a_context(conditional):
    settings = SMALL.model_copy(
        update={"objective": Objective.TRAJECTORY_BALANCE, "samples_per_context": 1}
    )
    with pytest.raises(AttunementError, match="trajectory_balance needs two or more samples"):
        init(conditional, ["p", "q"], settings)


def test_a_given_proposal_and_the_settings_need_each_other(hard, base):
    other = SMALL.model_copy(update={"proposal": Proposal.OTHER})
    with pytest.raises(AttunementError, match="needs a distribution"):
        init(hard, None, other)
    with pytest.raises(AttunementError, match="choose 'other'"):
        init(hard, None, SMALL, proposal=base.copy())
    with pytest.raises(AttunementError, match="can't draw everything"):
        init(hard, None, other, proposal=base.warped(Warp(top_p=0.5)))


def test_tokens_need_a_model_that_says_them(base):
    class Sums:
        """A distribution that hides its tokens."""

        outcomes, full_support = base.outcomes, True

        def sample(self, contexts, n, *, generator):
            return base.sample(contexts, n, generator=generator)

        def log_prob(self, samples):
            return base.log_prob(samples)

    target = Target(Sums()).tilt(lambda texts: [len(t) for t in texts], beta=1.0)
    settings = TuningSettings(divergence="reverse_kl", reward_to_go=True)
    with pytest.raises(AttunementError, match=r"Sums doesn't give .* token by token"):
        init(target, None, settings, policy=base.copy())


def test_the_plain_reward_may_be_gone_up_where_a_divergence_is_infinite(hard):
    settings = TuningSettings(objective=Objective.REWARD, batch_size=32, bank_size=128)
    problem, state = init(hard, None, settings)
    assert math.isfinite(step(problem, state).update.gradient_norm)


def test_a_scorer_that_applies_to_nothing_is_an_error(base):
    target = Target(base).tilt(lambda texts: [None] * len(texts), beta=1.0)
    with pytest.raises(AttunementError, match="applies to none of 128 samples"):
        init(target, None, SMALL)


def test_a_bank_that_holds_nothing_of_what_is_matched_is_refused(base):
    def rarest(texts: list[str]) -> list[bool]:
        return [text == rare for text in texts]

    support = base.enumerate()
    rare = support.texts[int(base.log_prob(support).argmin())]
    target = Target(base).match({rarest: 0.5})
    fitted = target.fit(n=60_000, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AttunementError, match=r"rarest is 0 on all 64 base samples.*--bank-size"):
        init(fitted, None, SMALL.model_copy(update={"bank_size": 64}))
