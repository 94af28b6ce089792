import dataclasses
import json
import math

import pytest
import torch

from attunement.core import AttunementError, Scores
from attunement.distributions.tabular import Tabular
from attunement.divergences import forward_kl, jensen_shannon, reverse_kl, total_variation
from attunement.evidence import BASE, POLICY
from attunement.measuring import SET_SIZE, Measurement, gather, measure
from attunement.scorers import NamedScorer, length
from attunement.targets import Target

PROMPTS = tuple(f"p{index}" for index in range(24))


def has_a(texts):
    return ["a" in text for text in texts]


def first_is_a(texts):
    return [text.startswith("a") if text else None for text in texts]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def language(prompts=("",), seed=0):
    return Tabular.random(3, 3, generator=seeded(seed), prompts=prompts)


def moved(base, seed=7, size=0.4):
    """A policy that has moved from the base, and knows a little of what it shall do."""
    noise = torch.randn(base.logits.shape, generator=seeded(seed), dtype=torch.float64)
    logits = base.logits.detach() + size * noise
    logits[:, :, 1] += 0.7
    return Tabular(logits, 3, base.prompts)


def hard(base):
    return Target(base).constrain(has_a)


def soft(base):
    return Target(base).constrain(has_a, floor=0.1)


def tilted(base):
    return Target(base).tilt(length, beta=2.0)


TARGETS = (hard, soft, tilted)


def per_context(support, log_values):
    """[C, K] of the values of every outcome."""
    return log_values.reshape(len(support.contexts), -1)


def exact(target, policy, contexts):
    """What `measure` estimates, by enumeration, averaged over contexts."""
    support = target.base.enumerate(contexts)
    log_base = per_context(support, support.log_prob)
    log_policy = per_context(support, policy.log_prob(support).detach())
    potential = per_context(support, target.log_potential(support))
    log_z = torch.logsumexp(log_base + potential, 1)
    log_target = log_base + potential - log_z[:, None]
    allowed = torch.isfinite(potential)
    restricted = log_policy.masked_fill(~allowed, -math.inf)
    restricted = restricted - torch.logsumexp(restricted, 1, keepdim=True)
    rows = (forward_kl, reverse_kl, jensen_shannon, total_variation)
    count = len(log_z)
    values = {row.name: float(row.exact(log_policy, log_target)) / count for row in rows}
    values["kl_policy_base"] = float(reverse_kl.exact(log_policy, log_base)) / count
    values["reverse_kl_allowed"] = float(reverse_kl.exact(restricted, log_target)) / count
    values["log_z"] = float(log_z.mean())
    values["forbidden"] = float((log_policy.exp() * ~allowed).sum()) / count
    logs = {"base": log_base, "policy": log_policy, "target": log_target}
    return values, {name: log.exp().flatten() for name, log in logs.items()}, support


def require_near(estimate, value):
    """Within four standard errors, or both infinite."""
    if math.isinf(value):
        assert estimate.value == value
        assert estimate.stderr is None
        return
    assert estimate.stderr is not None
    assert abs(estimate.value - value) <= 4 * estimate.stderr + 1e-9
    assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize("prompts", [("",), PROMPTS])
@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_estimate_is_near_the_exact_value(make, prompts, seed):
    base = language(prompts)
    target, policy = make(base), moved(base)
    measured = measure(target, policy, prompts, n=2400, features=[length], generator=seeded(seed))
    values, probabilities, support = exact(target, policy, prompts)
    assert measured.n >= 1536
    for name, estimate in measured.divergences.items():
        require_near(estimate, values[name])
    assert set(measured.divergences) | {"log_z", "forbidden"} == set(values)
    require_near(measured.log_z, values["log_z"])
    assert measured.forbidden.low - 0.02 <= values["forbidden"] <= measured.forbidden.high + 0.02
    features = target.features(support) | {"length": Scores(support.lengths.double(), None)}
    for owner, weights in probabilities.items():
        table = getattr(measured, owner)
        assert set(table) == set(features)
        for name, column in features.items():
            mean = float(weights @ column.values) / len(prompts)
            require_near(table[name], mean)


