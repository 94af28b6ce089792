import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError
from attunement.divergences import (
    DIVERGENCES,
    Divergence,
    alpha,
    forward_kl,
    parse_divergence,
    reverse_kl,
    total_variation,
)

ROWS = [*DIVERGENCES.values(), *(alpha(order) for order in (-1.0, 0.25, 0.5, 0.75, 1.5, 3.0))]
SOFT = [row for row in ROWS if row.allows_forbidden]
by_name = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
by_soft_name = pytest.mark.parametrize("row", SOFT, ids=lambda row: row.name)


def random_log(size: int, seed: int, forbidden: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(size, generator=generator, dtype=torch.float64)
    if forbidden:
        logits[:forbidden] = -math.inf
    return logits.log_softmax(0)


def gradients(row: Divergence, forbidden: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits = random_log(12, seed).requires_grad_()
    log_policy, log_target = logits.log_softmax(0), random_log(12, seed + 100, forbidden)
    (exact,) = torch.autograd.grad(row.exact(log_policy, log_target), logits, retain_graph=True)
    weight = log_policy.detach().exp() * row.slope(log_policy.detach(), log_target)
    (policy_gradient,) = torch.autograd.grad((weight * log_policy).sum(), logits)
    return exact, policy_gradient


@by_name
@pytest.mark.parametrize("seed", range(3))
def test_policy_gradient_is_the_gradient_of_the_divergence(row: Divergence, seed: int):
    exact, found = gradients(row, 0, seed)
    assert float((exact - found).norm() / exact.norm()) < 1e-10


@by_soft_name
@pytest.mark.parametrize("seed", range(3))
def test_policy_gradient_with_forbidden_states(row: Divergence, seed: int):
    exact, found = gradients(row, 4, seed)
    assert float((exact - found).norm() / exact.norm()) < 1e-10


@by_name
def test_rows_with_an_infinite_slope_are_infinite_on_forbidden_mass(row: Divergence):
    value = row.exact(random_log(12, 0), random_log(12, 1, forbidden=3))
    assert bool(value.isfinite()) == row.allows_forbidden


@by_name
def test_forbidden_states_without_mass_cost_nothing(row: Divergence):
    log_target = random_log(12, 1, forbidden=3)
    whole = row.exact(log_target, log_target)
    assert float(whole) == pytest.approx(0.0, abs=1e-14)


@by_name
@given(first=st.integers(0, 10**6), second=st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_divergence_is_zero_only_at_the_target(row: Divergence, first: int, second: int):
    log_policy, log_target = random_log(8, first), random_log(8, second)
    assert float(row.exact(log_policy, log_policy)) == pytest.approx(0.0, abs=1e-13)
    if first != second:
        assert float(row.exact(log_policy, log_target)) > 0


@by_name
def test_generator_perspective_and_derivative_agree(row: Divergence):
    u = torch.linspace(-6, 6, 241, dtype=torch.float64).requires_grad_()
    f = row.generator(u)
    torch.testing.assert_close(row.perspective(u) * u.exp(), f, rtol=1e-9, atol=1e-12)
    (by_u,) = torch.autograd.grad(f.sum(), u)
    away = (u.detach().abs() > 1e-9).double()  # total variation has a kink at t = 1
    torch.testing.assert_close(
        by_u * away, row.derivative(u.detach()) * u.detach().exp() * away, rtol=1e-9, atol=1e-9
    )


@by_name
def test_constants_are_those_of_the_derivative(row: Divergence):
    zero, far = torch.zeros(1, dtype=torch.float64), torch.tensor([500.0], dtype=torch.float64)
    assert float(row.derivative(zero)) == pytest.approx(row.derivative_at_one, abs=1e-15)
    if row.allows_forbidden:
        assert float(row.derivative(far)) == pytest.approx(row.slope_at_infinity, abs=1e-12)
    else:
        assert float(row.derivative(far)) > 100


@by_name
def test_extreme_ratios_are_finite_or_rightly_infinite(row: Divergence):
    log_policy = torch.tensor([0.0, -800.0], dtype=torch.float64)
    log_target = log_policy.flip(0)
    value = row.exact(log_policy, log_target)
    assert not bool(value.isnan())
    order = {"pearson_chi2": 2.0, "neyman_chi2": -1.0}.get(row.name)
    if row.name.startswith("alpha:"):
        order = float(row.name.removeprefix("alpha:"))
    overflows = order is not None and not -0.88 < order < 1.88  # exp(709) is the largest double
    assert bool(value.isinf()) == overflows
    if row.name in ("forward_kl", "reverse_kl"):
        assert float(value) == pytest.approx(800.0)
    if row is total_variation:
        assert float(value) == pytest.approx(1.0)


def test_alpha_tends_to_both_kullback_leibler_divergences():
    log_policy, log_target = random_log(10, 3), random_log(10, 4)
    for order, limit in ((0.0, forward_kl), (1.0, reverse_kl)):
        exact = float(limit.exact(log_policy, log_target))
        errors = [
            abs(float(alpha(order + step).exact(log_policy, log_target)) - exact)
            for step in (1e-2, 1e-4)
        ]
        assert errors[1] < 1e-3 * exact
        assert errors[1] < errors[0] / 50


def test_named_rows_are_alpha_divergences():
    log_policy, log_target = random_log(10, 3), random_log(10, 4)
    for name, order, factor in (
        ("pearson_chi2", 2.0, 2.0),
        ("neyman_chi2", -1.0, 2.0),
        ("squared_hellinger", 0.5, 0.5),
    ):
        found = DIVERGENCES[name].exact(log_policy, log_target)
        same = factor * alpha(order).exact(log_policy, log_target)
        torch.testing.assert_close(found, same, rtol=1e-11, atol=0)


def test_parse():
    assert parse_divergence("forward_kl") is forward_kl
    assert parse_divergence("alpha:0.5").name == "alpha:0.5"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kl", "there is no divergence 'kl'; there are forward_kl"),
        ("alpha:x", "needs a number"),
        ("alpha:", "needs a number"),
        ("alpha:0", "0 is forward_kl"),
        ("alpha:1", "1 is reverse_kl"),
        ("alpha:inf", "others are finite"),
        ("forward_kl:2", "there is no divergence"),
    ],
)
def test_parse_errors(name: str, message: str):
    with pytest.raises(AttunementError, match=message):
        parse_divergence(name)


@by_name
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), forbidden=st.integers(1, 8))
def test_a_divergence_lies_between_its_least_and_its_most(
    row: Divergence, seed: int, forbidden: int
):
    log_policy, log_target = random_log(10, seed), random_log(10, seed + 1, forbidden)
    allowed = float(log_policy[forbidden:].exp().sum())
    exact = float(row.exact(log_policy, log_target))
    assert row.least(allowed) <= exact + 1e-12
    assert exact <= row.most + 1e-12
    assert row.least(allowed) <= row.least(0.5 * allowed) + 1e-12
    inside = log_target + math.log(allowed)
    reached = torch.where(log_target.isneginf(), log_policy, inside)
    assert float(row.exact(reached, log_target)) == pytest.approx(row.least(allowed), rel=1e-9)
    assert row.least(1.0) == pytest.approx(0, abs=1e-12)
