from dataclasses import replace

import pytest
import torch

from attunement.core import AttunementError
from attunement.tuning import TuningSettings, gradient_variance, init, step
from attunement.tuning.drawing import draw
from attunement.tuning.learning import lesson
from attunement.tuning.noise import _groups

SETTINGS = TuningSettings(
    divergence="forward_kl", proposal="policy", batch_size=64, bank_size=2048, learning_rate=0.05
)


def gradients(problem, state, count: int) -> torch.Tensor:
    """[count, parameters]: what so many independent steps would go along."""
    rows = []
    for stream in range(count):
        drawn = draw(problem, state, 1000 + stream)
        loss = lesson(problem, state, drawn).loss_of(torch.arange(len(drawn)))
        rows.append(torch.autograd.grad(loss, state.policy.module.logits)[0].flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("baseline", ["none", "analytic"])
@pytest.mark.parametrize("proposal", ["policy", "mixture"])
def test_it_is_the_trace_of_the_steps_covariance(hard, baseline, proposal):
    settings = TuningSettings(
        **SETTINGS.model_dump(exclude={"baseline", "proposal"}),
        baseline=baseline,
        proposal=proposal,
    )
    problem, state = init(hard, None, settings)
    step(problem, state)
    truth = float(gradients(problem, state, 600).var(0).sum())
    found = []
    for seed in range(12):
        again = settings.model_copy(update={"seed": seed})
        state.step = seed
        found.append(
            gradient_variance(
                replace(problem, settings=again),
                state,
            )
        )
    mean = sum(estimate.value for estimate in found) / len(found)
    assert mean == pytest.approx(truth, rel=0.15)
    assert sum(e.low <= truth <= e.high for e in found) >= 8
    assert all(estimate.n == 16 for estimate in found)


def test_contexts_are_the_units_of_a_conditional_target(conditional):
    settings = SETTINGS.model_copy(update={"samples_per_context": 16, "batch_size": 48})
    problem, state = init(conditional, ["p", "q", "r"], settings)
    with pytest.raises(AttunementError, match="four contexts"):
        gradient_variance(problem, state)
    context = torch.tensor([4, 4, 7, 7, 1, 1, 0, 0, 9, 9])
    groups = _groups(context, 0)
    assert len(groups) == 4
    assert all(len(context[rows].unique()) == 1 and len(rows) == 2 for rows in groups)


def test_looking_changes_nothing(hard):
    problem, state = init(hard, None, SETTINGS)
    before = state.policy.module.logits.detach().clone()
    gradient_variance(problem, state)
    assert torch.equal(state.policy.module.logits, before)
    assert state.policy.module.logits.grad is None
    assert state.step == 0
