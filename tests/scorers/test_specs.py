from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError, Scorer
from attunement.scorers import (
    FileScorer,
    as_scorer,
    contains,
    evaluate,
    parse_scorer,
    regex,
    uses_name,
)
from attunement.scorers.specs import SCORERS, SCORERS_OF_ARGUMENT


def test_a_name_builds_its_scorer_again(make_samples):
    specs = [*SCORERS, *(f"{name}:x" for name in SCORERS_OF_ARGUMENT)]
    samples = make_samples(["x = 1\n", "", "def f("])
    for spec in specs:
        scorer = parse_scorer(spec)
        assert isinstance(scorer, Scorer)
        assert scorer.name == spec
        assert parse_scorer(scorer.name) == scorer
        assert hash(parse_scorer(spec)) == hash(scorer)
        assert evaluate(scorer, samples).values.shape == (3,)
    assert len({parse_scorer(spec) for spec in specs}) == len(specs)


@settings(deadline=None)
@given(argument=st.text(min_size=1))
def test_the_first_colon_parts_name_and_argument(argument):
    assert parse_scorer(f"contains:{argument}") == contains(argument)


def test_arguments_with_colons_and_file_names():
    assert parse_scorer("contains:a.py:b") == contains("a.py:b")
    assert parse_scorer("regex:(?s:a.b)") == regex("(?s:a.b)")
    assert parse_scorer("uses_name:self") == uses_name("self")


def test_a_file(tmp_path, make_samples):
    path = tmp_path / "mine.py"
    path.write_text("def short(texts):\n    return [len(text) < 3 for text in texts]\n")
    scorer = parse_scorer(f"{path}:short")
    assert isinstance(scorer, FileScorer)
    assert (scorer.name, scorer.path) == (f"{path}:short", path)
    assert evaluate(scorer, make_samples(["ab", "abc"])).values.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("compile", r"no scorer 'compile'; did you mean compiles\? there is ast_nodes, compiles,"),
        ("use_name:self", r"did you mean uses_name:"),
        ("", r"no scorer ''; there is ast_nodes"),
        ("compiles:3", "compiles takes no argument: write compiles, not compiles:3"),
        ("compiles:", "compiles takes no argument"),
        ("contains", "contains needs an argument: write contains:"),
        ("contains:", "contains needs an argument"),
        ("regex:(", "is not a regular expression"),
        ("uses_name:a b", "identifier"),
        ("mine.py", "write path.py:function"),
        ("absent/mine.py:f", "can't read absent/mine.py"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(AttunementError, match=message):
        parse_scorer(spec)


def test_as_scorer_takes_a_spec_a_scorer_or_a_function(make_samples):
    def short(texts: list[str]) -> list[bool]:
        return [len(text) < 3 for text in texts]

    assert as_scorer("uses_name:self") == as_scorer(uses_name("self")) == uses_name("self")
    assert as_scorer(short).name == "short"
    assert as_scorer("compiles", name="valid").name == "valid"
    values = evaluate(as_scorer("contains:a"), make_samples(["a", "b"])).values
    assert values.tolist() == [1.0, 0.0]
    with pytest.raises(AttunementError, match="compiles"):
        as_scorer("compile")
