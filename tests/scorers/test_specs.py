from __future__ import annotations

import re
from pathlib import Path

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
from attunement.scorers.specs import (
    SCORERS,
    SCORERS_OF_ARGUMENT,
    SCORERS_OF_FILE,
    SCORERS_OF_SETTINGS,
)

SETTINGS = {"column": "text", "minimum": "2"}


def test_a_name_builds_its_scorer_again(make_samples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tsv").write_text("x\ty\n")
    specs = [
        *(name for name in SCORERS if name not in ("sentiment", "toxicity")),
        *(f"{name}:x" for name in SCORERS_OF_ARGUMENT if name != "classifier"),
        *SCORERS_OF_SETTINGS,
        *(f"{name}:x.tsv" for name in SCORERS_OF_FILE),
    ]
    for name, known in {**SCORERS_OF_SETTINGS, **SCORERS_OF_FILE}.items():
        keys = [key for key in reversed(known.keys) if key in SETTINGS]
        said = ",".join(f"{key}={SETTINGS[key]}" for key in keys)
        file = "x.tsv," if name in SCORERS_OF_FILE else ""
        specs += [f"{name}:{file}{said}"] if said else []
    samples = make_samples(
        ["x = 1\n", "", "def f("], prompts=["x"] * 3, columns=[{"text": "x 1"}] * 3
    )
    for spec in specs:
        scorer = parse_scorer(spec)
        assert isinstance(scorer, Scorer)
        assert scorer.name == spec
        assert parse_scorer(scorer.name) == scorer
        assert hash(parse_scorer(spec)) == hash(scorer)
        assert evaluate(scorer, samples).values.shape == (3,)
    assert len({parse_scorer(spec) for spec in specs}) == len(specs)


def test_every_name_is_explained():
    page = (Path(__file__).parents[2] / "docs" / "scorers.md").read_text(encoding="utf-8")
    for name in (*SCORERS, *SCORERS_OF_ARGUMENT, *SCORERS_OF_SETTINGS, *SCORERS_OF_FILE):
        assert re.search(rf"^\|.*`{name}[:`]", page, re.MULTILINE), name


def test_a_models_name_builds_its_scorer_again():
    for spec in ("sentiment", "toxicity", "classifier:a/b=c"):
        assert parse_scorer(spec).name == spec
        assert parse_scorer(spec) == parse_scorer(spec)


def test_settings_reach_the_scorer(make_samples):
    samples = make_samples(
        ["in Rome", "in Rome and Oslo"],
        prompts=["Oslo"] * 2,
        columns=[{"text": "of Rome, Oslo"}] * 2,
    )

    def score(spec):
        return evaluate(parse_scorer(spec), samples).values.tolist()

    assert score("entities_in_source") == [0, 0]
    assert score("entities_in_source:column=text") == [1, 1]
    assert score("entities_in_source:minimum=2,column=text") == [0, 1]
    assert score("entities_in_source_share") == [0, 0.5]


def test_a_copy_of_the_file_is_read_in_its_place(tmp_path, make_samples):
    copy = tmp_path / "copy.txt"
    copy.write_text("b\n")
    scorer = parse_scorer("lexicon:gone.txt", copy)
    assert isinstance(scorer, FileScorer)
    assert (scorer.name, scorer.path) == ("lexicon:gone.txt", copy)
    assert evaluate(scorer, make_samples(["a", "b"])).values.tolist() == [0, 1]


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
        ("compile", r"no scorer 'compile'; did you mean compiles\? there is ast_nodes, class"),
        ("use_name:self", r"did you mean uses_name:"),
        ("", r"no scorer ''; there is ast_nodes"),
        ("compiles:3", "compiles takes no argument: write compiles, not compiles:3"),
        ("compiles:", "compiles takes no argument"),
        ("contains", "contains needs an argument: write contains:"),
        ("contains:", "contains needs an argument"),
        ("regex:(", "is not a regular expression"),
        ("uses_name:a b", "identifier"),
        ("entities_in_source:", "needs settings behind the colon, or none of the two"),
        ("entities_in_source:spcy=x", r"no setting 'spcy=x'; did you mean spacy=...\?"),
        ("entities_in_source_share:minimum=4", "no setting 'minimum=4'"),
        ("entities_in_source:spacy=no_such", "no spaCy pipeline 'no_such'"),
        ("identifiers_in_source:minimum=a", "'a' is not a whole number"),
        ("classifier:model", "classifier:MODEL=LABEL"),
        ("sentiment:film", "sentiment takes no argument"),
        ("lexicon", "lexicon needs an argument: write lexicon:"),
        ("lexicon:absent.txt", "can't read absent.txt: No such file"),
        ("glossary:column=a", "glossary:column=a names no file"),
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
