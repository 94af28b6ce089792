from __future__ import annotations

import shutil
from hashlib import sha256

import pytest

from attunement.core import AttunementError
from attunement.scorers import FileScorer, copy_files, evaluate, file_hashes, scorers_of
from attunement.scorers.specs import parse_scorer


@pytest.fixture
def specs(tmp_path):
    """A SPEC of each kind that reads a user's file, and one that reads none."""
    (tmp_path / "mine.py").write_text("def short(texts):\n    return [len(t) < 3 for t in texts]\n")
    (tmp_path / "terms.tsv").write_text("a\tb\n")
    (tmp_path / "words.txt").write_text("b\n")
    return [
        f"{tmp_path / 'mine.py'}:short",
        f"glossary:{tmp_path / 'terms.tsv'},column=text",
        f"lexicon:{tmp_path / 'words.txt'}",
        f"lexicon_share:{tmp_path / 'words.txt'}",
        "length",
    ]


def save(specs, run):
    run.mkdir()
    scorers = [parse_scorer(spec) for spec in specs]
    copy_files(scorers, run)
    return file_hashes(scorers)


def test_copies_serve_where_the_files_have_gone(tmp_path, specs, make_samples):
    hashes = save(specs, tmp_path / "run")
    assert list(hashes) == specs[:-1]
    assert hashes[specs[2]] == hashes[specs[3]] == sha256(b"b\n").hexdigest()
    names = sorted(path.name.partition("_")[2] for path in (tmp_path / "run/scorers").iterdir())
    assert names == ["mine.py", "terms.tsv", "words.txt"]
    samples = make_samples(["ab b", "b", "c"], columns=[{"text": "a"}] * 3)
    expected = [evaluate(parse_scorer(spec), samples).values.tolist() for spec in specs]
    for name in names:
        (tmp_path / name).unlink()
    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    scorer_of = scorers_of(tmp_path / "elsewhere", hashes)
    found = [evaluate(scorer_of(spec), samples).values.tolist() for spec in specs]
    assert found == expected
    assert [scorer_of(spec).name for spec in specs] == specs
    assert moved


def test_a_copy_of_a_copy_has_the_same_name(tmp_path, specs):
    hashes = save(specs, tmp_path / "first")
    scorer_of = scorers_of(tmp_path / "first", hashes)
    again = [scorer_of(spec) for spec in specs]
    (tmp_path / "second").mkdir()
    copy_files(again, tmp_path / "second")
    assert file_hashes(again) == hashes
    first, second = (
        sorted(path.name for path in (tmp_path / run / "scorers").iterdir())
        for run in ("first", "second")
    )
    assert first == second
    assert all(isinstance(scorer, FileScorer) for scorer in again[:-1])


def test_nothing_is_made_where_no_file_is_read(tmp_path):
    assert save(["length"], tmp_path / "run") == {}
    assert list((tmp_path / "run").iterdir()) == []


def test_of_several_processes_the_main_one_copies(tmp_path, specs, monkeypatch):
    monkeypatch.setattr("attunement.processes.is_main", lambda: False)
    assert save(specs, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_copy_that_has_changed_or_gone_is_an_error(tmp_path, specs):
    hashes = save(specs, tmp_path / "run")
    scorer_of = scorers_of(tmp_path / "run", hashes)
    copy = next((tmp_path / "run/scorers").glob("*terms.tsv"))
    copy.write_text("a\tc\n")
    with pytest.raises(AttunementError, match=r"terms\.tsv,column=text reads has changed: put the"):
        scorer_of(specs[1])
    copy.unlink()
    with pytest.raises(AttunementError, match=r"terms\.tsv,column=text reads is gone: put"):
        scorer_of(specs[1])
