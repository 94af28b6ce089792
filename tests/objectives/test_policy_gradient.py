import itertools
import math

import pytest
import torch

from attunement.core import AttunementError
from attunement.divergences import DIVERGENCES, Divergence, alpha, forward_kl, reverse_kl
from attunement.objectives import (
    Baseline,
    has_signal,
    policy_gradient_signal,
    surrogate,
)

ROWS = [*DIVERGENCES.values(), alpha(0.5), alpha(1.5)]
CASES = [(row, 0) for row in ROWS] + [(row, 2) for row in ROWS if row.allows_forbidden]
cases = pytest.mark.parametrize(
    ("row", "forbidden"), CASES, ids=[f"{row.name}-{count}" for row, count in CASES]
)
SIZE = 6


class Tiny:
    """A softmax policy over a few outcomes, a target and a proposal."""

    def __init__(self, seed: int, forbidden: int, on_policy: bool):
        generator = torch.Generator().manual_seed(seed)

        def logits() -> torch.Tensor:
            return torch.randn(SIZE, generator=generator, dtype=torch.float64)

        self.logits = logits().requires_grad_()
        self.log_policy = self.logits.log_softmax(0)
        self.log_score = logits()
        self.log_score[:forbidden] = -math.inf
        self.log_partition = torch.logsumexp(self.log_score, 0)
        self.log_proposal = logits().log_softmax(0)
        if on_policy:
            self.log_proposal = self.log_policy.detach()

    def gradient(self, row: Divergence) -> torch.Tensor:
        value = row.exact(self.log_policy, self.log_score - self.log_partition)
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]

    def signal(self, row: Divergence, baseline: Baseline, index: torch.Tensor) -> torch.Tensor:
        return policy_gradient_signal(
            row,
            baseline,
            log_policy=self.log_policy[index],
            log_score=self.log_score[index],
            log_partition=self.log_partition.expand(len(index)),
            log_proposal=self.log_proposal[index],
            context=torch.zeros(len(index), dtype=torch.long),
        )

    def expected(self, row: Divergence, baseline: Baseline, samples: int) -> torch.Tensor:
        """The gradient of the surrogate over every tuple of samples, weighed by its probability."""
        total = torch.zeros((), dtype=torch.float64)
        for chosen in itertools.product(range(SIZE), repeat=samples):
            index = torch.tensor(chosen)
            probability = float(self.log_proposal[index].sum().exp())
            signal = self.signal(row, baseline, index)
            total = total + probability * surrogate(signal, self.log_policy[index], samples)
        return torch.autograd.grad(total, self.logits, retain_graph=True)[0]


@cases
@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize(
    ("baseline", "samples"),
    [(Baseline.NONE, 1), (Baseline.ANALYTIC, 1), (Baseline.LEAVE_ONE_OUT, 2)],
)
def test_expected_surrogate_gradient_is_that_of_the_divergence(
    row: Divergence, forbidden: int, on_policy: bool, baseline: Baseline, samples: int
):
    tiny = Tiny(5, forbidden, on_policy)
    exact, found = tiny.gradient(row), tiny.expected(row, baseline, samples)
    assert float((exact - found).norm() / exact.norm()) < 1e-10


def test_leave_one_out_of_three_samples_is_unbiased():
    tiny = Tiny(6, 2, on_policy=False)
    exact = tiny.gradient(forward_kl)
    found = tiny.expected(forward_kl, Baseline.LEAVE_ONE_OUT, 3)
    assert float((exact - found).norm() / exact.norm()) < 1e-10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_analytic_baseline_leaves_no_signal_at_the_target(row: Divergence):
    tiny = Tiny(7, 0, on_policy=False)
    shift = 0.0 if row.name == "total_variation" else 2.5  # a kink: rounding alone has a sign
    tiny.log_score = tiny.log_policy.detach() + shift
    tiny.log_partition = torch.tensor(shift, dtype=torch.float64)
    signal = tiny.signal(row, Baseline.ANALYTIC, torch.arange(SIZE))
    assert float(signal.abs().max()) < 1e-14


def test_surrogate_is_the_same_for_any_split():
    tiny = Tiny(8, 2, on_policy=True)
    index = torch.tensor([0, 1, 2, 3, 4, 5, 3, 3])
    signal = tiny.signal(forward_kl, Baseline.LEAVE_ONE_OUT, index)
    log_policy = tiny.log_policy[index]
    whole = surrogate(signal, log_policy, len(index))
    for cut in range(1, len(index)):
        parts = surrogate(signal[:cut], log_policy[:cut], len(index)) + surrogate(
            signal[cut:], log_policy[cut:], len(index)
        )
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)
    assert not signal.requires_grad


@pytest.mark.parametrize("baseline", list(Baseline))
def test_contexts_without_a_known_partition_add_nothing(baseline: Baseline):
    tiny = Tiny(9, 2, on_policy=True)
    index = torch.tensor([2, 3, 2, 3])
    signal = policy_gradient_signal(
        reverse_kl,
        baseline,
        log_policy=tiny.log_policy[index],
        log_score=torch.where(torch.arange(4) < 2, tiny.log_score[index], -math.inf),
        log_partition=torch.tensor([0.0, 0.0, -math.inf, -math.inf]),
        log_proposal=tiny.log_proposal[index],
        context=torch.tensor([0, 0, 1, 1]),
    )
    assert bool((signal[2:] == 0).all())
    assert bool(signal[:2].isfinite().all())
    assert bool((signal[:2] != 0).any())


def test_an_infinite_divergence_is_an_error_that_offers_a_floor():
    tiny = Tiny(10, 2, on_policy=True)
    with pytest.raises(AttunementError, match="--floor"):
        tiny.signal(reverse_kl, Baseline.NONE, torch.arange(SIZE))


def test_a_signal_that_is_not_finite_names_its_sample():
    tiny = Tiny(11, 0, on_policy=False)
    tiny.log_score[3] = 2000.0
    tiny.log_policy = tiny.log_policy.detach().clone()
    tiny.log_policy[3] = -math.inf
    with pytest.raises(AttunementError, match="signal of sample 3 isn't finite"):
        tiny.signal(forward_kl, Baseline.NONE, torch.arange(SIZE))


@cases
@pytest.mark.parametrize("baseline", [Baseline.NONE, Baseline.ANALYTIC])
def test_what_has_no_signal_is_told_beforehand(row, forbidden, baseline):
    tiny = Tiny(3, forbidden, on_policy=False)
    everything = torch.arange(SIZE)
    told = has_signal(row, baseline, tiny.log_score)
    assert bool((tiny.signal(row, baseline, everything)[~told] == 0).all())
    free = row is forward_kl and baseline is Baseline.NONE
    assert told.tolist() == [not (free and index < forbidden) for index in range(SIZE)]
