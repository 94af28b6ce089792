"""Off policy the minimum is the target, on policy the gradient is that of the divergence."""

import math

import pytest
import torch

from attunement.core import AttunementError
from attunement.divergences import DIVERGENCES, Divergence, alpha, jensen_shannon, reverse_kl
from attunement.objectives import (
    profiled_log_partition,
    surrogate,
    trajectory_balance_signal,
)

ROWS = [*DIVERGENCES.values(), alpha(0.5), alpha(1.5)]
CASES = [(row, 0) for row in ROWS] + [(row, 2) for row in ROWS if row.allows_forbidden]
cases = pytest.mark.parametrize(
    ("row", "forbidden"), CASES, ids=[f"{row.name}-{count}" for row, count in CASES]
)
SIZE = 6
OFTEN = torch.tensor([9, 3, 14, 2, 6, 30])
"""How often a batch of 64 holds each outcome: a proposal that is nobody's policy."""
BATCH = torch.arange(SIZE).repeat_interleave(OFTEN)
LOG_PROPOSAL = (OFTEN.double() / OFTEN.sum()).log()
ONE_CONTEXT = torch.zeros(len(BATCH), dtype=torch.long)


def logits(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SIZE, generator=generator, dtype=torch.float64)


def score(forbidden: int) -> torch.Tensor:
    """An unnormalised target that doesn't sum to 1 and forbids the first outcomes."""
    values = logits(1) + 0.7
    values[:forbidden] = -math.inf
    return values


@cases
def test_on_policy_the_gradient_is_that_of_the_divergence(row: Divergence, forbidden: int):
    parameters = logits(2).requires_grad_()
    log_policy, log_score = parameters.log_softmax(0), score(forbidden)
    log_partition = torch.logsumexp(log_score, 0)
    exact = torch.autograd.grad(
        row.exact(log_policy, log_score - log_partition), parameters, retain_graph=True
    )[0]
    signal = trajectory_balance_signal(
        row,
        log_policy=log_policy,
        log_score=log_score,
        log_partition=log_partition.expand(SIZE),
        log_proposal=log_policy.detach(),
    )
    expected = surrogate(signal * log_policy.detach().exp(), log_policy, 1)
    found = torch.autograd.grad(expected, parameters)[0]
    assert float((exact - found).norm() / exact.norm()) < 1e-10


def total_variation(log_policy: torch.Tensor, log_score: torch.Tensor) -> float:
    return 0.5 * float((log_policy.exp() - log_score.softmax(0)).abs().sum())


@cases
def test_off_policy_the_minimum_is_the_target(row: Divergence, forbidden: int):
    parameters = logits(2).requires_grad_()
    log_score = score(forbidden)
    optimizer = torch.optim.Adam([parameters], lr=0.1, betas=(0.8, 0.9))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.993)
    assert total_variation(parameters.detach().log_softmax(0), log_score) > 0.2
    for _ in range(1200):
        optimizer.zero_grad()
        log_policy = parameters.log_softmax(0)
        chosen = {"log_policy": log_policy[BATCH], "log_score": log_score[BATCH]}
        signal = trajectory_balance_signal(
            row,
            **chosen,
            log_partition=profiled_log_partition(row, **chosen, context=ONE_CONTEXT),
            log_proposal=LOG_PROPOSAL[BATCH],
        )
        surrogate(signal, chosen["log_policy"], len(BATCH)).backward()
        optimizer.step()
        schedule.step()
    assert total_variation(parameters.detach().log_softmax(0), log_score) < 1e-3


@cases
def test_the_profiled_partition_balances_every_context(row: Divergence, forbidden: int):
    log_policy, log_score = logits(3).log_softmax(0), score(forbidden)
    context = torch.tensor([7, 7, 7, 4, 4, 4])
    found = profiled_log_partition(row, log_policy=log_policy, log_score=log_score, context=context)
    for index in (4, 7):
        rows = (context == index) & torch.isfinite(log_score)
        slopes = row.derivative((log_policy - log_score + found)[rows]) - row.derivative_at_one
        if row.name == "total_variation":  # a median: as many above as below, or one between
            assert abs(float(slopes.sum())) <= 0.5
        else:
            assert abs(float(slopes.sum())) < 1e-9


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_at_the_target_the_profiled_partition_is_the_partition(row: Divergence):
    log_score = score(0)
    log_policy = log_score - torch.logsumexp(log_score, 0)
    found = profiled_log_partition(
        row, log_policy=log_policy, log_score=log_score, context=torch.zeros(SIZE).long()
    )
    torch.testing.assert_close(found, torch.logsumexp(log_score, 0).expand(SIZE))


def test_a_context_without_an_allowed_sample_has_no_partition_and_adds_nothing():
    log_policy = logits(4).log_softmax(0)
    log_score, context = score(2), torch.tensor([0, 0, 1, 1, 1, 1])
    found = profiled_log_partition(
        jensen_shannon, log_policy=log_policy, log_score=log_score, context=context
    )
    assert torch.isneginf(found[:2]).all()
    assert torch.isfinite(found[2:]).all()
    signal = trajectory_balance_signal(
        jensen_shannon,
        log_policy=log_policy,
        log_score=log_score,
        log_partition=found,
        log_proposal=log_policy,
    )
    assert bool((signal[:2] == 0).all())
    assert bool((signal[2:] != 0).all())


def test_an_infinite_price_is_an_error_that_offers_a_floor():
    log_policy = logits(4).log_softmax(0)
    with pytest.raises(AttunementError, match="--floor"):
        trajectory_balance_signal(
            reverse_kl,
            log_policy=log_policy,
            log_score=score(1),
            log_partition=torch.zeros(SIZE),
            log_proposal=log_policy,
        )
