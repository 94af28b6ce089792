from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError, Scorer
from attunement.scorers import evaluate, length
from attunement.scorers.user import read_scorer

CONVERSATION = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"})


def score(function, samples):
    return evaluate(read_scorer(function), samples).values.tolist()


# --- the three forms ------------------------------------------------------------------------------


def test_texts(make_samples):
    def function(texts):
        return [len(text) for text in texts]

    assert score(function, make_samples(["a", "", "abc"], prompts=["p"] * 3)) == [1, 0, 3]


def test_texts_with_a_setting_of_its_own(make_samples):
    def function(texts, unit=2, *, more=1):
        return [len(text) / unit + more for text in texts]

    assert score(function, make_samples(["abcd"])) == [3]
    assert score(partial(function, unit=4), make_samples(["abcd"])) == [2]


def test_contexts_and_texts(make_samples):
    def function(contexts, texts):
        pairs = zip(contexts, texts, strict=True)
        return [context.prompt == text and context.columns["yes"] for context, text in pairs]

    samples = make_samples(["a", "b"], prompts=["a", "a"], columns=[{"yes": 1}, {"yes": 1}])
    assert score(function, samples) == [1, 0]


def test_trl_form(make_samples):
    seen = {}

    def function(prompts, completions, answer, **columns):
        seen.update(columns, prompts=prompts, completions=completions, answer=answer)
        return [1.0] * len(prompts)

    samples = make_samples(
        ["x", "y"], prompts=["p", "q"], columns=[{"answer": 1, "level": "a"}, {"answer": 2}]
    )
    assert score(function, samples) == [1, 1]
    seen.pop("log_extra")("column", [1])
    seen.pop("log_metric")(name="metric", value=1.0)
    assert seen == {
        "prompts": ["p", "q"],
        "completions": ["x", "y"],
        "answer": [1, 2],
        "level": ["a", None],
        "completion_ids": samples.token_lists,
        "trainer_state": None,
    }


def test_trl_form_gets_only_what_it_names(make_samples):
    def of_completions(completions):
        return [len(text) for text in completions]

    def of_ids(completion_ids, trainer_state):
        assert trainer_state is None
        return [len(row) for row in completion_ids]

    def of_prompts(*, prompts, missing=None):
        assert missing is None
        return [len(prompt) for prompt in prompts]

    samples = make_samples(["ab", "c"], prompts=["", "xyz"], columns=[{"answer": 1}] * 2)
    assert score(of_completions, samples) == [2, 1]
    assert score(of_ids, samples) == [3, 2]
    assert score(of_prompts, samples) == [0, 3]


def test_trl_form_of_conversations(make_samples):
    def function(prompts, completions, **columns):
        assert prompts == [list(CONVERSATION), list(CONVERSATION)]
        assert all(len(turns) == 1 and turns[0]["role"] == "assistant" for turns in completions)
        assert columns["trainer_state"] is None
        return [float(turns[0]["content"] == "Hello") for turns in completions]

    assert score(function, make_samples(["Hello", "?"], prompts=[CONVERSATION] * 2)) == [1, 0]


def test_a_reward_of_trl_is_a_scorer_as_it_stands(make_samples):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        rewards = pytest.importorskip("trl.rewards")
    function = rewards.get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2)
    assert score(function, make_samples(["a", "ab", "abcde"])) == [0, -0.5, -1]


def test_a_missing_column_is_named(make_samples):
    def function(completions, answer):
        return [0.0 for _ in zip(completions, answer, strict=True)]

    with pytest.raises(AttunementError, match=r"function wants the column 'answer'.*have level"):
        score(function, make_samples(["a"], columns=[{"level": 1}]))


def test_callables_and_methods(make_samples):
    class Judge:
        weight = 2

        def __call__(self, texts):
            return [self.weight] * len(texts)

        def method(self, texts):
            return [-self.weight] * len(texts)

    samples = make_samples(["a"])
    assert read_scorer(Judge()).name == "Judge"
    assert score(Judge(), samples) == [2]
    assert score(Judge().method, samples) == [-2]


# --- names, equality ------------------------------------------------------------------------------


def test_a_scorer_stays_itself(make_samples):
    assert read_scorer(length) is length
    renamed = read_scorer(length, "tokens")
    assert renamed.name == "tokens"
    assert torch.equal(
        evaluate(renamed, make_samples(["abc"])).values, torch.tensor([4.0]).double()
    )


