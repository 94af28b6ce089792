import pytest
from hypothesis import given
from hypothesis import strategies as st

from attunement.core import Stop
from attunement.distributions.stopping import STOPS, python_function_end

BODY = "\n    total = 0\n    return total"


@pytest.mark.parametrize(
    "following", ["\ndef other():", "\nclass A:", "\nimport os", "\nprint(1)", "\n'''", "\n1"]
)
def test_a_line_at_column_0_ends_the_function(following):
    assert python_function_end(BODY + following) == len(BODY)


@pytest.mark.parametrize(
    "following",
    ["", "\n", "\n\n", "\n    more", "\n# a comment", "\n)", "\n]\n}", "\n\t", "\n@decorator"],
)
def test_layout_that_goes_on(following):
    assert python_function_end(BODY + following) is None


def test_the_line_after_a_decorator_goes_on_and_the_next_one_ends():
    text = "\n@decorator\ndef f():\n    pass\n"
    assert python_function_end(text) is None
    assert python_function_end(text + "x") == len(text) - 1


def test_the_first_line_continues_the_prompt():
    assert python_function_end("name(x):") is None


@given(st.text(alphabet="\n #)@ab", max_size=30), st.text(alphabet="\n #)@ab", max_size=10))
def test_an_end_once_found_stays(text, more):
    end = python_function_end(text)
    if end is not None:
        assert python_function_end(text + more) == end
        assert text[end] == "\n"


def test_the_preset_serves_as_a_stop():
    stop = Stop(function=STOPS["python-function"])
    assert stop.reads_text
    assert stop.find(BODY + "\nx") == len(BODY)
