import math

import pytest
import torch

from attunement.divergences import forward_kl
from attunement.reproduce import exact
from attunement.reproduce.methods import KL_ADAPTIVE_DPG
from attunement.targets import Target


def test_a_and_b_open_and_close():
    right, wrong = ("", "ab", "cabd", "aabb", "abab"), ("a", "b", "ba", "abb", "aab")
    assert all(map(exact.is_balanced, right))
    assert not any(map(exact.is_balanced, wrong))


def test_at_the_target_every_distance_is_nothing(tiny):
    base = tiny.base(0)
    target = Target(base).tilt(exact.counted, beta=1.0)
    start = exact.stand(target, base)
    assert start["kl_policy_base"] == pytest.approx(0, abs=1e-12)
    assert start["forward_kl"] > 0.01
    empty = exact.stand(Target(base), base)
    for name in ("forward_kl", "reverse_kl", "total_variation", "jensen_shannon"):
        assert empty[name] == pytest.approx(0, abs=1e-12)


def test_of_a_hard_constraint_the_distance_is_minus_log_z(tiny):
    base = tiny.base(1)
    target = Target(base).constrain(exact.balanced)
    stand = exact.stand(target, base)
    assert stand["forward_kl"] == pytest.approx(-math.log(stand["balanced"]))
    assert stand["reverse_kl"] == math.inf
    goal = exact.stand_of_target(target)
    assert goal["entropy"] < stand["entropy"]


def test_the_share_of_different_ones_is_what_sampling_says(tiny):
    base = tiny.base(2)
    generator = torch.Generator().manual_seed(0)
    sets = [base.sample(None, exact.SET_SIZE, generator=generator).texts for _ in range(200)]
    share = sum(len(set(texts)) for texts in sets) / len(sets) / exact.SET_SIZE
    assert exact.stand(Target(base), base)["distinct"] == pytest.approx(share, abs=0.02)


def test_figures_of_several_contexts_are_means(tiny):
    base = tiny.base(3, exact.PROMPTS[:2])
    target = Target(base).constrain(exact.mentioned)
    each = [exact.stand(target, base, [prompt]) for prompt in exact.PROMPTS[:2]]
    both = exact.stand(target, base, exact.PROMPTS[:2])
    for name in ("mentioned", "forward_kl", "entropy"):
        assert both[name] == pytest.approx((each[0][name] + each[1][name]) / 2)


def test_the_fitted_proportions_are_those_asked_for(tiny):
    base = tiny.base(4)
    target = exact.proportions(base, 0)
    outcomes = exact.every_outcome(target)
    log_p = (outcomes.log_prob + target.log_potential(outcomes)).log_softmax(0)
    means = [float(log_p.exp() @ c.values) for c in target.features(outcomes).values()]
    assert means == pytest.approx([0.5, 0.25], abs=0.03)


def test_the_way_begins_at_the_base_and_counts_samples(tiny):
    base = tiny.base(5)
    target = Target(base).constrain(exact.balanced)
    policy, path = exact.follow(target, KL_ADAPTIVE_DPG.settings(tiny.settings, 0))
    assert [row["samples"] for row in path] == [0, 128, 256]
    assert {k: v for k, v in path[0].items() if k != "samples"} == exact.stand(target, base)
    assert path[-1]["forward_kl"] == exact.stand(target, policy)["forward_kl"]
    assert path[-1]["forward_kl"] < path[0]["forward_kl"]


def test_the_gradients_mean_and_variance_are_those_of_samples(tiny):
    base = tiny.base(6)
    outcomes = base.enumerate()
    signal = torch.arange(len(outcomes), dtype=torch.float64) / len(outcomes)
    mean, variance = exact.gradient(base, outcomes, signal)
    # The gradient of Σ π·signal is E[signal·∇log π].
    (expected,) = torch.autograd.grad(base.log_prob(outcomes).exp() @ signal, base.logits)
    assert torch.allclose(mean, expected.flatten(), atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(outcomes.log_prob.exp(), 4000, True, generator=generator)
    rows = (exact.jacobian(base, outcomes) * signal.unsqueeze(1))[drawn]
    assert variance == pytest.approx(float(rows.var(0).sum()), rel=0.1)
    assert forward_kl.name in exact.stand(Target(base), base)