def test_most_intervals_hold_the_exact_value():
    base = language()
    target, policy = soft(base), moved(base)
    values, _, _ = exact(target, policy, None)
    hits = []
    for seed in range(25):
        measured = measure(target, policy, n=400, generator=seeded(seed))
        estimates = {**measured.divergences, "log_z": measured.log_z}
        hits += [e.low <= values[name] <= e.high for name, e in estimates.items()]
    assert len(hits) == 175
    assert sum(hits) / len(hits) > 0.88


@pytest.mark.parametrize("prompts", [("",), PROMPTS])
def test_the_base_as_policy_lies_at_minus_log_z(prompts):
    base = language(prompts)
    measured = measure(hard(base), base, prompts, n=2000, generator=seeded())
    tables = measured.divergences
    exact_log_z = exact(hard(base), base, prompts)[0]["log_z"]
    assert tables["forward_kl"].value == pytest.approx(-measured.log_z.value, abs=1e-12)
    assert measured.log_z.low <= exact_log_z <= measured.log_z.high
    assert tables["kl_policy_base"].value == pytest.approx(0, abs=1e-12)
    assert tables["reverse_kl"].value == math.inf
    assert tables["reverse_kl_allowed"].value == pytest.approx(0, abs=1e-12)
    assert measured.forbidden.value == pytest.approx(tables["total_variation"].value, abs=0.05)


def test_the_target_as_policy_lies_at_0():
    base = language()
    logits = base.logits.detach().clone()
    measured = measure(Target(base), Tabular(logits, 3), n=400, generator=seeded())
    for estimate in measured.divergences.values():
        assert estimate.value == pytest.approx(0, abs=1e-12)
    assert measured.log_ratios.abs().max() < 1e-12


@dataclasses.dataclass
class Counting:
    """A distribution that counts the samples it is asked to score."""

    language: Tabular
    scored: list[int] = dataclasses.field(default_factory=list)

    @property
    def outcomes(self):
        return self.language.outcomes

    def sample(self, contexts, n, *, generator):
        return self.language.sample(contexts, n, generator=generator)

    def log_prob(self, samples):
        self.scored.append(len(samples))
        return self.language.log_prob(samples)


def test_what_was_recorded_is_not_scored_again():
    base = Counting(language())
    same = measure(hard(base), base, n=200, generator=seeded())
    assert base.scored == []
    gather(hard(base), base, base.sample(None, 10, generator=seeded()))
    assert base.scored == []
    policy = Counting(base.language.copy())
    other = measure(hard(base), policy, n=200, generator=seeded())
    assert (base.scored, policy.scored) == ([100], [100])
    assert same.log_z.value == pytest.approx(other.log_z.value, abs=1e-12)


def test_gathered_evidence_is_weighed_by_the_mixture():
    base = language(("x", "y"))
    policy, target = moved(base), soft(base)
    drawn = [d.sample(["x", "y"], 30, generator=seeded()) for d in (base, policy)]
    evidence = gather(target, policy, *drawn)
    mixture = torch.logaddexp(evidence.log_base, evidence.log_policy) - math.log(2)
    torch.testing.assert_close(evidence.log_proposal, mixture)
    assert evidence.part.tolist() == [BASE] * 60 + [POLICY] * 60
    assert evidence.context.tolist() == ([0] * 30 + [1] * 30) * 2
    for column, owner in ((evidence.log_base, base), (evidence.log_policy, policy)):
        fresh = torch.cat([owner.log_prob(part).detach() for part in drawn])
        torch.testing.assert_close(column, fresh)
    assert not evidence.log_policy.requires_grad
    alone = gather(target, policy, drawn[0])
    assert torch.equal(alone.log_proposal, drawn[0].log_prob)
    assert torch.equal(alone.log_policy, evidence.log_policy[:60])
    assert torch.equal(alone.log_potential, evidence.log_potential[:60])


