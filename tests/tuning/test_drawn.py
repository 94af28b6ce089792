from dataclasses import replace

import torch

from attunement.distributions.tabular import Tabular
from attunement.objectives import Baseline
from attunement.targets import Target
from attunement.tuning import TuningSettings, init
from attunement.tuning.drawing import draw
from attunement.tuning.drawn import Drawn
from attunement.tuning.problem import NOISE, SAMPLES

SMALL = TuningSettings(batch_size=48, bank_size=256, baseline=Baseline.NONE)


def length(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def rows_of(drawn: Drawn, rows: torch.Tensor, width: int) -> Drawn:
    """Some samples, cut to a width that holds them."""
    samples = drawn.samples[rows]
    cut = replace(samples, tokens=samples.tokens[:, :width], mask=samples.mask[:, :width])
    columns = {name: column[rows] for name, column in drawn.columns().items()}
    columns["log_base_by_token"] = columns["log_base_by_token"][:, :width]
    return Drawn(samples=cut, **columns)


def test_parts_are_put_together_in_order(conditional):
    settings = SMALL.model_copy(update={"samples_per_context": 16, "batch_size": 32})
    problem, state = init(conditional, ["p", "q", "r"], settings)
    first = draw(problem, state, SAMPLES)
    state.step = 1
    second = draw(problem, state, SAMPLES)
    both = Drawn.concatenate([first, second])
    assert len(both) == 64
    assert both.samples.texts == first.samples.texts + second.samples.texts
    for name, column in second.columns().items():
        torch.testing.assert_close(both.columns()[name][32:], column, equal_nan=True)
    prompts = [problem.contexts[index].prompt for index in both.context.tolist()]
    assert prompts == [context.prompt for context in both.samples.sample_contexts]


def test_tokens_of_shorter_parts_are_padded():
    """Batches of a language model are as wide as their longest completion."""
    base = Tabular.random(3, 4, generator=torch.Generator().manual_seed(0))
    settings = TuningSettings(
        divergence="reverse_kl", reward_to_go=True, batch_size=24, bank_size=48
    )
    problem, state = init(Target(base).tilt(length, beta=0.5), None, settings)
    drawn = draw(problem, state, SAMPLES)
    narrow = drawn.samples.lengths <= 2
    short, long = rows_of(drawn, narrow, 2), rows_of(drawn, ~narrow, 4)
    assert 0 < len(short) < 24
    for parts in ([short, long], [long, short]):
        both = Drawn.concatenate(parts)
        expected = base.token_log_probs(both.samples).detach()
        assert torch.equal(both.log_base_by_token, expected)


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
