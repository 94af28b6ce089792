"""Old samples leave the gradient's expectation as it is, and are not taken for fresh ones."""

import pytest
import torch

from attunement.divergences import DIVERGENCES, parse_divergence
from attunement.tuning import Proposal, TuningSettings, init, step
from attunement.tuning.drawing import draw
from attunement.tuning.learning import lesson
from attunement.tuning.problem import SAMPLES
from attunement.tuning.replay import remember, with_replay

SMALL = TuningSettings(batch_size=64, bank_size=256, learning_rate=0.05, averaging=0.0)
FINITE = [name for name, row in DIVERGENCES.items() if row.allows_forbidden]


def exact_gradient(target, policy, name: str) -> torch.Tensor:
    support = target.base.enumerate()
    log_score = target.base.log_prob(support).detach() + target.log_potential(support)
    log_target = log_score - torch.logsumexp(log_score, 0)
    value = parse_divergence(name).exact(policy.log_prob(support), log_target)
    return torch.autograd.grad(value, policy.logits)[0]


@pytest.mark.parametrize("proposal", [Proposal.POLICY, Proposal.MIXTURE])
@pytest.mark.parametrize("divergence", FINITE)
def test_replayed_samples_leave_the_gradients_expectation(hard, divergence, proposal):
    """Along the exact gradient the mean of the samples' gradients is its squared norm."""
    settings = SMALL.model_copy(
        update={"divergence": divergence, "proposal": proposal, "batch_size": 10_000}
    )
    problem, state = init(hard, None, settings)
    for kept in range(3):  # three batches, each of another policy
        remember(draw(problem, state, SAMPLES), state, 3)
        with torch.no_grad():
            noise = torch.randn(
                state.policy.module.logits.shape, generator=torch.Generator().manual_seed(kept)
            )
            state.policy.module.logits.add_(0.3 * noise)
        state.step += 1
    support = hard.base.enumerate()
    score = hard.base.log_prob(support).detach() + hard.log_potential(support)
    state.pool.log_sums = torch.logsumexp(score, 0)[None]  # Z itself, so that nothing is biased
    state.pool.counts = torch.ones(1, dtype=torch.float64)

    drawn = with_replay(draw(problem, state, SAMPLES), state)
    assert len(drawn) == 40_000
    signal = lesson(problem, state, drawn).signal
    exact = exact_gradient(hard, state.policy, divergence)
    size = 1e-5
    with torch.no_grad():
        log_policy = []
        for sign in (1, -1):
            moved = state.policy.copy()
            moved.module.logits.add_(sign * size * exact)
            log_policy.append(moved.log_prob(drawn.samples))
    along = -signal * (log_policy[0] - log_policy[1]) / (2 * size)
    for rows in (slice(0, 10_000), slice(10_000, None)):
        error = float(along[rows].std()) / len(along[rows]) ** 0.5
        assert abs(float(along[rows].mean() - exact.square().sum())) < 4.5 * error
        assert error < 0.2 * float(exact.square().sum())


def test_so_many_batches_are_kept_the_latest_first(hard):
    problem, state = init(hard, None, SMALL.model_copy(update={"replay": 2}))
    infos = [step(problem, state) for _ in range(4)]
    assert [info.replayed for info in infos] == [0, 64, 128, 128]
    assert [info.samples for info in infos] == [64] * 4
    problem_again, again = init(hard, None, SMALL.model_copy(update={"replay": 2}))
    for _ in range(3):
        step(problem_again, again)
    last = again.replay[0].samples.tokens
    assert torch.equal(state.replay[1].samples.tokens, last)


def test_the_partition_function_counts_fresh_samples_alone(hard):
    counts = []
    for replay in (0, 3):
        problem, state = init(hard, None, SMALL.model_copy(update={"replay": replay}))
        for _ in range(4):
            step(problem, state)
        counts.append(float(state.pool.counts))
    assert counts == [256 + 4 * 64] * 2