def plain(measured):
    """The measurement as it is once its log-ratios and warnings of estimates are gone."""

    def bare(estimate):
        return dataclasses.replace(estimate, warnings=())

    def table(rows):
        return {name: bare(estimate) for name, estimate in rows.items()}

    return dataclasses.replace(
        measured,
        base=table(measured.base),
        policy=table(measured.policy),
        target=table(measured.target),
        divergences=table(measured.divergences),
        log_z=bare(measured.log_z),
        forbidden=bare(measured.forbidden),
        diversity={name: table(rows) for name, rows in measured.diversity.items()},
        log_ratios=torch.empty(0, dtype=torch.float64),
    )


@pytest.mark.parametrize("make", TARGETS)
def test_json_round_trip_is_strict(make):
    base = language()
    measured = measure(make(base), moved(base), n=400, generator=seeded())
    content = measured.to_json("runs/x")
    text = json.dumps(content, allow_nan=False)
    assert content["run"] == "runs/x"
    read = Measurement.from_json(json.loads(text))
    assert len(read.log_ratios) == 0
    expected = plain(measured)
    fields = {field.name for field in dataclasses.fields(Measurement)} - {"log_ratios"}
    for name in fields:
        assert getattr(read, name) == getattr(expected, name), name
    assert read.to_json("runs/x") == json.loads(text)


def test_infinite_is_written_as_a_text():
    base = language()
    measured = measure(hard(base), moved(base), n=400, generator=seeded())
    row = measured.to_json("x")["divergences"]["reverse_kl"]
    assert (row["value"], row["stderr"], row["low"], row["high"]) == ("inf", None, "inf", "inf")
    assert any("reverse_kl is infinite" in warning for warning in measured.warnings)


def test_log_ratios_are_those_of_the_allowed_samples():
    base = language(PROMPTS)
    target, policy = hard(base), moved(base)
    measured = measure(target, policy, PROMPTS, n=9600, generator=seeded())
    _, probabilities, support = exact(target, policy, PROMPTS)
    ratios = (probabilities["target"] / probabilities["policy"]).log().reshape(len(PROMPTS), -1)
    generator = seeded()
    base.sample(PROMPTS, 200, generator=generator)
    drawn = policy.sample(PROMPTS, 200, generator=generator)
    outcomes = [tuple(row) for row in support.token_lists]
    places = {outcome: place for place, outcome in enumerate(outcomes[: ratios.shape[1]])}
    expected = [
        float(ratios[context, places[tuple(row)]])
        for context, row, text in zip(
            drawn.context_index.tolist(), drawn.token_lists, drawn.texts, strict=True
        )
        if "a" in text
    ]
    difference = measured.log_ratios - torch.tensor(expected, dtype=torch.float64)
    assert float(difference.abs().max()) < 0.35
    assert float(difference.square().mean().sqrt()) < 0.1
    row = measured.log_weights_json()
    assert len(row["values"]) == 2000
    assert row["values"] == measured.log_ratios[:2000].tolist()
    json.dumps(row, allow_nan=False)


def test_diversity_needs_ten_sets():
    base = language()
    policy = moved(base)
    few = measure(hard(base), policy, n=2 * 10 * SET_SIZE - 2, generator=seeded())
    assert {name: set(table) for name, table in few.diversity.items()} == {
        "base": {"length"},
        "policy": {"length"},
        "target": {"length"},
    }
    enough = measure(hard(base), policy, n=2 * 10 * SET_SIZE, generator=seeded())
    for name in ("base", "policy"):
        table = enough.diversity[name]
        assert set(table) == {"length", "distinct_1", "distinct_2", "self_bleu"}
        assert table["self_bleu"].n == 10 * SET_SIZE
    assert set(enough.diversity["target"]) == {"length"}
    many = measure(tilted(base), policy, n=400, generator=seeded())
    assert set(many.diversity) == {"base", "policy"}


@pytest.mark.parametrize("make", [hard, soft])
def test_the_diversity_of_the_target_is_that_of_exact_samples(make):
    base = language()
    target = make(base)
    measured = measure(target, base, n=800, generator=seeded(3))
    _, probabilities, support = exact(target, base, None)
    mean = float(probabilities["target"] @ support.lengths.double())
    require_near(measured.diversity["target"]["length"], mean)
    accepted = measured.diversity["target"]["length"].n
    rate = math.exp(exact(target, base, None)[0]["log_z"])
    assert abs(accepted / 400 - rate) < 4 * math.sqrt(rate * (1 - rate) / 400)


