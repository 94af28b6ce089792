import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attunement.core import AttunementError
from attunement.evidence import (
    BASE,
    POLICY,
    Evidence,
    context_means,
    effective_sample_size,
    lost_mass,
    pareto_khat,
)

FINITE = st.floats(-20, 20)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bank(log_base: Tensor, log_policy: Tensor, log_potential: Tensor, each: int, seed: int):
    """Evidence half from the base and half from the policy, over outcomes 0 to K - 1."""
    rows = [
        torch.multinomial(log.exp(), each, True, generator=seeded(seed + at))
        for at, log in enumerate((log_base, log_policy))
    ]
    outcome = torch.cat(rows)
    part = torch.tensor([BASE, POLICY]).repeat_interleave(each)
    tables = (log_base, log_policy, log_potential)
    return Evidence.of_mixture(*(table[outcome] for table in tables), part), outcome


def languages(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """log a, log π and a hard constraint's log-potential over 12 outcomes."""
    logits = torch.randn(2, 12, generator=seeded(seed), dtype=torch.float64)
    allowed = torch.where(torch.arange(12) < 7, 0.0, -math.inf).double()
    return logits[0].log_softmax(0), logits[1].log_softmax(0), allowed


@given(st.lists(FINITE, min_size=1, max_size=30), FINITE)
def test_the_effective_sample_size_is_between_one_and_n_and_knows_no_scale(logs, shift):
    log_weights = torch.tensor(logs, dtype=torch.float64)
    size = effective_sample_size(log_weights)
    assert 1 - 1e-9 <= size <= len(logs) + 1e-9
    assert effective_sample_size(log_weights + shift) == pytest.approx(size, rel=1e-9)
    assert effective_sample_size(torch.zeros(len(logs))) == pytest.approx(len(logs))


def test_no_weight_is_no_sample():
    assert effective_sample_size(torch.full((5,), -math.inf, dtype=torch.float64)) == 0.0


def test_the_mixture_is_the_proposal_and_bounds_the_weights():
    log_base, log_policy, potential = languages(0)
    evidence, outcome = bank(log_base, log_policy, potential, 500, seed=1)
    mixture = (0.5 * log_base.exp() + 0.5 * log_policy.exp()).log()
    torch.testing.assert_close(evidence.log_proposal, mixture[outcome])
    assert float(evidence.log_ratios.exp().max()) <= 2
    assert float(evidence.log_weights.exp().max()) <= 2
    assert evidence.target_weights.bounded
    assert evidence.policy_weights.bounded


@pytest.mark.parametrize("seed", range(5))
def test_the_calibrated_bank_holds_what_is_known_of_the_policy(seed):
    evidence, _ = bank(*languages(seed), each=300, seed=seed)
    assert float(evidence.log_ratios.exp().mean()) != pytest.approx(1, abs=1e-6)
    assert float(evidence.calibrated.log_ratios.exp().mean()) == pytest.approx(1, abs=1e-12)


def test_calibration_is_left_out_where_it_can_not_be():
    log_base, _, potential = languages(0)
    same, _ = bank(log_base, log_base, potential, 100, seed=2)
    assert same.control is None
    assert same.calibrated is same


def test_calibration_lowers_the_error_of_z():
    log_base, log_policy, potential = languages(3)
    truth = float((log_base + potential).exp().sum())
    errors = []
    for seed in range(200):
        evidence, _ = bank(log_base, log_policy, potential, 200, seed=10 * seed)
        pair = (evidence, evidence.calibrated)
        errors.append([float(e.log_weights.exp().mean()) - truth for e in pair])
    plain, calibrated = torch.tensor(errors).square().mean(0).tolist()
    assert calibrated < plain


def test_halves_that_disagree_are_said_to():
    log_base, _, potential = languages(0)
    lost = torch.where(torch.arange(12) % 2 == 0, -40.0, 0.0)
    collapsed = (log_base + potential + lost).log_softmax(0).clamp(min=-60)
    evidence, _ = bank(log_base, collapsed, potential, 1000, seed=4)
    assert lost_mass(evidence) == (
        "the policy has lost part of the target: Z from its samples is too small"
    )


@given(st.lists(st.tuples(st.integers(0, 3), FINITE), min_size=1, max_size=20))
def test_context_means(rows):
    context = torch.tensor([index for index, _ in rows])
    values = torch.tensor([value for _, value in rows], dtype=torch.float64)
    means = context_means(values, context)
    if len(set(context.tolist())) == 1:
        assert means is values
    else:
        expected = [values[context == index].mean() for index in context.unique()]
        torch.testing.assert_close(means, torch.stack(expected))


def test_blocks_hold_every_row_once_with_its_context_and_parts():
    context = torch.tensor([0, 1, 0, 1, 2, 2, 2, 0])
    part = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    zeros = torch.zeros(8, dtype=torch.float64)
    evidence = Evidence(zeros, zeros, zeros, zeros, part, context)
    rows = [row for block, _ in evidence.blocks for row in block.flatten().tolist()]
    assert sorted(rows) == list(range(8))
    for block, sizes in evidence.blocks:
        for row in block:
            assert len(context[row].unique()) == 1
            assert tuple(part[row].bincount(minlength=2).tolist()) == sizes


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_pareto_tails_are_recovered(shape: float):
    found = []
    for seed in range(12):
        uniforms = torch.rand(20000, generator=seeded(seed), dtype=torch.float64)
        khat, reason = pareto_khat(-shape * uniforms.log())
        assert reason is None
        assert khat is not None
        found.append(khat)
    assert sum(found) / len(found) == pytest.approx(shape, abs=0.1)


def test_khat_is_none_without_a_tail():
    assert pareto_khat(torch.zeros(1000, dtype=torch.float64)) == (None, None)
    mostly_top = torch.arange(1000, dtype=torch.float64).clamp(max=500)
    assert pareto_khat(mostly_top) == (None, None)
    few = torch.full((1000,), -math.inf, dtype=torch.float64)
    few[:24] = torch.arange(24, dtype=torch.float64)
    assert pareto_khat(few) == (None, "k̂ needs 25 positive weights, there are 24")


def test_bad_evidence():
    zeros = torch.zeros(3, dtype=torch.float64)
    good = Evidence(zeros, zeros, zeros, zeros, zeros.long(), zeros.long())
    bad = torch.tensor([0.0, 0.0, math.nan], dtype=torch.float64)
    with pytest.raises(AttunementError, match="log_policy of sample 2 is NaN"):
        replace(good, log_policy=bad)
    with pytest.raises(AttunementError, match="one shape"):
        replace(good, part=torch.zeros(4, dtype=torch.long))
    with pytest.raises(AttunementError, match="no sample"):
        _ = good[torch.zeros(0, dtype=torch.long)]
