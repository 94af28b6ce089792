import math

import pytest
import torch

from attunement import estimators
from attunement.averaging import Limits, Statistic, estimate
from attunement.core import AttunementError
from attunement.distributions.tabular import Tabular
from attunement.divergences import DIVERGENCES
from attunement.evidence import BASE, POLICY, Evidence
from attunement.measuring import gather
from attunement.targets import Target

PROMPTS = tuple(f"p{index}" for index in range(12))
SOFT = [row for row in DIVERGENCES.values() if row.allows_forbidden]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bank(contexts: int, empty: int, each: int = 8) -> Evidence:
    """Half base, half policy, which are alike; the last contexts have nothing that is allowed."""
    size = contexts * each
    zeros = torch.zeros(size, dtype=torch.float64)
    context = torch.arange(contexts).repeat_interleave(each)
    potential = torch.where(context >= contexts - empty, -math.inf, 0.0).double()
    part = torch.tensor([BASE, POLICY]).repeat_interleave(each // 2).repeat(contexts)
    return Evidence(zeros, zeros, zeros, potential, part, context)


def number_of_the_context(evidence: Evidence):
    def statistic(rows: torch.Tensor) -> Statistic:
        value = evidence.context[rows].double().mean(-1)
        return Statistic(value, torch.zeros(rows.shape, dtype=torch.float64), None)

    return statistic


def test_contexts_without_an_allowed_sample_count_with_the_least():
    evidence = bank(contexts=6, empty=2)
    told: list[int] = []

    def least(draws: int) -> float:
        told.append(draws)
        return 3.0

    def found(limits: Limits | None):
        weights = evidence.target_weights
        return estimate(evidence, number_of_the_context(evidence), weights, limits=limits)

    dropped = found(None)
    assert (dropped.value, dropped.n) == (pytest.approx(1.5), 4)
    bounded = found(Limits(least, math.inf))
    assert told == [4, 4]
    assert (bounded.value, bounded.n) == (pytest.approx((0 + 1 + 2 + 3 + 3 + 3) / 6), 6)
    assert (bounded.stderr, bounded.high) == (None, math.inf)
    assert bounded.low < bounded.value
    assert any("a lower bound: 2 of 6 contexts" in note for note in bounded.warnings)
    assert 14 / 6 < found(Limits(least, 4.0)).high <= 4.0
    every = bank(contexts=6, empty=0)
    whole = estimate(
        every, number_of_the_context(every), every.target_weights, limits=Limits(least, 9.0)
    )
    assert (whole.value, whole.stderr is None) == (pytest.approx(2.5), False)


def test_without_any_allowed_sample_there_is_an_error():
    evidence = bank(contexts=3, empty=3)
    with pytest.raises(AttunementError, match="no sample of any of the 3 contexts"):
        estimate(evidence, number_of_the_context(evidence), evidence.target_weights)


@pytest.mark.parametrize("row", SOFT, ids=lambda row: row.name)
def test_a_lower_bound_lies_below_the_exact_distance(row):
    """In a quarter of the contexts the constraint holds once in a hundred thousand."""
    base = Tabular.random(3, 2, generator=seeded(), prompts=PROMPTS)
    with torch.no_grad():
        base.logits[::4, 0, 1] -= 12.0
    policy = Tabular(
        base.logits + 0.3 * torch.randn(base.logits.shape, generator=seeded(1)), 2, PROMPTS
    )
    target = Target(base).constrain(lambda texts: [text.startswith("a") for text in texts])
    support = base.enumerate(PROMPTS)
    shape = (len(PROMPTS), -1)
    log_target = (support.log_prob + target.log_potential(support)).reshape(shape).log_softmax(1)
    log_policy = policy.log_prob(support).detach().reshape(shape)
    exact = float(row.exact(log_policy, log_target)) / len(PROMPTS)
    drawn = [model.sample(PROMPTS, 64, generator=seeded(2)) for model in (base, policy)]
    found = estimators.divergence(gather(target, policy, *drawn), row)
    assert any("a lower bound: 3 of 12 contexts" in note for note in found.warnings)
    assert found.n == len(PROMPTS)
    assert found.low <= exact <= found.high
    assert found.value < exact + 0.05
    assert found.high <= row.most
    least = row.least(1 - 0.05 ** (1 / 64))
    assert found.value > 3 * least / 12