def test_a_feature_that_does_not_always_apply_is_averaged_where_it_does():
    base = language()
    policy = moved(base)
    target = soft(base)

    def of_long(samples):
        return Scores(samples.lengths.double(), samples.lengths >= 3)

    def never(samples):
        return Scores(samples.lengths.double(), samples.lengths > 3)

    extra = [
        NamedScorer("first_is_a", lambda s: _scores(first_is_a(s.texts))),
        NamedScorer("of_long", of_long),
        NamedScorer("never", never),
    ]
    measured = measure(target, policy, n=2400, features=extra, generator=seeded(5))
    _, probabilities, support = exact(target, policy, None)
    for scorer in extra[:2]:
        column = scorer(support)
        for owner, weights in probabilities.items():
            inside = weights * column.applicable
            mean = float(inside @ column.values / inside.sum())
            require_near(
                getattr(measured, owner)["first_is_a" if scorer is extra[0] else "of_long"], mean
            )
    for owner in probabilities:
        assert "never" not in getattr(measured, owner)
    assert "never: not applicable to 2400 of 2400 samples" in measured.warnings
    assert sum("not applicable" in warning for warning in measured.warnings) == 3


def _scores(numbers):
    return Scores(
        torch.tensor([0.0 if x is None else float(x) for x in numbers], dtype=torch.float64),
        torch.tensor([x is not None for x in numbers]),
    )


def test_every_scorer_is_called_once():
    calls = []

    def counted(samples):
        calls.append(len(samples))
        return torch.tensor(has_a(samples.texts)).double()

    scorer = NamedScorer("counted", counted)
    base = language()
    target = Target(base).constrain(scorer, floor=0.5).tilt(scorer, beta=2.0)
    measure(target, moved(base), n=200, features=[scorer], generator=seeded())
    assert calls == [200]


def test_a_policy_that_found_what_the_base_hardly_says_is_measured():
    base = language()
    logits = base.logits.detach().clone()
    logits[:, :, 1] = -9.0
    rare = Tabular(logits, 3)
    measured = measure(hard(rare), moved(language()), n=200, generator=seeded())
    assert "target" not in measured.diversity
    assert 0 < measured.forbidden.value < 1
    require_near(measured.log_z, exact(hard(rare), rare, None)[0]["log_z"])


def test_a_policy_that_lost_part_of_the_target_is_flagged():
    base = language()
    logits = base.logits.detach().clone()
    logits[:, :, 2] = -30.0
    measured = measure(hard(base), Tabular(logits, 3), n=2000, generator=seeded())
    true = exact(hard(base), Tabular(logits, 3), None)[0]["forward_kl"]
    assert true > 5
    assert measured.divergences["forward_kl"].value > 0.7 * true
    assert any("lost part of the target" in warning for warning in measured.warnings)


def test_nothing_that_satisfies_the_constraint_is_an_error():
    def never(texts):
        return [0 for _ in texts]

    base = language()
    with pytest.raises(AttunementError, match="none of 100 samples satisfies"):
        measure(Target(base).constrain(never), moved(base), n=100, generator=seeded())


def test_other_outcomes_are_refused():
    other = Tabular.random(3, 4, generator=seeded())
    with pytest.raises(AttunementError, match="max_new_tokens 3 against 4"):
        measure(hard(language()), other, generator=seeded())


def test_every_context_gets_64_samples():
    base = language(("x", "y", "z"))
    assert measure(soft(base), moved(base), ["x", "y", "z"], n=9, generator=seeded()).n == 192
    assert measure(soft(base), moved(base), ["x"], n=9, generator=seeded()).n == 8


def test_the_seed_decides():
    base = language()
    first, again, other = (
        measure(soft(base), moved(base), n=200, generator=seeded(s)).to_json("x") for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_scorer_of_the_target_that_applies_to_nothing_is_an_error():
    target = Target(language()).tilt(lambda texts: [None] * len(texts), beta=1.0)
    with pytest.raises(AttunementError, match=r"<lambda> applies to none of 400 samples"):
        measure(target, target.base, n=400, generator=seeded())
