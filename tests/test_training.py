import copy
import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from attunement.core import AttunementError
from attunement.distributions.tabular import Tabular
from attunement.objectives import surrogate
from attunement.training import (
    OptimizerSettings,
    TrainingState,
    load_parameters,
    load_tensors,
    load_training,
    save_parameters,
    save_training,
    scheduled_learning_rate,
    start_training,
    trainable,
    update,
)

CONSTANT = OptimizerSettings(learning_rate=0.1, warmup_steps=0, max_steps=10**9, averaging=0.5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_network(seed=0, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1)).double()


def started(module, options=CONSTANT):
    return start_training(module, copy.deepcopy(module), options)


def squares(state, rows):
    """Micro-batches' shares of a sum of squares over 6 rows."""
    inputs = torch.arange(12, dtype=torch.float64).reshape(6, 2) / 10

    def loss_of(batch):
        return (state.module(inputs[batch]) - 1).square().sum() / 6

    return rows, loss_of


def one_update(state, rows=((0, 1, 2, 3, 4, 5),), options=CONSTANT):
    micro_batches, loss_of = squares(state, [list(part) for part in rows])
    return update(state, micro_batches, loss_of, options)


def values(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def captured_gradient(module, micro_batches, loss_of):
    """The gradient that `update` accumulates, seen just before AdamW's step."""
    state = started(module, OptimizerSettings(max_grad_norm=1e9))
    seen = []
    state.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in module.parameters())
    )
    update(state, micro_batches, loss_of, OptimizerSettings(max_grad_norm=1e9))
    return seen


@settings(deadline=None, max_examples=15)
@given(cuts=st.sets(st.integers(1, 31)), seed=st.integers(0, 100))
def test_the_gradient_is_the_same_for_any_split_of_tabular_samples(cuts, seed):
    policy = Tabular.random(3, 3, generator=seeded(seed))
    samples = policy.sample(None, 32, generator=seeded(seed))
    signal = torch.randn(32, generator=seeded(seed), dtype=torch.float64)
    order = torch.randperm(32, generator=seeded(seed))
    ends = [0, *sorted(cuts), 32]
    split = [order[first:last] for first, last in pairwise(ends)]

    def gradient(parts):
        module = policy.copy()
        return captured_gradient(
            module, parts, lambda rows: surrogate(signal[rows], module.log_prob(samples[rows]), 32)
        )

    whole, parted = gradient([torch.arange(32)])[0], gradient(split)[0]
    assert float(whole.abs().max()) > 1e-3
    torch.testing.assert_close(parted, whole, rtol=0, atol=1e-12)


def test_the_gradient_is_the_same_for_any_split_of_a_network():
    splits = [[[0, 1, 2, 3, 4, 5]], [[5], [4, 0], [1, 2, 3]], [[i] for i in range(6)]]
    gradients = []
    for rows in splits:
        module = small_network()
        gradients.append(captured_gradient(module, *squares(started(module), rows)))
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=0, atol=1e-12)


def test_an_update_says_what_it_did():
    state = started(small_network())
    module = copy.deepcopy(state.module)
    _, loss_of = squares(started(module), None)
    loss = loss_of([0, 1, 2, 3, 4, 5])
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
    info = one_update(state, rows=((0, 1), (2, 3, 4, 5)))
    assert info.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    assert info.gradient_norm == pytest.approx(norm, rel=1e-9)
    assert info.learning_rate == 0.1
    assert state.updates == 1
    assert all(p.grad is None for p in state.module.parameters())


def test_updates_lower_the_loss():
    state = started(small_network())
    losses = [one_update(state).loss for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]


def test_updates_are_those_of_adamw():
    options = CONSTANT.model_copy(update={"weight_decay": 0.1, "max_grad_norm": 1e9})
    state, module = started(small_network(), options), small_network()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0.1)
    _, loss_of = squares(started(module), None)
    for _ in range(3):
        one_update(state, options=options)
        optimizer.zero_grad()
        loss_of([0, 1, 2, 3, 4, 5]).backward()
        optimizer.step()
    torch.testing.assert_close(values(state.module), values(module), rtol=1e-9, atol=1e-12)


def test_clipping_is_counted_and_scales_down():
    for bound, clipped in ((1e-3, True), (1e3, False)):
        options = CONSTANT.model_copy(update={"max_grad_norm": bound})
        state = started(small_network(), options)
        norms = []
        state.optimizer.register_step_pre_hook(
            lambda optimizer, *_, norms=norms: norms.append(
                math.sqrt(sum(float(p.grad.square().sum()) for p in _parameters(optimizer)))
            )
        )
        info = one_update(state, options=options)
        assert info.clipped is clipped
        assert norms[0] == pytest.approx(min(bound, info.gradient_norm), rel=1e-2)


