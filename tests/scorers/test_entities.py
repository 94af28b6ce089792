from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError, MissingExtraError
from attunement.scorers.entities import ByRule, load_spacy, located_pipeline

lazy = settings(deadline=None)
rule = ByRule()


def found(text: str, source: str = "") -> set[str]:
    return set(rule.entities([text], [rule.read_source(source)])[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("nothing of note", set()),
        ("we met Angela Merkel in Berlin", {"Angela Merkel", "Berlin"}),
        ("we met Merkel, Scholz and Merkel", {"Merkel", "Scholz"}),
        ("London is big", set()),
        ("London is big. London it is", set()),
        ("it rained. London is big", set()),
        ("it is Obama's and the Obamas' dog", {"Obama", "Obamas"}),
        ("the Franco-German talks", {"Franco German"}),
        ("a post-Soviet state", {"Soviet"}),
        ("NATO met. UN did not", {"NATO", "UN"}),
        ("the U.S. Senate and the US", {"US"}),
        ("in J. K. Rowling's book", {"J"}),
        ("in J.K. Rowling's book", {"JK"}),
        ("iPhone sales, a MacBook and Johnson & Johnson", {"iPhone", "MacBook", "Johnson Johnson"}),
        ("I think I'm right, and I’ve been", set()),
        ("in 2008 and 1,000 others", {"2008", "1000"}),
        ("2008 was good", {"2008"}),
        ("a Boeing 747 flew", {"Boeing", "747"}),
        ("a rise of 3,5 % on 12.05.2026", {"3.5", "12", "5", "2026"}),
        ("McDonald's fell", {"McDonald"}),
        ("the University of California", {"University", "California"}),
        ("said “Paris” and Lyon", {"Lyon"}),
        ("in Zürich und Łódź", {"Zürich", "Łódź"}),
    ],
)
def test_the_rule(text, expected):
    assert found(text) == expected


def test_what_begins_a_sentence_is_a_name_if_it_is_one_inside_the_source():
    source = "Yesterday Tony Blair went to Paris."
    assert found("Tony Blair left") == {"Blair"}
    assert found("Tony Blair left", source) == {"Tony Blair"}
    assert found("Paris was cold", source) == {"Paris"}
    assert found("Yesterday was cold", source) == set()


@pytest.mark.parametrize(
    ("entity", "source", "stands"),
    [
        ("Angela Merkel", "the chancellor, Angela Merkel, left", True),
        ("Angela Merkel", "Angela Dorothea Merkel", False),
        ("Angela Merkel", "Merkel, Angela", False),
        ("Merkel", "Merkels", False),
        ("Merkel", "Merkel's party", True),
        ("US", "the U.S. army", True),
        ("US", "between us", False),
        ("1000", "1,000 people", True),
        ("100", "1,000 people", False),
        ("Franco German", "Franco-German", True),
    ],
)
def test_an_entity_stands_in_a_source_as_whole_words(entity, source, stands):
    assert (entity in rule.read_source(source)) is stands


@lazy
@given(text=st.text(), source=st.text())
def test_any_text_has_entities(text, source):
    assert all(found(text, source))


@lazy
@given(text=st.text(st.sampled_from("Ab C.,\n12'-"), max_size=80))
def test_a_text_holds_its_own_entities(text):
    source = rule.read_source(text)
    assert all(entity in source for entity in rule.entities([text], [source])[0])


# --- spaCy ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A small pipeline without any weights, as a user would save one."""
    spacy = pytest.importorskip("spacy")
    made = spacy.blank("en")
    names = ["Angela Merkel", "Paris", "two years ago", "Two years ago", "the Louvre"]
    patterns = [{"label": "NAME", "pattern": name} for name in names]
    made.add_pipe("entity_ruler").add_patterns(patterns)
    folder = tmp_path_factory.mktemp("spacy") / "names"
    made.to_disk(folder)
    return str(folder)


def test_entities_of_a_pipeline(pipeline):
    recogniser = load_spacy(pipeline)
    source = recogniser.read_source("It was two years ago that Angela Merkel, of Berlin, left.")
    texts = ["Two years ago Angela Merkel's party saw the Louvre", "nobody", "Paris and Paris"]
    rows = recogniser.entities(texts, [source] * 3)
    assert rows == [{"two years ago", "angela merkel", "louvre"}, set(), {"paris"}]
    assert [entity in source for entity in sorted(rows[0])] == [True, False, True]


def test_a_pipeline_is_loaded_once(pipeline):
    assert load_spacy(pipeline) is load_spacy(pipeline)


def test_a_pipeline_that_is_not_there():
    with pytest.raises(AttunementError, match=r"no_such: get one|python -m spacy download no_such"):
        load_spacy("no_such")


def test_a_pipeline_without_entities(tmp_path):
    pytest.importorskip("spacy").blank("en").to_disk(tmp_path / "empty")
    with pytest.raises(AttunementError, match="finds no entities"):
        load_spacy(str(tmp_path / "empty"))


def test_without_spacy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingExtraError, match=r"attunement\[faithfulness\]"):
        load_spacy("en_core_web_sm")


def test_an_installed_pipeline_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    for name in ("pytest", "pipeline"):  # pytest is installed, as a pipeline would be
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert located_pipeline("pytest") == "pytest"
    assert located_pipeline("pipeline") == str(tmp_path / "pipeline")
    assert located_pipeline("en_nowhere") == "en_nowhere"
