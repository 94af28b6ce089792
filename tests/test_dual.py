import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError
from attunement.dual import solve_dual

FLOAT64 = torch.float64


def problem(seed, contexts, width, size=16):
    """Features that have every corner of the cube, so that all means inside it can be reached."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=width)), dtype=FLOAT64)
    drawn = torch.randn(contexts, size, width, generator=generator, dtype=FLOAT64)
    features = torch.cat([corners.expand(contexts, *corners.shape), drawn], 1)
    log_weights = torch.randn(features.shape[:2], generator=generator, dtype=FLOAT64)
    means = torch.rand(width, generator=generator, dtype=FLOAT64) * 1.6 - 0.8
    context = torch.arange(contexts).repeat_interleave(features.shape[1])
    return features.reshape(-1, width), log_weights.flatten(), context, means


def moments(features, log_weights, context, lambdas):
    """[C, K] exact moments of each context."""
    exponents = log_weights + (features * lambdas[context]).sum(1)
    rows = [context == index for index in context.unique()]
    return torch.stack([exponents[row].softmax(0) @ features[row] for row in rows])


def dual(features, log_weights, context, means, lambdas):
    """The dual as its definition has it."""
    exponents = log_weights + ((features - means) * lambdas[context]).sum(1)
    return torch.stack([exponents[context == i].logsumexp(0) for i in context.unique()]).mean()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 100_000),
    contexts=st.integers(1, 5),
    held=st.lists(st.booleans(), min_size=1, max_size=3),
)
def test_averaged_moments_hold_on_average_and_held_ones_in_every_context(seed, contexts, held):
    features, log_weights, context, means = problem(seed, contexts, len(held))
    each = torch.tensor(held)
    solved = solve_dual(features, log_weights, context, means, each)
    found = moments(features, log_weights, context, solved)
    torch.testing.assert_close(found.mean(0)[~each], means[~each], rtol=0, atol=1e-8)
    wanted = means[each].expand(contexts, -1)
    torch.testing.assert_close(found[:, each], wanted, rtol=0, atol=1e-8)
    assert torch.equal(solved[:, ~each], solved[:1, ~each].expand(contexts, -1))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 100_000))
def test_the_solution_is_the_lowest_point_of_the_dual(seed):
    features, log_weights, context, means = problem(seed, 3, 2)
    each = torch.tensor([False, True])
    solved = solve_dual(features, log_weights, context, means, each)
    free = [solved[0, 0].clone().requires_grad_(), solved[:, 1].clone().requires_grad_()]
    value = dual(
        features, log_weights, context, means, torch.stack([free[0].expand(3), free[1]], 1)
    )
    for gradient in torch.autograd.grad(value, free):
        assert float(gradient.abs().max()) < 1e-8
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(3, 2, generator=generator, dtype=FLOAT64)
    shift[:, 0] = shift[0, 0]
    assert dual(features, log_weights, context, means, solved + shift) > value


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 100_000))
def test_with_one_context_held_is_averaged(seed):
    features, log_weights, context, means = problem(seed, 1, 2)
    averaged = solve_dual(features, log_weights, context, means)
    held = solve_dual(features, log_weights, context, means, torch.tensor([True, True]))
    mixed = solve_dual(features, log_weights, context, means, torch.tensor([True, False]))
    torch.testing.assert_close(held, averaged, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(mixed, averaged, rtol=1e-7, atol=1e-8)


def test_what_is_only_held_is_solved_context_by_context():
    features, log_weights, context, means = problem(1, 4, 2)
    each = torch.tensor([True, True])
    together = solve_dual(features, log_weights, context, means, each)
    for index in range(4):
        rows = context == index
        alone = solve_dual(
            features[rows], log_weights[rows], torch.zeros_like(context[rows]), means
        )
        torch.testing.assert_close(together[index], alone[0], rtol=1e-7, atol=1e-8)


def test_the_order_of_samples_and_of_features_does_not_matter():
    features, log_weights, context, means = problem(2, 3, 3)
    each = torch.tensor([False, True, False])
    solved = solve_dual(features, log_weights, context, means, each)
    rows = torch.randperm(len(context), generator=torch.Generator().manual_seed(0))
    columns = torch.tensor([2, 0, 1])
    again = solve_dual(
        features[rows][:, columns], log_weights[rows], context[rows], means[columns], each[columns]
    )
    torch.testing.assert_close(again, solved[:, columns], rtol=1e-7, atol=1e-8)


def test_a_feature_can_be_counted_in_any_unit():
    features, log_weights, context, means = problem(3, 2, 2)
    unit = torch.tensor([1e5, 1e-5], dtype=FLOAT64)
    solved = solve_dual(features, log_weights, context, means)
    scaled = solve_dual(features * unit, log_weights, context, means * unit)
    torch.testing.assert_close(scaled * unit, solved, rtol=1e-7, atol=1e-8)


def test_contexts_of_unequal_size_count_alike_and_forbidden_ones_not_at_all():
    features, log_weights, context, means = problem(4, 3, 1)
    kept = (context != 1) | (torch.arange(len(context)) % 3 == 0) | (features[:, 0].abs() == 1)
    features, log_weights, context = features[kept], log_weights[kept], context[kept]
    solved = solve_dual(features, log_weights, context, means)
    found = moments(features, log_weights, context, solved)
    torch.testing.assert_close(found.mean(0), means, rtol=0, atol=1e-8)
    log_weights = log_weights.masked_fill(context == 1, -torch.inf)
    without = solve_dual(features, log_weights, context, means)
    found = moments(features, log_weights, context, without)[[0, 2]]
    torch.testing.assert_close(found.mean(0), means, rtol=0, atol=1e-8)
    assert without.shape == (3, 1)


def test_it_says_when_it_cannot_be_solved():
    features = torch.tensor([[0.0], [1.0]], dtype=FLOAT64)
    zeros = torch.zeros(2, dtype=FLOAT64)
    with pytest.raises(AttunementError, match="moments could not be matched"):
        solve_dual(features, zeros, zeros.long(), torch.tensor([1.5], dtype=FLOAT64))
