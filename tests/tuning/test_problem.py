import math

import pytest
import torch

from attunement.core import AttunementError
from attunement.objectives import Baseline
from attunement.targets import Target
from attunement.tuning import Proposal, TuningSettings, init, load_state, save_state, step

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


@pytest.mark.parametrize("proposal", list(Proposal))
def test_a_restored_state_goes_on_bit_for_bit(hard, tmp_path, proposal):
    settings = SMALL.model_copy(update={"proposal": proposal})
    problem, state = init(hard, None, settings)
    for _ in range(3):
        step(problem, state)
    counters = save_state(problem, state, tmp_path)
    again, restored = init(hard, None, settings)
    load_state(again, restored, tmp_path, counters)
    for _ in range(3):
        step(problem, state)
        step(again, restored)
    assert torch.equal(state.policy.module.logits, restored.policy.module.logits)
    assert torch.equal(state.average.module.logits, restored.average.module.logits)
    assert torch.equal(state.pool.log_sums, restored.pool.log_sums)
    assert state.step == restored.step == 6


def test_a_corrupt_checkpoint_is_named(hard, tmp_path):
    problem, state = init(hard, None, SMALL)
    step(problem, state)
    counters = save_state(problem, state, tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"nonsense")
    with pytest.raises(AttunementError, match=r"optimizer\.safetensors can't be read.*delete"):
        load_state(problem, state, tmp_path, counters)
