import re

import pytest
import torch

from attunement.conflicts import require_compatible, why_nothing_is_allowed
from attunement.core import AttunementError
from attunement.distributions.tabular import Tabular
from attunement.factors import Constraint, Moment, MomentEach, Tilt
from attunement.scorers import as_scorer, evaluate, length


def has_a(texts):
    return ["a" in text for text in texts]


def has_b(texts):
    return ["b" in text for text in texts]


def has_no_a(texts):
    return ["a" not in text for text in texts]


def never(texts):
    return [0 for _ in texts]


HAS_A, HAS_B, HAS_NO_A, NEVER = map(as_scorer, (has_a, has_b, has_no_a, never))


@pytest.mark.parametrize(
    ("factors", "sentence"),
    [
        ((Constraint(HAS_A), Moment(HAS_A, 0.5)), "has_a is constrained to be 1 and matched"),
        ((MomentEach(HAS_A, 0.5), Constraint(HAS_A)), "has_a is constrained to be 1 and matched"),
        ((Constraint(HAS_A, 0.1), Moment(HAS_A, 0.5)), "with the floor 0.1 and matched"),
        ((Moment(HAS_A, 0.5), MomentEach(HAS_A, 0.5)), "in match and in match_each"),
        ((Moment(HAS_A, 0.5), Moment(HAS_A, 0.6)), "has_a is matched twice"),
        ((MomentEach(HAS_A, 0.5), MomentEach(HAS_A, 0.5)), "has_a is matched twice"),
        ((Tilt(as_scorer(has_b, "has_a"), 1), Constraint(HAS_A)), "two different scorers are cal"),
    ],
)
def test_what_contradicts_itself_is_said_in_a_sentence(factors, sentence):
    with pytest.raises(AttunementError, match=sentence) as error:
        require_compatible(factors)
    assert "\n" not in str(error.value)


def test_what_goes_together_passes():
    require_compatible(())
    tilts = (Tilt(HAS_A, 1.0), Tilt(HAS_A, 2.0))
    require_compatible((Constraint(HAS_A), Moment(HAS_B, 0.5), MomentEach(length, 2.0), *tilts))


@pytest.mark.parametrize(
    ("scorers", "sentence"),
    [
        ((HAS_A, NEVER), "none of 7 samples satisfies the hard constraint never"),
        (
            (HAS_B, HAS_A, HAS_NO_A),
            r"hard constraints together: has_a \(0.571 of them do\) and has_no_a \(0.429 of",
        ),
    ],
)
def test_constraints_that_nothing_satisfies_are_named_with_their_rates(scorers, sentence):
    base = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    samples = base.enumerate()
    scores = {scorer.name: evaluate(scorer, samples) for scorer in scorers}
    factors = tuple(map(Constraint, scorers))
    assert len(samples) == 7
    assert re.search(sentence, why_nothing_is_allowed(factors, samples, scores))


def test_three_constraints_that_go_together_in_pairs_only_are_all_named():
    letters = {"has_a": "a", "has_b": "b", "has_c": "c"}
    scorers = [
        as_scorer(lambda texts, letter=letter: [letter in text for text in texts], name)
        for name, letter in letters.items()
    ]
    base = Tabular.random(4, 2, generator=torch.Generator().manual_seed(0))
    samples = base.enumerate()
    scores = {scorer.name: evaluate(scorer, samples) for scorer in scorers}
    sentence = why_nothing_is_allowed([Constraint(s) for s in scorers], samples, scores)
    assert all(f"{name} (0.462" in sentence for name in letters), sentence
