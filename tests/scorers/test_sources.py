from __future__ import annotations

import pytest

from attunement.core import AttunementError
from attunement.scorers.sources import read_sources

CONVERSATION = (
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Sum up."},
)


def test_the_prompt_is_the_source(make_samples):
    samples = make_samples(["x", "y"], prompts=["a", CONVERSATION])
    assert read_sources("s", samples, None, str) == ["a", "Be short.\nSum up."]


def test_a_column_is_the_source(make_samples):
    samples = make_samples(["x", "y"], columns=[{"article": "a"}, {"article": "b"}])
    assert read_sources("s", samples, "article", str.upper) == ["A", "B"]


def test_a_context_is_read_once_and_only_if_a_sample_has_it(make_samples):
    seen = []
    samples = make_samples(["x", "y", "z"], prompts=["a", "b", "c"])[[2, 0, 2]]
    assert read_sources("s", samples, None, lambda text: seen.append(text) or text) == [*"cac"]
    assert seen == ["c", "a"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "the scorer s reads its source in the column 'article'; a context has no columns"),
        ({"text": "a", "id": 1}, "a context has id, text"),
        ({"article": 3}, "it must be a text, not 3"),
        ({"article": None}, "it must be a text, not None"),
        (
            {"article": " \n"},
            "the scorer s has no source: the column 'article' of a ",
        ),
    ],
)
def test_a_column_without_a_source(make_samples, columns, message):
    with pytest.raises(AttunementError, match=message):
        read_sources("s", make_samples(["x"], columns=[columns]), "article", str)


def test_an_empty_prompt_is_no_source(make_samples):
    with pytest.raises(AttunementError, match=r"the prompt of a context is empty; give prompts"):
        read_sources("s", make_samples(["x"]), None, str)