def test_equality():
    def function(texts):
        return [1.0] * len(texts)

    scorer = read_scorer(function)
    assert isinstance(scorer, Scorer)
    assert scorer.name == "function"
    assert read_scorer(function, "mine").name == "mine"
    assert {scorer: 1}[read_scorer(function)] == 1
    assert read_scorer(lambda texts: texts) != read_scorer(lambda texts: texts)


# --- what may be returned -------------------------------------------------------------------------


@settings(deadline=None)
@given(
    numbers=st.lists(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e300, 1e300),
        min_size=1,
    )
)
def test_numbers_and_none(make_samples, numbers):
    def function(texts):
        return numbers[: len(texts)]

    samples = make_samples(["x"] * len(numbers))
    scores = evaluate(read_scorer(function), samples)
    assert scores.applicable.tolist() == [number is not None for number in numbers]
    assert scores.values.tolist() == [float(number or 0) for number in numbers]


@pytest.mark.parametrize(
    "returned",
    [
        (1, 2.5),
        np.array([1, 2.5]),
        torch.tensor([1, 2.5]),
        [np.int64(1), np.float32(2.5)],
        [np.True_, torch.tensor(2.5)],
    ],
    ids=["tuple", "array", "tensor", "numpy numbers", "scalars"],
)
def test_sequences_of_numbers(make_samples, returned):
    assert score(lambda texts: returned, make_samples(["a", "b"])) == [1, 2.5]  # noqa: ARG005


def test_no_samples(make_samples):
    assert score(lambda texts: [len(text) for text in texts], make_samples([])) == []


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, math.nan], r"judge gave nan for sample 1 \('second'\)"),
        ([math.inf, 1.0], r"judge gave inf for sample 0 \('first'\)"),
        ([10**400, 1.0], r"judge gave inf for sample 0 \('first'\)"),
        ([1.0, "2"], r"judge returned '2', a str, for sample 1 \('second'\)"),
        ([1.0, 2j], r"judge returned 2j, a complex, for sample 1"),
        ([[1.0], [2.0]], r"judge returned \[1.0\], a list, for sample 0"),
        (np.ones((2, 1)), r"judge returned \[1.0\], a list, for sample 0"),
        ([1.0], r"judge returned 1 numbers for 2 samples"),
        ([1.0] * 3, r"judge returned 3 numbers for 2 samples"),
        (1.0, r"judge returned a float for 2 samples"),
        ("ab", r"judge returned a str for 2 samples"),
        (None, r"judge returned a NoneType for 2 samples"),
        (torch.tensor(1.0), r"judge returned a Tensor for 2 samples"),
    ],
)
def test_other_results_are_errors(make_samples, returned, message):
    scorer = read_scorer(lambda texts: returned, "judge")  # noqa: ARG005
    with pytest.raises(AttunementError, match=message):
        scorer(make_samples(["first", "second"]))


@settings(deadline=None)
@given(count=st.integers(1, 40), data=st.data())
def test_an_exception_is_traced_to_its_sample(make_samples, count, data):
    culprit = data.draw(st.integers(0, count - 1))

    def judge(texts):
        return [1 / (text != "bad") for text in texts]

    texts = ["bad" if index == culprit else f"text {index}" for index in range(count)]
    message = rf"judge raised ZeroDivisionError on sample {culprit} \('bad'\)"
    with pytest.raises(AttunementError, match=message) as caught:
        read_scorer(judge)(make_samples(texts))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_exception_that_no_single_sample_makes(make_samples):
    def judge(texts):
        if len(texts) > 2:
            raise RuntimeError("too many")
        return [1.0] * len(texts)

    message = r"judge raised RuntimeError on samples 0 to 3 together \(sample 0 \('a'\) first\)"
    with pytest.raises(AttunementError, match=message):
        read_scorer(judge)(make_samples(["a", "b", "c", "d"]))


# --- what is no scorer ----------------------------------------------------------------------------


async def reward(completions):
    return [0.0 for _ in completions]


@pytest.mark.parametrize(
    "thing",
    [
        lambda: [0.0],
        lambda samples: samples,
        lambda x, y: [x, y],
        lambda texts, threshold: [texts, threshold],
        lambda *texts: texts,
        lambda texts, /: texts,
        lambda contexts: contexts,
        reward,
        3,
        None,
        dict,
    ],
)
def test_anything_else_shows_the_forms(thing):
    with pytest.raises(AttunementError) as caught:
        read_scorer(thing)
    message = str(caught.value)
    assert "def score(prompts, completions, **columns)" in message
    assert "def score(texts)" in message
    assert "def score(contexts, texts)" in message
