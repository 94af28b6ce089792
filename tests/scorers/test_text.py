from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError
from attunement.scorers import contains, evaluate, finished, length, regex


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.text(), st.booleans()), min_size=1))
def test_length_counts_the_end_token(make_samples, rows):
    texts, done = [text for text, _ in rows], [flag for _, flag in rows]
    samples = make_samples(texts, finished=done)
    lengths = [len(text) + flag for text, flag in rows]
    assert evaluate(length, samples).values.tolist() == lengths
    assert evaluate(finished, samples).values.tolist() == done


@settings(deadline=None)
@given(texts=st.lists(st.text("abA."), min_size=1), string=st.text("abA.", min_size=1))
def test_contains_and_an_escaped_regex_agree(make_samples, texts, string):
    samples = make_samples(texts, prompts=[string] * len(texts))
    expected = [float(string in text) for text in texts]
    assert evaluate(contains(string), samples).values.tolist() == expected
    assert evaluate(regex(re.escape(string)), samples).values.tolist() == expected


def test_regex_searches(make_samples):
    samples = make_samples(["to be", "be it", "a\nbe"])
    assert evaluate(regex("^be"), samples).values.tolist() == [0, 1, 0]
    assert evaluate(regex("(?m)^be$"), samples).values.tolist() == [0, 0, 1]


def test_errors():
    with pytest.raises(AttunementError, match="contains needs a string"):
        contains("")
    with pytest.raises(AttunementError, match=r"'\(' is not a regular expression"):
        regex("(")
