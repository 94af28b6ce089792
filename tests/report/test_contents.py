from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.contributions import Contribution
from attunement.core import Estimate
from attunement.measuring import Measurement
from attunement.report.contents import (
    Factor,
    Held,
    Kind,
    Outcome,
    Reading,
    Recipe,
    target_kl_base,
)


def exactly(value):
    return Estimate(value, 0.0, value, value, 1000, 1000.0)


def reading_of(factors, contributions, log_z):
    empty = Measurement(
        n=8,
        base={},
        policy={},
        target={},
        divergences={},
        log_z=log_z,
        forbidden=exactly(0.0),
        diversity={},
        log_ratios=torch.empty(0),
        warnings=(),
        factors=tuple(Contribution({}, found, found, found) for found in contributions),
    )
    recipe = Recipe("m", None, 8, (), None, False, tuple(factors), {}, {}, "")
    return Reading("r", recipe, (), (), (), Outcome(empty, empty, (), None))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    floor=st.none() | st.floats(0.001, 0.9),
    lambda_=st.floats(-2, 2),
    slope=st.floats(-2, 2),
)
def test_kl_of_the_target_from_the_base_is_that_of_enumeration(seed, floor, lambda_, slope):
    generator = np.random.default_rng(seed)
    log_a = np.log(generator.dirichlet(np.ones(12)))
    binary, moment, reward = generator.integers(0, 2, 12), *generator.normal(size=(2, 12))
    binary[0] = 1
    with np.errstate(divide="ignore"):
        penalty = np.where(binary == 1, 0.0, np.log(floor or 0.0))
    parts = [penalty, lambda_ * moment, slope * reward]
    log_p = log_a + sum(parts)
    log_z = np.logaddexp.reduce(log_p)
    p = np.exp(log_p - log_z)
    kept = p > 0
    truth = float(np.sum(p[kept] * (log_p - log_z - log_a)[kept]))
    factors = [
        Factor(Kind.CONSTRAIN, "b", floor=floor),
        Factor(Kind.MATCH, "m", mean=0.0, lambda_=lambda_),
        Factor(Kind.TILT, "r", weight=slope),
    ]
    means = [exactly(float(p[kept] @ part[kept])) for part in parts]
    found = target_kl_base(reading_of(factors, means, exactly(float(log_z))))
    assert found is not None
    assert found.value == pytest.approx(truth, abs=1e-9)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9


def test_the_interval_is_turned_round_for_a_hard_constraint_and_widened_by_a_moment():
    log_z = Estimate(-0.5, 0.05, -0.6, -0.4, 100, 90.0)
    hard = reading_of([Factor(Kind.CONSTRAIN, "b")], [exactly(0.0)], log_z)
    found = target_kl_base(hard)
    assert (found.value, found.low, found.high) == (0.5, 0.4, 0.6)
    assert hard.hard_only
    costs = Estimate(-1.0, 0.02, -1.04, -0.96, 100, 90.0)
    matched = reading_of([Factor(Kind.MATCH, "m", lambda_=-2.0)], [costs], log_z)
    found = target_kl_base(matched)
    assert found.value == pytest.approx(-0.5)
    assert found.high - found.low == pytest.approx(0.2 + 2 * 0.04)
    assert not matched.hard_only


def test_without_contribution_or_measurement_there_is_no_estimate():
    unseen = reading_of([Factor(Kind.TILT, "r")], [], exactly(-0.5))
    assert target_kl_base(unseen) is None
    assert target_kl_base(replace(unseen, outcome=None)) is None


def test_contexts_whose_interval_holds_the_mean_are_counted():
    held = tuple(Held(1.0, Estimate(v, 0.1, v - 0.2, v + 0.2, 9, 9.0)) for v in (0.2, 0.5, 0.6))
    assert Factor(Kind.MATCH_EACH, "m", mean=0.5, held=held).held_within == 2
    assert Factor(Kind.MATCH_EACH, "m", mean=0.5).held_within == 0
