import math

import pytest
import torch

from attunement.core import AttunementError, Context, Scores
from attunement.distributions.tabular import Tabular
from attunement.factors import (
    Constraint,
    ContextLambdas,
    Moment,
    MomentEach,
    Tilt,
    is_hard,
    log_potential,
    shown,
)
from attunement.scorers import as_scorer, evaluate, length

FLOAT64 = torch.float64


def has_a(texts):
    return ["a" in text for text in texts]


HAS_A = as_scorer(has_a)


def support(*prompts):
    generator = torch.Generator().manual_seed(0)
    base = Tabular.random(3, 2, generator=generator, prompts=prompts or ("",))
    return base.enumerate(base.prompts)


def scored(scorer, samples):
    return evaluate(scorer, samples)


def test_each_factor_is_a_number_of_nats():
    samples = support()
    values = scored(HAS_A, samples)
    for factor, satisfied, violated in (
        (Constraint(HAS_A), 0.0, -math.inf),
        (Constraint(HAS_A, 0.25), 0.0, math.log(0.25)),
        (Moment(HAS_A, 0.5, 0.7), 0.7, 0.0),
        (Tilt(HAS_A, 2.0, -3.0), -1.5, 0.0),
    ):
        numbers = torch.tensor([violated, satisfied], dtype=FLOAT64)
        expected = numbers[values.values.long()]
        assert torch.equal(factor.log_potential(values, samples), expected)


def test_a_moment_held_in_every_context_has_a_number_for_each():
    samples = support("x", "y")
    known = ContextLambdas((Context("y"), Context("x")), (2.0, -1.0))
    found = MomentEach(length, 1.5, known).log_potential(scored(length, samples), samples)
    numbers = torch.tensor([-1.0, 2.0], dtype=FLOAT64)[samples.context_index]
    assert torch.equal(found, numbers * samples.lengths)


def test_a_context_is_known_by_prompt_and_columns():
    contexts = tuple(Context("x", {"topic": topic}) for topic in (["sea"], ["sky"]))
    known = ContextLambdas(contexts, (1.0, 2.0))
    base = Tabular.random(2, 1, generator=torch.Generator().manual_seed(0), prompts=("x",))
    samples = base.enumerate([contexts[1], contexts[0]])
    numbers = torch.tensor([2.0, 1.0], dtype=FLOAT64)[samples.context_index]
    assert torch.equal(known.of(samples), numbers)
    with pytest.raises(AttunementError, match=r"no λ for the context 'x': .* the 2 contexts"):
        known.of(base.enumerate([Context("x", {"topic": ["land"]})]))


def test_a_conversation_is_a_context():
    talk = ({"role": "user", "content": "hello"},)
    known = ContextLambdas((Context(talk),), (1.5,))
    assert known._find(Context(({"content": "hello", "role": "user"},))) == 1.5
    assert shown(Context(talk)) == "'hello'"
    assert shown(Context("y" * 50)) == f"...{'y' * 40!r}"


def test_only_contexts_that_have_samples_are_looked_up():
    samples = support("x", "y")
    known = ContextLambdas((Context("x"),), (1.0,))
    assert len(known.of(samples[samples.context_index == 0])) == 7
    with pytest.raises(AttunementError, match="no λ for the context 'y'"):
        known.of(samples)


def test_lambdas_and_contexts_go_together():
    with pytest.raises(AttunementError, match="2 λ don't fit 1 contexts"):
        ContextLambdas((Context("x"),), (1.0, 2.0))


def test_a_sum_of_factors_is_taken_factor_by_factor():
    samples = support()
    factors = (Constraint(HAS_A, 0.1), Tilt(length, 1.0), Tilt(length, 4.0, -1.0))
    scores = {scorer.name: scored(scorer, samples) for scorer in (HAS_A, length)}
    parts = [factor.log_potential(scores[factor.scorer.name], samples) for factor in factors]
    torch.testing.assert_close(log_potential(factors, samples, scores), sum(parts))
    assert torch.equal(log_potential((), samples, scores), torch.zeros(7, dtype=FLOAT64))


def test_what_a_constraint_has_nothing_to_say_of_satisfies_it():
    samples = support()[:2]
    scores = Scores(torch.zeros(2, dtype=FLOAT64), torch.tensor([True, False]))
    assert Constraint(HAS_A).satisfied(scores, samples).tolist() == [False, True]


def test_only_a_constraint_without_floor_is_hard():
    assert is_hard(Constraint(HAS_A))
    others = (Constraint(HAS_A, 0.5), Moment(HAS_A, 0.5), MomentEach(HAS_A, 0.5), Tilt(HAS_A, 1))
    assert not any(map(is_hard, others))


@pytest.mark.parametrize("factor", [Moment(HAS_A, 0.25), MomentEach(HAS_A, 0.25)])
def test_without_lambda_there_is_no_potential(factor):
    with pytest.raises(AttunementError, match=r"matches has_a = 0.25 but isn't fitted"):
        factor.log_potential(scored(HAS_A, support()), support())


def test_numbers_are_checked_where_they_are_given():
    with pytest.raises(AttunementError, match="a floor lies between 0 and 1"):
        Constraint(HAS_A, 1.0)
    for kind in (Moment, MomentEach):
        with pytest.raises(AttunementError, match="mean of has_a must be a finite number"):
            kind(HAS_A, math.inf)
    with pytest.raises(AttunementError, match="beta must be above 0"):
        Tilt(HAS_A, 0.0)
    with pytest.raises(AttunementError, match="weight of a tilt must be a finite number"):
        Tilt(HAS_A, 1.0, math.nan)


def test_each_factor_describes_itself():
    known = ContextLambdas((Context("x"), Context("y")), (1.0, -2.0))
    assert MomentEach(HAS_A, 0.5, known).describe() == {
        "kind": "match_each",
        "scorer": "has_a",
        "mean": 0.5,
        "lambda": [1.0, -2.0],
    }
    assert MomentEach(HAS_A, 0.5).describe()["lambda"] is None