def _parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    options = OptimizerSettings(learning_rate=2.0, warmup_steps=4, max_steps=12)
    rates = [scheduled_learning_rate(options, step) for step in range(14)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[4:12] == pytest.approx([1 + math.cos(math.pi * k / 8) for k in range(8)])
    assert rates[12:] == pytest.approx([0.0, 0.0], abs=1e-15)


@settings(deadline=None)
@given(warmup=st.integers(0, 30), steps=st.integers(1, 30), step=st.integers(0, 60))
def test_the_learning_rate_stays_within_its_peak(warmup, steps, step):
    options = OptimizerSettings(learning_rate=1.0, warmup_steps=warmup, max_steps=steps)
    assert 0 <= scheduled_learning_rate(options, step) <= 1
    assert scheduled_learning_rate(options, 0) > 0


def test_an_update_uses_the_scheduled_rate():
    options = OptimizerSettings(learning_rate=0.5, warmup_steps=1, max_steps=4)
    state = started(small_network(), options)
    rates = [one_update(state, options=options).learning_rate for _ in range(5)]
    assert rates == [scheduled_learning_rate(options, step) for step in range(5)]
    before = values(state.module)
    one_update(state, options=options)
    torch.testing.assert_close(values(state.module), before, rtol=0, atol=0)


@pytest.mark.parametrize("averaging", [0.0, 0.05, 0.5, 0.9])
def test_averaged_weights_follow_their_closed_form(averaging):
    options = CONSTANT.model_copy(update={"averaging": averaging})
    state = started(small_network(), options)
    history = [values(state.module)]
    for _ in range(6):
        one_update(state, options=options)
        history.append(values(state.module))
    decays = [min(averaging, step / (step + 10)) for step in range(1, 7)]
    weights = [math.prod(decays)] + [
        (1 - decays[k]) * math.prod(decays[k + 1 :]) for k in range(len(decays))
    ]
    assert sum(weights) == pytest.approx(1)
    for place, averaged in enumerate(state.average.parameters()):
        expected = sum(w * row[place] for w, row in zip(weights, history, strict=True))
        torch.testing.assert_close(averaged.detach(), expected)
    if averaging == 0:
        torch.testing.assert_close(values(state.average), values(state.module), rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_changes_nothing():
    state = started(small_network())
    one_update(state)
    before = [values(state.module), values(state.average)]
    optimizer = copy.deepcopy(state.optimizer.state_dict()["state"])
    for bad in (math.nan, math.inf):
        with pytest.raises(AttunementError, match="gradient of update 2 isn't finite"):
            update(
                state,
                [bad],
                lambda factor: state.module(torch.ones(1, 2).double()).sum() * factor,
                CONSTANT,
            )
    assert state.updates == 1
    torch.testing.assert_close(
        [values(state.module), values(state.average)], before, rtol=0, atol=0
    )
    torch.testing.assert_close(state.optimizer.state_dict()["state"], optimizer, rtol=0, atol=0)
    one_update(state)
    assert all(bool(p.isfinite().all()) for p in state.module.parameters())


def test_frozen_parameters_stay():
    module = small_network()
    module[0].requires_grad_(False)
    before = values(module[0])
    state = started(module)
    one_update(state)
    torch.testing.assert_close(values(state.module[0]), before, rtol=0, atol=0)
    assert not torch.equal(state.module[2].weight, state.average[2].weight)


def test_only_what_is_trained_is_saved(tmp_path):
    module = small_network()
    module[0].requires_grad_(False)
    state = started(module)
    one_update(state)
    counters = save_training(state, tmp_path)
    for name in ("policy", "average"):
        tensors = load_tensors(tmp_path / f"{name}.safetensors")
        assert set(tensors) == {"2.weight", "2.bias"} == set(trainable(state.average))
    fresh = small_network()
    fresh[0].requires_grad_(False)
    loaded = started(fresh)
    load_training(loaded, tmp_path, counters)
    torch.testing.assert_close(values(loaded.average), values(state.average), rtol=0, atol=0)
    assert one_update(loaded) == one_update(state)
    with pytest.raises(AttunementError, match="weights of another model"):
        load_training(started(small_network()), tmp_path, counters)


def test_a_frozen_network_has_nothing_to_train():
    with pytest.raises(AttunementError, match="every parameter of the policy is frozen"):
        started(small_network().requires_grad_(False))


@pytest.mark.parametrize("updates", [0, 3])
def test_a_loaded_state_continues_bit_for_bit(tmp_path, updates):
    options = OptimizerSettings(learning_rate=0.05, warmup_steps=2, max_steps=20, weight_decay=0.1)
    state = started(small_network(), options)
    for _ in range(updates):
        one_update(state, options=options)
    counters = save_training(state, tmp_path)
    loaded = started(small_network(seed=9), options)
    load_training(loaded, tmp_path, counters)
    for _ in range(4):
        first, second = one_update(state, options=options), one_update(loaded, options=options)
        assert first == second
    for name in ("module", "average"):
        pairs = values(getattr(state, name)), values(getattr(loaded, name))
        torch.testing.assert_close(*pairs, rtol=0, atol=0)
    assert loaded.updates == updates + 4


def test_a_tabular_policy_and_tied_weights_travel(tmp_path):
    policy = Tabular.random(3, 2, generator=seeded())
    save_parameters(policy, tmp_path / "policy.safetensors")
    other = Tabular.random(3, 2, generator=seeded(1))
    load_parameters(other, tmp_path / "policy.safetensors")
    assert torch.equal(other.logits, policy.logits)
    tied = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight
    save_parameters(tied, tmp_path / "tied.safetensors")
    assert set(load_tensors(tmp_path / "tied.safetensors")) == {"0.weight", "0.bias", "1.bias"}


def test_the_weights_of_another_model_are_refused(tmp_path):
    state = started(small_network())
    one_update(state)
    counters = save_training(state, tmp_path)
    wider = started(small_network(width=4))
    before = values(wider.module)
    with pytest.raises(AttunementError, match=r"policy.safetensors holds the weights of another"):
        load_training(wider, tmp_path, counters)
    torch.testing.assert_close(values(wider.module), before, rtol=0, atol=0)


def test_the_optimizer_of_another_model_is_refused(tmp_path):
    narrow, wide = tmp_path / "narrow", tmp_path / "wide"
    states: dict[str, TrainingState] = {}
    for folder, width in ((narrow, 3), (wide, 4)):
        folder.mkdir()
        states[folder.name] = started(small_network(width=width))
        one_update(states[folder.name])
        save_training(states[folder.name], folder)
    (wide / "optimizer.safetensors").replace(narrow / "optimizer.safetensors")
    with pytest.raises(AttunementError, match=r"holds the optimiser of another model"):
        load_training(states["narrow"], narrow, {"updates": 1})


@pytest.mark.parametrize("name", ["policy", "average", "optimizer"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_damaged_files_are_named_with_the_mend(tmp_path, name, damage):
    state = started(small_network())
    one_update(state)
    counters = save_training(state, tmp_path)
    path = tmp_path / f"{name}.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else b"not tensors at all")
    with pytest.raises(AttunementError, match=rf"{name}.safetensors can't be read .*delete the"):
        load_training(state, tmp_path, counters)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0},
        {"max_steps": 0},
        {"averaging": 1},
        {"adam_beta1": 1},
        {"momentum": 0.9},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        OptimizerSettings(**wrong)


SEVERAL = """
import copy, json, sys, torch
torch.set_num_threads(1)
from transformers import GPT2Config, GPT2LMHeadModel
from attunement import processes, sharding, training

processes.join()
torch.manual_seed(0)
config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=8)
module = GPT2LMHeadModel(config).eval()
if not processes.is_main():  # every process starts from the main one's parameters
    torch.nn.init.zeros_(module.lm_head.weight)
average = copy.deepcopy(module)
if sys.argv[1] == "sharded":
    for network in (module, average):
        for parameter in network.parameters():
            processes.make_common([parameter.data])
        sharding.shard(network)
settings = training.OptimizerSettings(learning_rate=0.01, warmup_steps=0, max_grad_norm=0.5)
state = training.start_training(module, average, settings)
tokens = torch.randint(11, (5, 6), generator=torch.Generator().manual_seed(1))

def loss_of(rows):
    return module(tokens[rows], labels=tokens[rows]).loss * len(rows) / 5

found = []
for split in ([0, 1], [2], [3, 4]), ([0, 1, 2, 3, 4],), ([0], [1, 2, 3], [4]):
    info = training.update(state, [torch.tensor(rows) for rows in split], loss_of, settings)
    found.append([info.loss, info.gradient_norm])
weights = {n: sharding.full(p.detach()) for n, p in average.named_parameters()}
norm = float(sum(w.double().square().sum() for w in weights.values()))
moments = state.optimizer.state_dict()["state"][0]["exp_avg"]
found.append([norm, float(sharding.full(moments).double().square().sum())])
print(json.dumps(found))
processes.wait()
processes.leave()
"""


@pytest.fixture(scope="module")
def one_process(launch) -> list[list[float]]:
    return json.loads(launch("-c", SEVERAL, "repeated", count=1)[0])


@pytest.mark.parametrize("kind", ["repeated", "sharded"])
def test_several_processes_make_the_same_updates(launch, one_process, kind):
    """Parts that can't be shared out evenly, fewer parts than processes, clipping, averages."""
    for out in launch("-c", SEVERAL, kind):
        for found, expected in zip(json.loads(out), one_process, strict=True):
            assert found == pytest.approx(expected, rel=1e-5)
