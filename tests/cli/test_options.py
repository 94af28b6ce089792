import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.cli.options import (
    CompletionOptions,
    ContextOptions,
    MachineOptions,
    TargetOptions,
    as_option,
    begin,
    model_settings,
)

names = st.sampled_from(["length", "contains:a=b", "uses_name:self", "mine.py:f"])


@settings(deadline=None)  # the first call imports what is heavy
@given(st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_stands_behind_the_last_equals_sign(moments):
    entries = [f"{spec}={number!r}" for spec, number in moments.items()]
    assert TargetOptions(match=entries).settings().match == moments
    assert TargetOptions(match_each=entries).settings().match_each == moments


@pytest.mark.parametrize("entry", ["length", "length=", "=3", "length=three"])
def test_anything_else_is_refused(entry):
    with pytest.raises(typer.BadParameter, match="SPEC=NUMBER"):
        TargetOptions(match=[entry]).settings()


def test_a_feature_named_twice_is_refused():
    with pytest.raises(typer.BadParameter, match="names length twice"):
        TargetOptions(tilt=["length=1", "length=2"], beta=1.0).settings()


def test_prompts_come_from_one_place(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("def f(\ndef g(\n")
    source = str(path)
    assert ContextOptions().read(0) is None
    assert [c.prompt for c in ContextOptions(prompt=["a"]).read(0)] == ["a"]
    assert [c.prompt for c in ContextOptions(prompts=source).read(0)] == ["def f(", "def g("]
    assert len(ContextOptions(prompts=source, max_prompts=1).read(0)) == 1
    with pytest.raises(typer.BadParameter, match="not both"):
        ContextOptions(prompt=["a"], prompts=source).read(0)
    with pytest.raises(typer.BadParameter, match="need --prompts"):
        ContextOptions(prompt=["a"], prompt_column="text").read(0)


def test_prompts_that_repeat_others_are_counted(tmp_path, capsys):
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\na\n")
    assert len(ContextOptions(prompts=str(path)).read(0)) == 3
    assert "1 of 3 prompts" in capsys.readouterr().err


def stops_of(*texts):
    completion = CompletionOptions(stop=list(texts))
    return model_settings("tiny-python", completion, MachineOptions()).stop


@settings(deadline=None)  # the first call imports what is heavy
@given(st.text(st.characters(exclude_characters="\\", exclude_categories=["Cs"])))
def test_a_stop_without_backslash_stays_as_it_is(text):
    assert stops_of(text) == (text,)


def test_an_escape_in_a_stop_that_can_not_be_read_is_refused():
    assert stops_of("\\u3002", "\\\\") == ("\u3002", "\\")
    with pytest.raises(typer.BadParameter, match="double a backslash"):
        stops_of("end\\")


def test_a_line_break_can_end_a_completion():
    completion = CompletionOptions(max_new_tokens=8, stop=["\\n"])
    model = model_settings("tiny-python", completion, MachineOptions(device="cpu"))
    assert model.stop == ("\n",)
    assert model.max_new_tokens == 8
    assert model.device == "cpu"


def test_a_parameter_is_written_with_dashes():
    assert as_option("max_new_tokens") == "--max-new-tokens"


def test_no_number_of_threads_changes_nothing():
    before = torch.get_num_threads()
    begin(None)
    assert torch.get_num_threads() == before
