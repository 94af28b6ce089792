import pytest
import torch

from attunement.core import AttunementError
from attunement.targets import Target
from attunement.tuning import Proposal, TuningSettings, init, load_state, save_state, step

SMALL = TuningSettings(batch_size=32, bank_size=128, learning_rate=0.05)


@pytest.mark.parametrize("replay", [0, 2])
@pytest.mark.parametrize("proposal", [p for p in Proposal if p is not Proposal.OTHER])
def test_a_restored_state_goes_on_bit_for_bit(hard, tmp_path, proposal, replay):
    settings = SMALL.model_copy(update={"proposal": proposal, "replay": replay})
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


def test_replayed_signals_of_tokens_go_on_bit_for_bit(base, tmp_path):
    def length(texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    target = Target(base).tilt(length, beta=0.5)
    settings = SMALL.model_copy(
        update={"divergence": "reverse_kl", "reward_to_go": True, "replay": 2}
    )
    problem, state = init(target, None, settings)
    for _ in range(3):
        step(problem, state)
    again, restored = init(target, None, settings)
    load_state(again, restored, tmp_path, save_state(problem, state, tmp_path))
    for _ in range(2):
        step(problem, state)
        step(again, restored)
    assert torch.equal(state.policy.module.logits, restored.policy.module.logits)


def test_a_corrupt_checkpoint_is_named(hard, tmp_path):
    problem, state = init(hard, None, SMALL)
    step(problem, state)
    counters = save_state(problem, state, tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"nonsense")
    with pytest.raises(AttunementError, match=r"optimizer\.safetensors can't be read.*delete"):
        load_state(problem, state, tmp_path, counters)
