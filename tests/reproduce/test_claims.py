import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from attunement.intervals import normal_interval
from attunement.reproduce.claims import (
    Claim,
    ExactClaim,
    Figures,
    Judged,
    Side,
    Verdict,
    judge,
    log_ratio,
    mean_over_seeds,
    per_seed,
    seeds_that_decide,
    share_lost,
)


def judged(values, side=Side.ABOVE, effect=0.0):
    claim = Claim("c", "q", side, effect, lambda _: values, shown=(("run", "x"),))
    return judge(claim, [{"run": Figures({"x": x})} for x in values])


@pytest.mark.parametrize(
    ("side", "values", "verdict"),
    [
        (Side.ABOVE, [2.0, 2.1, 1.9, 2.0], Verdict.HOLDS),
        (Side.ABOVE, [0.0, 0.1, -0.1, 0.0], Verdict.FAILS),
        (Side.ABOVE, [0.0, 2.0, 0.5, 1.5], Verdict.UNDECIDED),
        (Side.BELOW, [0.0, 0.1, -0.1, 0.0], Verdict.HOLDS),
        (Side.BELOW, [2.0, 2.1, 1.9, 2.0], Verdict.FAILS),
        (Side.WITHIN, [0.1, -0.1, 0.0, 0.0], Verdict.HOLDS),
        (Side.WITHIN, [-2.0, -2.1, -1.9, -2.0], Verdict.FAILS),
        (Side.WITHIN, [0.9, 1.1, 1.3, 0.8], Verdict.UNDECIDED),
    ],
)
def test_the_verdict_is_where_the_interval_lies(side, values, verdict):
    assert judged(values, side, effect=1.0).verdict is verdict


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(-3, 3))
def test_above_and_below_never_agree(values, effect):
    above, below = (judged(values, side, effect).verdict for side in (Side.ABOVE, Side.BELOW))
    assert (above is Verdict.HOLDS) == (below is Verdict.FAILS)
    assert (above is Verdict.UNDECIDED) == (below is Verdict.UNDECIDED)


def test_a_false_claim_is_rarely_said_to_hold():
    """At a difference of exactly δ a one-sided error of 2.5 % on each side."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn((4000, 4), generator=generator, dtype=torch.float64) + 1.0
    verdicts = [judged(row, effect=1.0).verdict for row in draws.tolist()]
    for verdict in (Verdict.HOLDS, Verdict.FAILS):
        assert 0.015 < verdicts.count(verdict) / len(verdicts) < 0.035


@given(st.integers(2, 12), st.floats(0.01, 3), st.floats(-2, 2))
def test_the_seeds_that_decide_decide_and_one_fewer_does_not(count, stderr, mean):
    interval = normal_interval(mean, stderr, count - 1)
    assume(interval.low < 0 < interval.high)
    needed = seeds_that_decide(Side.ABOVE, 0.0, interval, count)
    assume(needed is not None)
    spread = stderr * math.sqrt(count)

    def open_with(seeds):
        wider = normal_interval(mean, spread / math.sqrt(seeds), seeds - 1)
        return wider.low <= 0 <= wider.high

    assert needed > count
    assert not open_with(needed)
    assert open_with(needed - 1)


def test_an_undecided_claim_says_what_would_decide():
    assert "would with this difference" in judged([0.0, 2.0, 0.5, 1.5]).decided_by
    assert "nor would" in judged([-1.0, 1.0]).decided_by
    assert "one gives no interval" in judged([1.0]).decided_by


def test_a_difference_that_is_not_finite_decides_nothing():
    for strange in (math.inf, math.nan):
        found = judged([1.0, strange])
        assert found.verdict is Verdict.UNDECIDED
        assert "isn't finite" in found.decided_by
        assert Judged.from_json(found.to_json()).to_json() == found.to_json()
    assert math.isnan(log_ratio(0.0, 1.0))
    assert math.isnan(log_ratio(math.nan, 1.0))
    assert log_ratio(2.0, 1.0) == math.log(2.0)
    assert math.isnan(share_lost(1.0, 0.0))
    assert share_lost(1.0, 4.0) == 0.75


@pytest.mark.parametrize(
    ("deviations", "verdict"),
    [
        ([1e-8, -1e-9], Verdict.HOLDS),
        ([0.0, -1e-3], Verdict.FAILS),
        ([0.0, math.nan], Verdict.FAILS),
        ([0.0, math.inf], Verdict.FAILS),
    ],
)
def test_an_exact_claim_is_decided_by_its_largest_deviation(deviations, verdict):
    claim = ExactClaim("c", "q", 1e-6, per_seed(lambda seed: seed["run"]["x"]))
    found = judge(claim, [{"run": Figures({"x": x})} for x in deviations])
    assert found.verdict is verdict
    assert found.difference.n == 2


def test_the_sentence_has_claim_figures_and_verdict():
    sentence = judged([2.0, 2.1, 1.9, 2.0], effect=1.0).sentence
    assert sentence.startswith("HOLDS: c. q: 2.000 [")
    assert "to be above 1; the 95 % interval over 4 seeds, paired; run x 2.000 [" in sentence


def test_the_interval_is_students():
    found = mean_over_seeds([1.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(12.7062, rel=1e-4)
