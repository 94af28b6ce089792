import pytest
import torch

from attunement.core import AttunementError
from attunement.distributions.drawing import Warp
from attunement.tuning import Proposal, TuningSettings, adapt_proposal, init, step
from attunement.tuning.drawing import draw
from attunement.tuning.problem import SAMPLES
from attunement.tuning.proposals import sources

SETTINGS = TuningSettings(batch_size=128, bank_size=2048, evaluation_size=512, learning_rate=0.1)


def test_a_better_policy_becomes_the_proposal(hard):
    settings = SETTINGS.model_copy(update={"proposal": Proposal.KL_ADAPTIVE})
    problem, state = init(hard, None, settings)
    assert not adapt_proposal(problem, state)
    for _ in range(10):
        step(problem, state)
    assert adapt_proposal(problem, state)
    assert torch.equal(state.proposal.module.logits, state.policy.module.logits)
    assert state.proposal is not state.policy
    assert not adapt_proposal(problem, state)


def test_a_worse_policy_does_not(hard):
    settings = SETTINGS.model_copy(update={"proposal": Proposal.KL_ADAPTIVE})
    problem, state = init(hard, None, settings)
    with torch.no_grad():
        state.policy.module.logits.mul_(-1)
    assert not adapt_proposal(problem, state)


def test_on_policy_there_is_nothing_to_adapt(hard):
    problem, state = init(hard, None, SETTINGS)
    assert not adapt_proposal(problem, state)


def weights_of(problem, state):
    """What P/q and π/q average to, with their standard errors, and what they must."""
    drawn = draw(problem, state, SAMPLES)
    support = problem.target.base.enumerate()
    score = problem.target.base.log_prob(support).detach() + problem.target.log_potential(support)
    for weights, mean in (
        ((drawn.log_policy - drawn.log_proposal).exp(), 1.0),
        (drawn.log_weights.exp(), float(score.exp().sum())),
    ):
        yield float(weights.mean()), float(weights.std()) / len(weights) ** 0.5, mean


def far_from_the_base(target, given=None, **settings):
    asked = SETTINGS.model_copy(update={"batch_size": 20_000, "learning_rate": 0.2, **settings})
    problem, state = init(target, None, asked, proposal=given)
    with torch.no_grad():
        state.policy.module.logits.add_(torch.linspace(-1, 1, 4, dtype=torch.float64))
    return problem, state


@pytest.mark.parametrize("proposal", list(Proposal))
def test_samples_of_a_tempered_proposal_are_weighed_by_its_own_density(hard, base, proposal):
    given = base.warped(Warp(temperature=2.0)) if proposal is Proposal.OTHER else None
    problem, state = far_from_the_base(hard, given, proposal=proposal, proposal_temperature=1.4)
    for mean, error, expected in weights_of(problem, state):
        assert abs(mean - expected) <= 4.5 * error + 1e-12
    drawn = draw(problem, state, SAMPLES)
    assert not torch.allclose(drawn.log_policy, drawn.log_proposal)


def test_top_p_has_its_place_in_a_mixture(hard):
    problem, state = far_from_the_base(hard, proposal=Proposal.MIXTURE, proposal_top_p=0.6)
    assert [model.full_support for model in sources(problem, state)] == [True, False]
    for mean, error, expected in weights_of(problem, state):
        assert abs(mean - expected) <= 4.5 * error


def test_a_model_without_temperature_says_so(hard, base):
    class Plain:
        """A proposal that can't be warped."""

        outcomes, full_support = base.outcomes, True

        def sample(self, contexts, n, *, generator):
            return base.sample(contexts, n, generator=generator)

        def log_prob(self, samples):
            return base.log_prob(samples)

    problem, state = far_from_the_base(
        hard, Plain(), proposal=Proposal.OTHER, proposal_temperature=1.4
    )
    with pytest.raises(AttunementError, match="a Plain can't be drawn from at another temp"):
        draw(problem, state, SAMPLES)
