import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attunement import estimators
from attunement.core import AttunementError, Estimate, Samples
from attunement.distributions.tabular import Tabular
from attunement.divergences import DIVERGENCES, Divergence, alpha, reverse_kl
from attunement.evidence import BASE, POLICY, Evidence, lost_mass

ROWS = [*DIVERGENCES.values(), alpha(0.5)]
PROPOSALS = ("base", "policy", "mixture")
TARGETS = ("hard", "tilt")
COUNT = 6000


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class World:
    """A base, a policy and a target over a language that can be enumerated."""

    def __init__(self, target: str, contexts: int = 1):
        self.prompts = [str(index) for index in range(contexts)]
        self.target = target
        self.base = Tabular.random(3, 3, generator=seeded(1), prompts=self.prompts, scale=0.7)
        noise = 0.4 * torch.randn(self.base.logits.shape, generator=seeded(2), dtype=torch.float64)
        shift = torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)
        logits = self.base.logits.detach() + noise + shift
        self.policy = Tabular(logits, 3, self.prompts)
        self.outcomes = self.base.enumerate(self.prompts)

    def count(self, samples: Samples) -> Tensor:
        return ((samples.tokens == 1) & samples.mask).sum(1).double()

    def log_potential(self, samples: Samples) -> Tensor:
        count = self.count(samples)
        return count if self.target == "tilt" else torch.where(count > 0, 0.0, -math.inf).double()

    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[C, K] log a, log π, log P and the number of ones of every outcome."""
        shape = (len(self.prompts), -1)
        log_base = self.outcomes.log_prob.reshape(shape)
        log_policy = self.policy.log_prob(self.outcomes).detach().reshape(shape)
        log_score = log_base + self.log_potential(self.outcomes).reshape(shape)
        return log_base, log_policy, log_score, self.count(self.outcomes).reshape(shape)

    def bank(self, proposal: str, seed: int, each: int = COUNT) -> tuple[Evidence, Samples]:
        half = each if proposal != "mixture" else each // 2
        sides = {"base": [self.base], "policy": [self.policy]}.get(
            proposal, [self.base, self.policy]
        )
        generator = seeded(seed)
        samples = [side.sample(self.prompts, half, generator=generator) for side in sides]
        joined = Samples.concatenate(samples)
        marks = {"base": [BASE], "policy": [POLICY]}.get(proposal, [BASE, POLICY])
        part = torch.tensor(marks).repeat_interleave(len(samples[0]))
        log_base, log_policy = (side.log_prob(joined).detach() for side in (self.base, self.policy))
        evidence = Evidence.of_mixture(
            log_base, log_policy, self.log_potential(joined), part, joined.context_index
        )
        return evidence, joined

    def exact(self) -> dict[str, float]:
        log_base, log_policy, log_score, count = self.tables()
        log_z = torch.logsumexp(log_score, 1)
        log_target = log_score - log_z.unsqueeze(1)
        allowed = torch.where(log_score.isfinite(), log_policy, -math.inf).log_softmax(1)
        found = {row.name: row.integrand(log_policy, log_target).sum(1) for row in ROWS}
        found |= {
            "partition": log_z.exp(),
            "log_partition": log_z,
            "kl_policy_base": (log_policy.exp() * (log_policy - log_base)).sum(1),
            "reverse_kl_allowed": reverse_kl.integrand(allowed, log_target).sum(1),
            "moment_target": (log_target.exp() * count).sum(1),
            "moment_policy": (log_policy.exp() * count).sum(1),
        }
        return {name: float(values.mean()) for name, values in found.items()}

    def estimates(self, evidence: Evidence, samples: Samples) -> dict[str, Estimate]:
        count = self.count(samples)
        return {
            "partition": estimators.partition(evidence),
            "log_partition": estimators.log_partition(evidence),
            "kl_policy_base": estimators.kl_policy_base(evidence),
            "reverse_kl_allowed": estimators.reverse_kl_allowed(evidence),
            "moment_target": estimators.moment_target(evidence, count),
            "moment_policy": estimators.moment_policy(evidence, count),
        } | {row.name: estimators.divergence(evidence, row) for row in ROWS}


def collapsed(world: World) -> World:
    """The policy never starts with the symbol that carries much of the target."""
    with torch.no_grad():
        world.policy.logits[:, 0, 1] -= 40.0
    return world


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_every_estimate_is_within_its_error_of_the_truth(target: str, proposal: str):
    world = World(target)
    exact = world.exact()
    for name, found in world.estimates(*world.bank(proposal, seed=10)).items():
        if math.isinf(exact[name]):
            assert (found.value, found.stderr, found.low) == (math.inf, None, math.inf)
            assert "can produce what the target forbids" in found.warnings[0]
            continue
        assert found.stderr is not None
        assert 0 < found.stderr < 0.1 * max(1.0, abs(exact[name]))
        assert abs(found.value - exact[name]) < 3.5 * found.stderr, name
        assert found.low < found.value < found.high
        assert found.n == COUNT


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_standard_errors_are_the_spread_over_banks(target: str, proposal: str):
    world = World(target)
    banks = [world.estimates(*world.bank(proposal, seed, each=600)) for seed in range(60)]
    for name, exact in world.exact().items():
        if math.isfinite(exact):
            values = torch.tensor([bank[name].value for bank in banks])
            errors = torch.tensor([bank[name].stderr for bank in banks])
            assert 0.7 < float(values.std() / errors.mean()) < 1.4, name


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_conditional_estimates(target: str, proposal: str):
    world = World(target, contexts=40)
    evidence, samples = world.bank(proposal, seed=20, each=64)
    log_base, log_policy, log_score, _ = world.tables()
    exact = world.exact()
    for name, found in world.estimates(evidence, samples).items():
        if math.isinf(exact[name]):
            assert found.value == math.inf
            continue
        assert found.n == 40
        assert found.stderr is not None
        assert abs(found.value - exact[name]) < 3.5 * found.stderr, name
    spread = torch.logsumexp(log_score, 1).std() / math.sqrt(40)
    log_z = estimators.log_partition(evidence)
    assert log_z.stderr is not None
    assert float(spread) * 0.8 < log_z.stderr < 2 * float(spread)
    assert log_base.shape == log_policy.shape


def test_jackknife_removes_the_bias_of_few_samples_per_context():
    world = World("tilt", contexts=40)
    exact, plain, found = world.exact()["log_partition"], [], []
    for seed in range(120):
        evidence, _ = world.bank("base", seed, each=16)
        found.append(estimators.log_partition(evidence).value)
        rows = evidence.log_weights.reshape(40, 16)
        plain.append(float(torch.logsumexp(rows, 1).mean()) - math.log(16))
    bias, plain_bias = (abs(sum(x) / len(x) - exact) for x in (found, plain))
    assert bias < 0.3 * plain_bias


def test_contexts_of_unequal_size_are_weighed_alike():
    world = World("tilt", contexts=3)
    evidence, _ = world.bank("mixture", seed=5, each=64)
    kept = (evidence.context != 1) | (torch.arange(len(evidence)) % 4 < 2)
    some = evidence[kept]
    singles = [
        estimators.log_partition(some[(some.context == index) | (some.context == other)])
        for index, other in ((0, 1), (0, 2), (1, 2))
    ]
    whole = estimators.log_partition(some)
    assert whole.value == pytest.approx(sum(e.value for e in singles) / 3, abs=1e-12)


def test_order_of_samples_does_not_matter():
    world = World("hard", contexts=4)
    evidence, _ = world.bank("mixture", seed=5, each=20)
    order = evidence.context.argsort(stable=True)
    first = estimators.partition(evidence)
    second = estimators.partition(evidence[order])
    assert second.value == pytest.approx(first.value, abs=1e-12)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_at_the_target_every_distance_is_zero_and_z_is_exact(target: str, proposal: str):
    world = World(target)
    evidence, _ = world.bank(proposal, seed=30)
    log_z = world.exact()["log_partition"]
    keep = evidence.log_potential.isfinite()
    evidence = evidence[keep] if proposal == "policy" else evidence
    log_policy = evidence.log_base + evidence.log_potential - log_z
    at = Evidence.of_mixture(evidence.log_base, log_policy, evidence.log_potential, evidence.part)
    for row in ROWS:
        found = estimators.divergence(at, row)
        assert found.value == pytest.approx(0.0, abs=1e-12), row.name
        assert found.high == pytest.approx(0.0, abs=1e-10)
    if proposal != "base":
        assert estimators.log_partition(at).value == pytest.approx(log_z, abs=1e-10)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_collapsed_policy_is_right_or_flagged(target: str, proposal: str):
    world = collapsed(World(target))
    exact = world.exact()
    evidence, samples = world.bank(proposal, seed=40)
    for name, found in world.estimates(evidence, samples).items():
        if math.isinf(exact[name]) or found.stderr is None:
            assert found.value == exact[name]
            continue
        right = abs(found.value - exact[name]) < 4 * found.stderr + 1e-12
        assert right or found.warnings, name
    if proposal == "policy":
        lost = lost_mass(evidence)
        assert lost is not None
        assert "lost part of the base" in lost
    if proposal == "mixture":
        lost = lost_mass(evidence)
        assert lost is not None
        assert "the policy has lost part of the target" in lost
        assert estimators.divergence(evidence, ROWS[0]).value > 1.0


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_sound_policy_is_not_said_to_have_collapsed(proposal: str):
    flags = [lost_mass(World("tilt").bank(proposal, seed, each=1000)[0]) for seed in range(20)]
    assert sum(flag is not None for flag in flags) <= 1


def test_collapse_is_seen_over_contexts():
    world = collapsed(World("hard", contexts=40))
    for proposal in ("policy", "mixture"):
        evidence, _ = world.bank(proposal, seed=3, each=64)
        assert lost_mass(evidence) is not None


def test_heavy_weights_are_flagged():
    uniforms = torch.rand(4000, generator=seeded(1), dtype=torch.float64)
    log_weights = -0.95 * uniforms.log()
    zeros = torch.zeros_like(log_weights)
    evidence = Evidence(zeros, zeros, zeros, log_weights, zeros.long() + 2, zeros.long())
    found = estimators.log_partition(evidence)
    assert found.khat is not None
    assert found.khat > 0.7
    assert any("heavy tail" in note for note in found.warnings)


def test_bounded_weights_have_no_khat():
    world = World("hard")
    evidence, _ = world.bank("mixture", seed=1)
    assert estimators.log_partition(evidence).khat is None
    assert estimators.divergence(evidence, ROWS[0]).khat is None
    tilted, _ = World("tilt").bank("policy", seed=1)
    assert estimators.log_partition(tilted).khat is not None


def test_zero_weights_count_in_n_and_ess():
    zeros = torch.zeros(100, dtype=torch.float64)
    potential = torch.where(torch.arange(100) < 30, 0.0, -math.inf).double()
    evidence = Evidence(zeros, zeros, zeros, potential, zeros.long(), zeros.long())
    found = estimators.partition(evidence)
    assert (found.n, found.value) == (100, pytest.approx(0.3))
    assert found.ess == pytest.approx(30.0)
    assert estimators.log_partition(evidence).ess == pytest.approx(30.0)


def test_few_effective_samples_are_flagged():
    zeros = torch.zeros(100, dtype=torch.float64)
    potential = torch.where(torch.arange(100) < 10, 0.0, -math.inf).double()
    evidence = Evidence(zeros, zeros, zeros, potential, zeros.long(), zeros.long())
    assert any("only 10.0 effective" in w for w in estimators.log_partition(evidence).warnings)


def test_rates_of_nought_and_one_have_an_interval():
    world = World("hard")
    evidence, samples = world.bank("mixture", seed=1, each=500)
    never = torch.zeros(len(samples), dtype=torch.float64)
    for found in (
        estimators.moment_target(evidence, never),
        estimators.moment_policy(evidence, never),
        estimators.sample_mean(never),
    ):
        assert found.value == found.low == 0.0
        assert 0.003 < found.high < 0.05
    always = estimators.moment_target(evidence, never + 1)
    assert always.value == always.high == 1.0
    assert 0.95 < always.low < 0.997


def test_sample_mean():
    feature = torch.tensor([1.0, 2.0, 3.0, 6.0])
    plain = estimators.sample_mean(feature)
    assert (plain.value, plain.n, plain.ess, plain.khat) == (3.0, 4, 4.0, None)
    grouped = estimators.sample_mean(feature, torch.tensor([7, 7, 7, 2]))
    assert (grouped.value, grouped.n) == (4.0, 2)


def test_the_policy_may_put_nothing_where_the_target_forbids():
    world = World("hard")
    evidence, _ = world.bank("base", seed=2)
    forbidden = evidence.log_potential.isneginf()
    log_policy = torch.where(forbidden, -math.inf, evidence.log_policy)
    at = replace(evidence, log_policy=log_policy)
    inside = estimators.divergence(at, reverse_kl)
    assert math.isfinite(inside.value)
    assert inside.value == pytest.approx(estimators.reverse_kl_allowed(at).value)
    assert math.isfinite(estimators.kl_policy_base(at).value)


@pytest.mark.parametrize("contexts", [1, 4])
def test_forward_kl_is_infinite_where_the_policy_can_not_follow(contexts: int):
    evidence, _ = World("tilt", contexts).bank("mixture", seed=2, each=64)
    log_policy = evidence.log_policy.clone()
    log_policy[(evidence.part == BASE).nonzero()[0]] = -math.inf
    found = estimators.divergence(replace(evidence, log_policy=log_policy), ROWS[0])
    assert (found.value, found.stderr, found.low, found.high) == (
        math.inf,
        None,
        math.inf,
        math.inf,
    )
    assert any("infinite" in note for note in found.warnings)


def test_a_small_part_falls_back_to_plain_weights():
    evidence, _ = World("tilt").bank("mixture", seed=2, each=64)
    few = evidence[torch.tensor([0, 1, 2, 60, 61, 62])]
    found = estimators.log_partition(few)
    assert found.stderr is not None
    assert math.isfinite(found.value)


def test_evidence_of_the_base_alone_says_that_it_sees_no_policy():
    evidence, _ = World("hard").bank("base", seed=2)
    assert "no sample of the policy" in estimators.kl_policy_base(evidence).warnings[-1]
    assert estimators.log_partition(evidence).warnings == ()


def test_contexts_without_a_satisfying_sample_are_counted():
    zeros = torch.zeros(12, dtype=torch.float64)
    potential = torch.tensor([0.0, -math.inf] * 4 + [-math.inf] * 4, dtype=torch.float64)
    context = torch.arange(12) // 4
    evidence = Evidence(zeros, zeros, zeros, potential, zeros.long(), context)
    found = estimators.log_partition(evidence)
    assert found.n == 2
    assert any("1 of 3 contexts had no sample" in note for note in found.warnings)
    assert estimators.partition(evidence).value == pytest.approx(1 / 3)


def test_no_satisfying_sample_is_a_clear_error():
    zeros = torch.zeros(8, dtype=torch.float64)
    potential = torch.full((8,), -math.inf, dtype=torch.float64)
    evidence = Evidence(zeros, zeros, zeros, potential, zeros.long(), zeros.long())
    with pytest.raises(AttunementError, match="none of 8 samples satisfies"):
        estimators.log_partition(evidence)
    found = estimators.partition(evidence)
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 < found.high < 0.5
    conditional = replace(evidence, context=torch.arange(8) // 4)
    with pytest.raises(AttunementError, match="no sample of any of the 2 contexts"):
        estimators.moment_target(conditional, zeros)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_divergences_do_not_depend_on_the_scale_of_the_score(row: Divergence):
    evidence, _ = World("tilt").bank("mixture", seed=3, each=400)
    scaled = replace(evidence, log_potential=evidence.log_potential + 700.0)
    first, second = (estimators.divergence(e, row) for e in (evidence, scaled))
    assert second.value == pytest.approx(first.value, rel=1e-9)
    assert second.stderr == pytest.approx(first.stderr, rel=1e-9)


def test_a_mean_where_a_feature_applies_is_that_of_the_restricted_target():
    generator = torch.Generator().manual_seed(0)
    log_potential = torch.randn(500, generator=generator, dtype=torch.float64)
    feature = torch.randn(500, generator=generator, dtype=torch.float64)
    rows = torch.rand(500, generator=generator) < 0.3
    zeros = torch.zeros(500, dtype=torch.float64)
    evidence = Evidence(zeros, zeros, zeros, log_potential, zeros.long(), zeros.long())
    found = estimators.moment_where(evidence, feature, rows)
    weights = log_potential.exp() * rows
    assert math.isclose(found.value, float(weights @ feature / weights.sum()), rel_tol=1e-9)
    assert found.n == 500
