from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement import check_scorer
from attunement.core import AttunementError
from attunement.scorers import FileScorer, evaluate, lexicon, lexicon_share
from attunement.scorers.lexicons import covered, read_lexicon


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("Happy\n\nof course\nof course not\r\nüber\nd'accord\n", encoding="utf-8")
    return path


def score(scorer, samples):
    scores = evaluate(scorer, samples)
    pairs = zip(scores.values.tolist(), scores.applicable.tolist(), strict=True)
    return [value if applies else None for value, applies in pairs]


@pytest.mark.parametrize(
    ("text", "occurs", "share"),
    [
        ("HAPPY days", 1, 1 / 2),
        ("unhappy days", 0, 0),
        ("happy-go-lucky", 1, 1 / 3),
        ("happy's happy.", 1, 1),
        ("of course", 1, 1),
        ("of, course", 1, 1),
        ("of the course", 0, 0),
        ("of course not happy today", 1, 4 / 5),
        ("ÜBER u\u0308ber", 1, 1),
        ("D’accord?", 1, 1),
        ("", 0, None),
        ("?!", 0, None),
    ],
)
def test_words_of_a_list(make_samples, words, text, occurs, share):
    samples = make_samples([text], prompts=["happy"])
    assert score(lexicon(words), samples) == [occurs]
    assert score(lexicon_share(words), samples) == [share]


def test_name_and_path(words, monkeypatch):
    monkeypatch.chdir(words.parent)
    for make, name in ((lexicon, "lexicon"), (lexicon_share, "lexicon_share")):
        scorer = make("words.txt")
        assert isinstance(scorer, FileScorer)
        assert (scorer.name, scorer.path) == (f"{name}:words.txt", words.resolve())


@settings(deadline=None)
@given(text=st.lists(st.sampled_from("abc")), entries=st.sets(st.text("abc", min_size=1)))
def test_more_entries_never_cover_less(tmp_path_factory, text, entries):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    counts = []
    for kept in (entries, entries | {"a"}, entries | set("abc")):
        path.write_text("".join(" ".join(entry) + "\n" for entry in kept) or "z\n")
        counts.append(covered(text, read_lexicon(path)))
    single = text.count("a") if entries <= {"a"} else 0
    assert single <= counts[1]
    assert (counts[0] > 0) <= (counts[1] > 0)
    assert counts[2] == len(text)


@settings(deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=4))
def test_any_text_has_scores(make_samples, tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    path.write_text("a\nb c\n")
    samples = make_samples(texts)
    check_scorer(lexicon(path), samples)
    check_scorer(lexicon_share(path), samples)


@pytest.mark.parametrize(
    ("content", "message"), [("\n \n", "holds nothing"), ("a\n!!\n", r"line 2, has no word: '!!'")]
)
def test_a_file_that_is_no_list(tmp_path, content, message):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(AttunementError, match=message):
        lexicon(tmp_path / "list.txt")
