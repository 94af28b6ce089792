import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError, Outcomes, Stop


@given(
    text=st.text("abc", max_size=12),
    strings=st.lists(st.text("abc", min_size=1, max_size=2), max_size=3),
    at=st.none() | st.integers(0, 12),
)
@settings(deadline=None)
def test_stop_finds_the_earliest(text: str, strings: list[str], at: int | None):
    stop = Stop(strings=tuple(strings), function=lambda _: at)
    found = stop.find(text)
    candidates = [text.index(string) for string in strings if string in text]
    candidates += [] if at is None else [at]
    assert found == (min(candidates) if candidates else None)


def test_stop_tokens():
    assert Stop(token=1, further_tokens=frozenset({5})).tokens == {1, 5}
    assert Stop(further_tokens=frozenset({5})).tokens == {5}
    assert not Stop(token=1).reads_text
    assert Stop(strings=("x",)).reads_text


def test_outcomes_need_a_length():
    with pytest.raises(AttunementError, match="at least 1, not 0"):
        Outcomes(None, Stop(), 0)


def test_outcomes_are_json():
    outcomes = Outcomes(1, Stop(2, ("x",), str.isdigit), 5, frozenset({9, 3}))  # pyright: ignore
    found = json.loads(json.dumps(outcomes.to_json()))
    assert found["forbidden"] == [3, 9]
    assert found["stop_function"] == "isdigit"
