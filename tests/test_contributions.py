import math

import pytest
import torch

from attunement.contributions import Contribution
from attunement.core import Context
from attunement.distributions.tabular import Tabular
from attunement.factors import ContextLambdas
from attunement.measuring import measure
from attunement.scorers import length
from attunement.targets import Target

PROMPTS = ("x", "y")


def has_a(texts):
    return ["a" in text for text in texts]


def has_b(texts):
    return ["b" in text for text in texts]


def starts_with_b(texts):
    return [text.startswith("b") for text in texts]


def count_a(texts):
    return [text.count("a") for text in texts]


def language(seed, prompts=("",)):
    generator = torch.Generator().manual_seed(seed)
    return Tabular.random(3, 3, generator=generator, prompts=prompts)


def composed(base, prompts=("",)):
    """Every kind of factor in one target."""
    known = ContextLambdas(
        tuple(map(Context, prompts)), tuple(0.3 + i for i in range(len(prompts)))
    )
    target = Target(base).constrain(has_a).constrain(has_b, floor=0.2).tilt(length, 4.0, -1.0)
    target = target.match({count_a: 1.0}).match_each({starts_with_b: 0.5})
    return target.with_lambdas({"count_a": -0.7, "starts_with_b": known})


def exact_means(target, distribution, prompts):
    """E of each factor on the enumerated outcomes, averaged over contexts."""
    support = target.base.enumerate(prompts)
    scores = target.features(support)
    with torch.no_grad():
        weights = distribution(support).reshape(len(prompts), -1).softmax(1) / len(prompts)
    found = []
    for factor in target.factors:
        values = factor.log_potential(scores[factor.scorer.name], support)
        terms = torch.where(weights.flatten() > 0, weights.flatten() * values, 0.0)
        found.append(float(terms.sum()))
    return found


@pytest.mark.parametrize("prompts", [("",), PROMPTS])
def test_means_are_those_of_enumeration(prompts):
    base, policy = language(0, prompts), language(1, prompts)
    target = composed(base, prompts)
    measured = measure(
        target, policy, prompts, n=40_000, generator=torch.Generator().manual_seed(0)
    )
    wanted = {
        "base": exact_means(target, base.log_prob, prompts),
        "policy": exact_means(target, policy.log_prob, prompts),
        "target": exact_means(
            target, lambda s: base.log_prob(s) + target.log_potential(s), prompts
        ),
    }
    for side, values in wanted.items():
        for row, value in zip(measured.factors, values, strict=True):
            found = getattr(row, side)
            if math.isinf(value):
                assert found.value == value
            else:
                assert found.value == pytest.approx(value, abs=0.02), (side, row.factor)
                assert found.low <= found.value <= found.high
    hard, *soft = measured.factors
    assert hard.forbids_base is not None
    assert hard.forbids_policy is not None
    assert hard.forbids_policy.value == measured.forbidden.value
    assert all(row.forbids_base is None and row.forbids_policy is None for row in soft)
    assert [row.factor["kind"] for row in measured.factors] == [
        "constrain",
        "constrain",
        "tilt",
        "match",
        "match_each",
    ]


def test_under_the_target_they_add_up_to_its_kl_from_the_base():
    base = language(0)
    target = composed(base)
    support = base.enumerate()
    potential = target.log_potential(support)
    log_z = float((support.log_prob + potential).logsumexp(0))
    log_p = support.log_prob + potential - log_z
    kept = torch.isfinite(log_p)
    truth = float((log_p.exp() * (log_p - support.log_prob))[kept].sum())
    measured = measure(target, base, n=40_000, generator=torch.Generator().manual_seed(1))
    total = sum(row.target.value for row in measured.factors) - measured.log_z.value
    assert total == pytest.approx(truth, abs=0.02)


def test_a_constraint_that_nothing_violates_may_still_be_violated():
    def anything(texts):
        return [1 for _ in texts]

    target = Target(language(0)).constrain(anything).constrain(has_a, floor=0.5)
    measured = measure(target, language(1), n=200, generator=torch.Generator().manual_seed(0))
    hard, floored = measured.factors
    assert (hard.base.value, hard.base.low, hard.base.high) == (0.0, -math.inf, 0.0)
    assert hard.forbids_base.high > 0
    assert math.log(0.5) < floored.base.low < floored.base.high < 0


def test_json_round_trip():
    measured = measure(
        composed(language(0)), language(1), n=200, generator=torch.Generator().manual_seed(0)
    )
    for row in measured.factors:
        content = row.to_json()
        assert Contribution.from_json(content).to_json() == content
