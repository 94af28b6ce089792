import math

import torch

from attunement.divergences import forward_kl
from attunement.targets import Target
from attunement.tuning import TuningSettings, evaluate, init, step

SETTINGS = TuningSettings(batch_size=128, bank_size=2048, evaluation_size=512, learning_rate=0.1)


def exact_forward_kl(target, policy) -> float:
    support = target.base.enumerate()
    log_score = target.base.log_prob(support) + target.log_potential(support)
    log_target = log_score - torch.logsumexp(log_score, 0)
    return float(forward_kl.exact(policy.log_prob(support), log_target).detach())


def test_estimates_hold_the_exact_distance(hard):
    problem, state = init(hard, None, SETTINGS)
    for _ in range(10):
        step(problem, state)
    found = evaluate(problem, state)
    estimate = found.estimates["forward_kl"]
    exact = exact_forward_kl(hard, state.average)
    assert abs(estimate.value - exact) < 4 * estimate.stderr
    support = hard.base.enumerate()
    log_z = torch.logsumexp(support.log_prob + hard.log_potential(support), 0)
    assert abs(found.estimates["log_z"].value - float(log_z)) < 4 * found.estimates["log_z"].stderr


def test_before_any_step_the_distance_is_minus_log_z(hard):
    problem, state = init(hard, None, SETTINGS)
    found = evaluate(problem, state).estimates
    assert math.isclose(found["forward_kl"].value, -found["log_z"].value, rel_tol=1e-9)
    assert found["kl_policy_base"].value == 0


def test_an_evaluation_does_not_disturb_the_run(hard):
    logits = []
    for look in (False, True):
        problem, state = init(hard, None, SETTINGS)
        step(problem, state)
        if look:
            evaluate(problem, state)
        step(problem, state)
        logits.append(state.policy.module.logits.detach())
    assert torch.equal(*logits)


def test_the_gradients_variance_is_looked_at_only_when_asked(hard):
    problem, state = init(hard, None, SETTINGS)
    assert "gradient_variance" not in evaluate(problem, state).estimates
    problem, state = init(hard, None, SETTINGS.model_copy(update={"gradient_variance": True}))
    assert evaluate(problem, state).estimates["gradient_variance"].low > 0


def test_a_feature_is_averaged_where_it_applies(base):
    def ends_in_a(texts):
        return [text[-1] == "a" if len(text) == 2 else None for text in texts]

    target = Target(base).tilt(ends_in_a, beta=1.0)
    problem, state = init(target, None, SETTINGS)
    found = evaluate(problem, state).estimates["ends_in_a"]
    support = base.enumerate()
    scores = target.features(support)["ends_in_a"]
    weights = support.log_prob.exp() * scores.applicable
    exact = float(weights @ scores.values / weights.sum())
    assert 0 < float(weights.sum()) < 0.9
    assert found.n < SETTINGS.evaluation_size
    assert found.low - 0.1 < exact < found.high + 0.1


def test_a_feature_that_applies_to_no_fresh_sample_is_left_out(base):
    calls = []

    def only_of_the_bank(texts):
        calls.append(len(texts))
        return [float("a" in text) if len(calls) == 1 else None for text in texts]

    problem, state = init(Target(base).tilt(only_of_the_bank, beta=1.0), None, SETTINGS)
    assert "only_of_the_bank" not in evaluate(problem, state).estimates
