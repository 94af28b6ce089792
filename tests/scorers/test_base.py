from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError, Samples, Scorer, Scores
from attunement.scorers.base import (
    NamedScorer,
    as_scores,
    describe,
    evaluate,
    require_applicable,
    suggestion,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


def constant(result: object) -> NamedScorer:
    return NamedScorer("constant", lambda _: result)  # type: ignore[arg-type, return-value]


def test_equal_names_are_one_scorer():
    first, second = constant(1), constant(2)
    assert first == second
    assert {first: "x"}[second] == "x"
    assert first != NamedScorer("other", first.function)
    assert isinstance(first, Scorer)


@settings(deadline=None)
@given(numbers=st.lists(st.none() | finite))
def test_as_scores_keeps_numbers_and_marks_none(numbers):
    scores = as_scores(numbers)
    assert scores.applicable.tolist() == [number is not None for number in numbers]
    assert scores.values.tolist() == [number or 0.0 for number in numbers]


@settings(deadline=None)
@given(numbers=st.lists(finite, min_size=1), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_evaluate_takes_a_tensor_as_it_is(make_samples, numbers, dtype):
    values = torch.tensor(numbers, dtype=torch.float64).clamp(-1e30, 1e30).to(dtype)
    values.requires_grad_(True)
    scores = evaluate(constant(values), make_samples(["x"] * len(numbers)))
    assert scores.values.dtype == torch.float64
    assert not scores.values.requires_grad
    assert torch.equal(scores.values, values.detach().double())
    assert scores.applicable.all()


def test_evaluate_takes_bools(make_samples):
    scores = evaluate(constant(torch.tensor([True, False])), make_samples(["a", "b"]))
    assert scores.values.tolist() == [1.0, 0.0]


def test_what_does_not_apply_is_zero_whatever_it_was(make_samples):
    result = Scores(torch.tensor([3.0, math.nan, 7.0]), torch.tensor([True, False, False]))
    assert evaluate(constant(result), make_samples(["a", "b", "c"])).values.tolist() == [3, 0, 0]


def test_no_samples_have_no_scores(make_samples):
    scores = evaluate(constant(torch.zeros(0)), make_samples([]))
    assert scores.values.shape == scores.applicable.shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_evaluate_names_the_scorer_and_the_sample(make_samples, bad):
    samples = make_samples(["good", "so bad " * 20])
    with pytest.raises(AttunementError, match=r"constant gave .* for sample 1 \('so bad so"):
        evaluate(constant(torch.tensor([1.0, bad])), samples)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_evaluate_refuses_another_shape(make_samples, shape):
    with pytest.raises(AttunementError, match="constant returned the shape"):
        evaluate(constant(torch.zeros(shape)), make_samples(["a", "b"]))


def test_evaluate_refuses_what_is_no_tensor(make_samples):
    with pytest.raises(AttunementError, match="constant returned a list"):
        evaluate(constant([1.0]), make_samples(["a"]))


def test_describe_shows_the_beginning(make_samples):
    samples: Samples = make_samples(["short", "x" * 100])
    assert describe(samples, 0) == "sample 0 ('short')"
    assert describe(samples, 1) == f"sample 1 ('{'x' * 60}'...)"
    assert describe(make_samples(["a"], decoded=False), 0) == "sample 0"


def test_a_feature_must_apply_to_some_sample():
    some, none = as_scores([None, 0.0]), as_scores([None, None])
    require_applicable({"some": some})
    with pytest.raises(AttunementError, match="the scorer none applies to none of 2 samples"):
        require_applicable({"some": some, "none": none})


def test_suggestion():
    assert suggestion("compile", ["length", "compiles"]) == (
        "did you mean compiles? there is compiles, length"
    )
    assert suggestion("zzz", []) == "there is nothing"


SHARED = """
import json, torch
torch.set_num_threads(1)
from attunement import Tabular, processes
from attunement.core import Scores
from attunement.scorers.base import NamedScorer, evaluate

processes.join()
support = Tabular.random(3, 3, generator=torch.Generator().manual_seed(0)).enumerate()
seen = []

def score(samples):
    seen.append(len(samples))
    lengths = samples.lengths.double()
    return Scores(lengths / 3, lengths > 1)

found = []
for count in (len(support), 1):
    scores = evaluate(NamedScorer("third", score), support[:count])
    found.append([scores.values.tolist(), scores.applicable.tolist()])
processes.wait()
processes.leave()
print(json.dumps([found, seen]))
"""


def test_processes_share_the_samples_out_and_know_all_scores(launch):
    alone, _ = json.loads(launch("-c", SHARED, count=1)[0])
    together = [json.loads(out) for out in launch("-c", SHARED)]
    assert [found for found, _ in together] == [alone, alone]
    assert [seen for _, seen in together] == [[8, 1], [7]]
