import torch

from attunement.objectives import Baseline
from attunement.tuning import TuningSettings, init
from attunement.tuning.drawing import draw
from attunement.tuning.drawn import COLUMNS, Drawn
from attunement.tuning.problem import NOISE, SAMPLES

SMALL = TuningSettings(batch_size=48, bank_size=256, baseline=Baseline.NONE)


def test_parts_are_put_together_in_order(conditional):
    settings = SMALL.model_copy(update={"samples_per_context": 16, "batch_size": 32})
    problem, state = init(conditional, ["p", "q", "r"], settings)
    first = draw(problem, state, SAMPLES)
    state.step = 1
    second = draw(problem, state, SAMPLES)
    both = Drawn.concatenate([first, second])
    assert len(both) == 64
    assert both.samples.texts == first.samples.texts + second.samples.texts
    for name in COLUMNS:
        torch.testing.assert_close(getattr(both, name)[32:], getattr(second, name), equal_nan=True)
    prompts = [problem.contexts[index].prompt for index in both.context.tolist()]
    assert prompts == [context.prompt for context in both.samples.sample_contexts]


def test_another_policy_changes_its_own_density_alone(hard):
    problem, state = init(hard, None, SMALL)
    drawn = draw(problem, state, NOISE)
    with torch.no_grad():
        state.policy.module.logits.mul_(1.5)
    renewed = drawn.renewed(state.policy)
    fresh = state.policy.log_prob(drawn.samples).detach()
    assert 0 < int(drawn.teaches.sum()) < len(drawn)
    torch.testing.assert_close(renewed.log_policy[drawn.teaches], fresh[drawn.teaches])
    assert bool(renewed.log_policy[~drawn.teaches].isnan().all())
    assert torch.equal(renewed.log_score, drawn.log_score)
    torch.testing.assert_close(renewed.log_proposal, drawn.log_proposal, equal_nan=True)
