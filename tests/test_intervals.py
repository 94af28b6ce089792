import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement import intervals


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),  # Wilson 1927, z = 1.959964, to seven places
        (1, 10, 0.0178762, 0.4041500),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_wilson_known_values(successes: int, count: int, low: float, high: float):
    found = intervals.wilson(successes, count)
    assert found.low == pytest.approx(low, abs=1e-6)
    assert found.high == pytest.approx(high, abs=1e-6)


@given(count=st.integers(1, 500), data=st.data())
@settings(deadline=None)
def test_wilson_ends_solve_the_score_equation(count: int, data: st.DataObject):
    successes = data.draw(st.integers(0, count))
    found = intervals.wilson(successes, count)
    assert 0 <= found.low <= found.value <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            score = abs(found.value - end) / math.sqrt(end * (1 - end) / count)
            assert score == pytest.approx(1.959963985, rel=1e-6)


def test_mean_of_symmetric_values_is_students_interval():
    found = intervals.mean_interval(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert found.value == 0
    assert found.low == pytest.approx(-half, rel=1e-6)
    assert found.high == pytest.approx(half, rel=1e-6)


def test_a_single_value_says_nothing():
    found = intervals.mean_interval(torch.tensor([3.0]))
    assert (found.value, found.low, found.high) == (3.0, -math.inf, math.inf)


def test_equal_values_have_no_spread():
    found = intervals.mean_interval(torch.full((7,), 2.0))
    assert tuple(found) == (2.0, 0.0, 2.0, 2.0)


@given(skewness=st.floats(-1, 1), degrees=st.sampled_from([5.0, 30.0, math.inf]))
@settings(deadline=None)
def test_skewed_ends_invert_halls_transformation(skewness: float, degrees: float):
    plain = intervals.normal_interval(0.0, 1.0, degrees)
    skewed = intervals.normal_interval(0.0, 1.0, degrees, skewness)
    slope = skewness / 3

    def transformed(t: float) -> float:
        return t + slope * t**2 + slope**2 * t**3 / 3 + slope / 2

    assert transformed(-skewed.low) == pytest.approx(plain.high, abs=2e-6)
    assert transformed(-skewed.high) == pytest.approx(plain.low, abs=2e-6)
    assert skewed.low <= skewed.high


def test_skewness_correction_balances_the_misses_of_a_skewed_mean():
    generator = torch.Generator().manual_seed(0)
    draws = torch.empty(3000, 40, dtype=torch.float64).exponential_(generator=generator)
    corrected = [intervals.mean_interval(row) for row in draws]
    plain = [intervals.normal_interval(i.value, i.stderr, 39) for i in corrected]

    def misses(found: list[intervals.Interval]) -> tuple[float, float]:
        above = sum(i.low > 1 for i in found) / len(found)
        below = sum(i.high < 1 for i in found) / len(found)
        return above, below

    assert misses(plain)[1] - misses(plain)[0] > 0.035
    assert misses(corrected)[1] - misses(corrected)[0] < 0.03
    assert sum(misses(corrected)) < sum(misses(plain))


def test_delta_method_with_parts_has_the_spread_of_a_stratified_mean():
    generator = torch.Generator().manual_seed(1)
    part = torch.tensor([0] * 60 + [1] * 140)
    centre = torch.tensor([0.0, 10.0], dtype=torch.float64)[part]
    spread = torch.tensor([1.0, 3.0], dtype=torch.float64)[part]
    means, errors = [], []
    for _ in range(800):
        values = centre + spread * torch.randn(200, generator=generator, dtype=torch.float64)
        means.append(float(values.mean()))
        found = intervals.delta_method(means[-1], values - values.mean(), part)
        errors.append(found.stderr)
    exact = math.sqrt(60 * 1 + 140 * 9) / 200
    assert np.mean(errors) == pytest.approx(exact, rel=0.01)
    assert np.std(means) == pytest.approx(exact, rel=0.08)


def test_delta_method_of_one_part_is_the_mean():
    values = torch.tensor([1.0, 4.0, 2.0, 8.0], dtype=torch.float64)
    found = intervals.delta_method(3.75, values - 3.75, torch.zeros(4, dtype=torch.long))
    assert found.stderr == pytest.approx(float(values.std()) / 2)


def test_a_part_of_a_single_sample_has_no_spread_to_go_by():
    found = intervals.delta_method(0.0, torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0, 0, 1]))
    assert found.stderr == math.inf


@given(
    parts=st.lists(st.integers(2, 40), min_size=1, max_size=3),
    wanted=st.integers(2, 8),
)
@settings(deadline=None)
def test_left_out_groups_are_disjoint_and_keep_the_proportions(parts: list[int], wanted: int):
    groups = min(wanted, *parts)
    kept = intervals.left_out_groups(parts, groups)
    every = set(range(sum(parts)))
    removed = [every - set(row.tolist()) for row in kept]
    assert sum(len(group) for group in removed) == len(set().union(*removed))
    start = 0
    for size in parts:
        units = set(range(start, start + size))
        assert {len(group & units) for group in removed} == {size // groups}
        start += size


@pytest.mark.parametrize("groups", [4, 20])
def test_jackknife_removes_the_bias_of_a_squared_mean(groups: int):
    generator = torch.Generator().manual_seed(2)
    draws = torch.randn(40000, 20, generator=generator, dtype=torch.float64) + 1
    value = draws.mean(1).square()  # E = 1 + 1/20
    kept = intervals.left_out_groups([20], groups)
    left_out = draws[:, kept].mean(2).square()
    found = intervals.jackknife_value(value, left_out, kept.shape[1] / 20)
    error = float(found.std()) / 200
    assert abs(float(value.mean()) - 1.05) < 4 * error
    assert abs(float(found.mean()) - 1.0) < 4 * error


def test_jackknife_keeps_the_value_where_a_group_cannot_be_left_out():
    found = intervals.jackknife_value(
        torch.tensor([2.0, 2.0]), torch.tensor([[1.0, -math.inf], [2.0, 2.0]]), 0.5
    )
    assert found.tolist() == [2.0, 2.0]


def test_paired_difference_is_that_of_the_differences():
    generator = torch.Generator().manual_seed(3)
    shared = 100 * torch.randn(50, generator=generator, dtype=torch.float64)
    noise = torch.randn(50, generator=generator, dtype=torch.float64)
    found = intervals.paired_difference(shared + noise + 1, shared)
    assert found == pytest.approx(intervals.mean_interval(noise + 1), rel=1e-9)
    part = torch.arange(50) % 2
    stratified = intervals.paired_difference(shared + noise + 1 + part, shared, part)
    assert stratified.stderr < intervals.mean_interval(noise + 1 + part).stderr


def test_a_rate_that_was_never_seen_is_at_most_the_rule_of_three():
    assert intervals.unseen_rate(0) == 1
    for draws in (1, 30, 1000):
        assert (1 - intervals.unseen_rate(draws)) ** draws == pytest.approx(1 - intervals.LEVEL)
    assert intervals.unseen_rate(1000) == pytest.approx(3 / 1000, rel=0.01)
