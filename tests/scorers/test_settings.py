from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError
from attunement.scorers.settings import only_settings, spec_of, split_settings, whole_number

KEYS = {"column": str, "minimum": whole_number}


@pytest.mark.parametrize(
    ("argument", "rest", "found"),
    [
        ("", "", {}),
        ("terms.tsv", "terms.tsv", {}),
        ("terms.tsv,column=a", "terms.tsv", {"column": "a"}),
        ("a,b=c.tsv,minimum=4,column=a=b", "a,b=c.tsv", {"minimum": 4, "column": "a=b"}),
        ("column=a", "", {"column": "a"}),
        ("column=a,other=b", "column=a,other=b", {}),
    ],
)
def test_settings_are_split_off_from_the_end(argument, rest, found):
    assert split_settings(argument, KEYS) == (rest, found)


@settings(deadline=None)
@given(rest=st.text(), column=st.text(min_size=1).filter(lambda text: "," not in text))
def test_what_was_joined_is_split(rest, column):
    if split_settings(rest, KEYS)[1]:
        return
    assert split_settings(f"{rest},column={column}", KEYS) == (rest, {"column": column})


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("column=a,column=b", "column is given twice"),
        ("column=", "column= needs a value"),
        ("minimum=four", "'four' is not a whole number"),
        ("minimum=-1", "'-1' is not a whole number"),
        ("minimum=1" + "0" * 5000, "is not a whole number"),
        ("colum=a", r"no setting 'colum=a'; did you mean column=...\?"),
        ("column=a,4", "no setting 'column=a,4'"),
    ],
)
def test_errors(argument, message):
    with pytest.raises(AttunementError, match=message):
        only_settings(argument, KEYS)


def test_a_spec_says_what_differs_from_the_default():
    assert spec_of("kept", [("column", None), ("minimum", 0)]) == "kept"
    assert spec_of("kept", [("column", "c"), ("minimum", 4)]) == "kept:column=c,minimum=4"
