import math

import pytest
import torch

from attunement.conditional import ACCEPTED, BUDGET, ContextRow, acceptance
from attunement.distributions.tabular import Tabular
from attunement.measuring import measure
from attunement.targets import Target

PROMPTS = ("x", "y", "z", "w")


def has_a(texts):
    return ["a" in text for text in texts]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def language(prompts=PROMPTS):
    return Tabular.random(3, 3, generator=seeded(7), prompts=prompts)


def exact_log_z(target, prompts):
    support = target.base.enumerate(prompts)
    log_score = (support.log_prob + target.log_potential(support)).detach()
    return torch.logsumexp(log_score.reshape(len(prompts), -1), 1)


@pytest.mark.parametrize("floor", [None, 0.2])
@pytest.mark.parametrize("first", [3, 40])
def test_log_z_of_every_context_is_unbiased(floor, first):
    target = Target(language()).constrain(has_a, floor)
    contexts = target.base.enumerate(PROMPTS).contexts
    generator, found = seeded(), []
    for _ in range(200):
        drawn = target.base.sample(contexts, first, generator=generator)
        counts = acceptance(target, contexts, target.log_potential(drawn), generator)
        assert bool((counts[1] == ACCEPTED).all())
        found.append(torch.digamma(torch.tensor(8.0)) - torch.digamma(counts[0].double()))
    values = torch.stack(found)
    error = values.mean(0) - exact_log_z(target, PROMPTS)
    assert bool((error.abs() < 4 * values.std(0) / math.sqrt(200)).all())


@pytest.mark.parametrize("make", ["hard", "tilt"])
def test_most_intervals_of_contexts_hold_the_exact_value(make):
    base = language()
    bare = Target(base)
    target = bare.constrain(has_a) if make == "hard" else bare.tilt(has_a, beta=1.0)
    exact = exact_log_z(target, PROMPTS).tolist()
    hits = []
    for seed in range(60):
        rows = measure(target, base, PROMPTS, n=512, generator=seeded(seed)).contexts
        hits += [
            row.log_z.low <= value <= row.log_z.high for row, value in zip(rows, exact, strict=True)
        ]
    assert len(hits) == 240
    assert sum(hits) / len(hits) > 0.9


def test_a_context_without_acceptance_is_reported_and_bounds_the_figure():
    base = language()

    def not_in_the_first(prompts, completions):
        return [
            prompt != "x" and "a" in text for prompt, text in zip(prompts, completions, strict=True)
        ]

    measured = measure(Target(base).constrain(not_in_the_first), base, PROMPTS, generator=seeded())
    first, *rest = measured.contexts
    assert (first.prompt, first.accepted, first.draws) == ("x", 0, BUDGET)
    assert first.log_z.low == -math.inf
    assert all(row.accepted == ACCEPTED for row in rest)
    assert measured.log_z.n == len(PROMPTS)
    assert measured.log_z.low == -math.inf
    assert any("1 of 4 contexts had too few acceptances" in text for text in measured.warnings)


def test_a_row_says_what_holds_in_its_context():
    base = language()
    measured = measure(Target(base).constrain(has_a), base, PROMPTS, n=4000, generator=seeded())
    exact = exact_log_z(Target(base).constrain(has_a), PROMPTS).exp().tolist()
    for row, rate in zip(measured.contexts, exact, strict=True):
        for side in (row.base, row.policy):
            mean = next(iter(side.values()))
            assert mean.n == 500
            assert abs(mean.value - rate) < 4 * math.sqrt(rate * (1 - rate) / 500)
        assert ContextRow.from_json(row.to_json()) == row


def test_one_context_has_no_rows():
    base = language(("x",))
    assert measure(Target(base).constrain(has_a), base, ["x"], generator=seeded()).contexts == ()
