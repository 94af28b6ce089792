import numpy as np
import pytest
import torch
from scipy import stats

from attunement.objectives import Baseline
from attunement.tuning import Proposal, TuningSettings, init, step
from attunement.tuning.drawing import draw as draw_for
from attunement.tuning.drawn import Drawn
from attunement.tuning.problem import SAMPLES, Problem, TuningState

SMALL = TuningSettings(
    divergence="forward_kl", batch_size=64, bank_size=256, learning_rate=0.05, averaging=0.0
)


ALONE = [proposal for proposal in Proposal if proposal is not Proposal.OTHER]
"""The proposals that need nothing beside the settings."""


def draw(problem: Problem, state: TuningState) -> Drawn:
    return draw_for(problem, state, SAMPLES)


def moved(target, contexts=None, **settings):
    """A problem, and a state whose policy has left the base and the proposal."""
    problem, state = init(target, contexts, SMALL.model_copy(update=settings))
    for _ in range(5):
        step(problem, state)
    return problem, state


@pytest.mark.parametrize("proposal", ALONE)
def test_what_is_recorded_is_what_a_fresh_pass_says(hard, proposal):
    problem, state = moved(hard, proposal=proposal)
    drawn = draw(problem, state)
    assert len(drawn.samples) == 64
    log_base = hard.base.log_prob(drawn.samples).detach()
    log_policy = state.policy.log_prob(drawn.samples).detach()
    torch.testing.assert_close(drawn.log_score, log_base + hard.log_potential(drawn.samples))
    assert bool(drawn.teaches.all())
    torch.testing.assert_close(drawn.log_policy, log_policy)
    expected = {
        Proposal.POLICY: log_policy,
        Proposal.BASE: log_base,
        Proposal.MIXTURE: ((log_base.exp() + log_policy.exp()) / 2).log(),
        Proposal.KL_ADAPTIVE: state.proposal.log_prob(drawn.samples).detach(),
    }
    torch.testing.assert_close(drawn.log_proposal, expected[proposal])


@pytest.mark.parametrize("proposal", ALONE)
def test_weights_average_to_what_they_must(hard, proposal):
    problem, state = moved(hard, proposal=proposal, batch_size=20_000, learning_rate=0.2)
    drawn = draw(problem, state)
    support = hard.base.enumerate()
    truth = (hard.base.log_prob(support).detach() + hard.log_potential(support)).exp().sum()
    for weights, mean in (
        ((drawn.log_policy - drawn.log_proposal).exp(), torch.ones(())),
        (drawn.log_weights.exp(), truth),
    ):
        error = float(weights.std()) / len(weights) ** 0.5
        assert abs(float(weights.mean() - mean)) <= 4.5 * error + 1e-12


def test_the_mixture_bounds_both_weights(hard):
    problem, state = moved(hard, proposal=Proposal.MIXTURE, learning_rate=0.5)
    drawn = draw(problem, state)
    log_base = hard.base.log_prob(drawn.samples).detach()
    ratio = (drawn.log_policy - log_base).exp()
    assert float(ratio.max() / ratio.min()) > 20
    assert float((drawn.log_policy - drawn.log_proposal).exp().max()) <= 2
    assert float((log_base - drawn.log_proposal).exp().max()) <= 2


@pytest.mark.parametrize("each", [16, 5, 1])
def test_the_mixture_draws_as_many_of_every_context(conditional, each):
    problem, state = moved(
        conditional,
        ["p", "q", "r"],
        proposal=Proposal.MIXTURE,
        batch_size=2 * each,
        samples_per_context=each,
    )
    for _ in range(4):
        context = draw(problem, state).context
        assert context.bincount(minlength=3).sort().values.tolist() == [0, each, each]
        state.step += 1


def test_the_mixture_draws_from_the_mean_of_base_and_policy(hard):
    n = 20_000
    problem, state = moved(hard, proposal=Proposal.MIXTURE, batch_size=n, learning_rate=0.2)
    support = hard.base.enumerate()
    densities = [model.log_prob(support).detach().exp() for model in (hard.base, state.policy)]
    expected = n * (densities[0] + densities[1]).numpy() / 2
    outcome = {text: index for index, text in enumerate(support.texts)}
    drawn = [outcome[text] for text in draw(problem, state).samples.texts]
    observed = np.bincount(drawn, minlength=len(outcome))
    groups = np.where(expected >= 5, np.arange(len(expected)), len(expected))
    observed, expected = (np.bincount(groups, row) for row in (observed, expected))
    met = expected > 0
    assert stats.chisquare(observed[met], expected[met]).pvalue > 1e-4


def test_drawing_changes_nothing_and_is_a_function_of_seed_and_step(hard):
    problem, state = moved(hard, proposal=Proposal.MIXTURE)
    first, again = draw(problem, state), draw(problem, state)
    assert torch.equal(first.samples.tokens, again.samples.tokens)
    state.step += 1
    assert not torch.equal(first.log_proposal, draw(problem, state).log_proposal)


@pytest.mark.parametrize("proposal", ALONE)
def test_only_what_teaches_is_scored(hard, proposal):
    problem, state = moved(hard, proposal=proposal, baseline=Baseline.NONE)
    drawn = draw(problem, state)
    allowed = torch.isfinite(hard.log_potential(drawn.samples))
    assert torch.equal(drawn.teaches, allowed)
    assert 0 < int(allowed.sum()) < 64
    fresh = state.policy.log_prob(drawn.samples).detach()
    torch.testing.assert_close(drawn.log_policy[allowed], fresh[allowed])
    assert bool(drawn.log_policy[~allowed].isnan().all())
    assert bool(drawn.log_weights[~allowed].isneginf().all())
    assert bool(drawn.log_weights[allowed].isfinite().all())
