import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st

from attunement.cli.options import (
    as_option,
    begin,
    model_settings,
    read_prompts,
    target_settings,
)

names = st.sampled_from(["length", "contains:a=b", "uses_name:self", "mine.py:f"])


@given(st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_stands_behind_the_last_equals_sign(moments):
    entries = [f"{spec}={number!r}" for spec, number in moments.items()]
    found = target_settings(None, None, entries, None, None, None)
    assert found.match == moments
    assert target_settings(None, None, None, entries, None, None).match_each == moments


@pytest.mark.parametrize("entry", ["length", "length=", "=3", "length=three"])
def test_anything_else_is_refused(entry):
    with pytest.raises(typer.BadParameter, match="SPEC=NUMBER"):
        target_settings(None, None, [entry], None, None, None)


def test_a_feature_named_twice_is_refused():
    with pytest.raises(typer.BadParameter, match="names length twice"):
        target_settings(None, None, None, None, ["length=1", "length=2"], 1.0)


def test_prompts_come_from_one_place(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("def f(\ndef g(\n")
    assert read_prompts(None, None) is None
    assert [context.prompt for context in read_prompts(["a"], None)] == ["a"]
    assert [context.prompt for context in read_prompts(None, path)] == ["def f(", "def g("]
    with pytest.raises(typer.BadParameter, match="not both"):
        read_prompts(["a"], path)


def test_a_line_break_can_end_a_completion():
    model = model_settings("tiny-python", 8, ["\\n"], None, "float32", "cpu")
    assert model.stop == ("\n",)


def test_a_parameter_is_written_with_dashes():
    assert as_option("max_new_tokens") == "--max-new-tokens"


def test_no_number_of_threads_changes_nothing():
    before = torch.get_num_threads()
    begin(None)
    assert torch.get_num_threads() == before
