from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement import check_scorer
from attunement.core import AttunementError
from attunement.scorers import (
    FileScorer,
    evaluate,
    glossary,
    numerals_kept,
    numerals_kept_share,
)

lazy = settings(deadline=None)


def score(scorer, samples):
    scores = evaluate(scorer, samples)
    pairs = zip(scores.values.tolist(), scores.applicable.tolist(), strict=True)
    return [value if applies else None for value, applies in pairs]


@pytest.mark.parametrize(
    ("source", "translation", "kept", "share"),
    [
        ("In 1984, 1,000.5 tons", "1984 waren es 1.000,5 Tonnen", 1, 1),
        ("In 1984, 1,000 tons", "1984 waren es Tonnen", 0, 1 / 2),
        ("3 of 3", "drei von drei", 0, 0),
        ("no number", "3", None, None),
        ("the 1990s", "die 1990er", 1, 1),
        ("on 4 May", "am 4. Mai", 1, 1),
        ("at 10:30", "um 10.30 Uhr", 0, 0),
    ],
)
def test_numerals(make_samples, source, translation, kept, share):
    samples = make_samples([translation], prompts=[source])
    assert score(numerals_kept(), samples) == [kept]
    assert score(numerals_kept_share(), samples) == [share]


@lazy
@given(numbers=st.lists(st.integers(0, 10**7), min_size=1), data=st.data())
def test_dropping_a_numeral_is_seen(make_samples, numbers, data):
    source = " and ".join(f"{number:,}" for number in numbers)
    kept = data.draw(st.lists(st.sampled_from(numbers)))
    text = " und ".join(f"{number:,}".replace(",", ".") for number in kept)
    samples = make_samples([text], prompts=[source])
    share = len(set(kept)) / len(set(numbers))
    assert score(numerals_kept_share(), samples) == [pytest.approx(share)]
    assert score(numerals_kept(), samples) == [float(set(kept) == set(numbers))]


def test_the_source_may_be_a_column(make_samples):
    samples = make_samples(["7"], prompts=["Translate 2 lines"], columns=[{"text": "7"}])
    assert score(numerals_kept(), samples) == [0]
    assert score(numerals_kept(column="text"), samples) == [1]
    assert numerals_kept(column="text").name == "numerals_kept:column=text"
    assert numerals_kept_share(column="text").name == "numerals_kept_share:column=text"


@pytest.fixture
def terms(tmp_path):
    path = tmp_path / "terms.tsv"
    rows = "house\tmaison\tdemeure\n\nriver bank\trive\r\nhouse\tlogis\nthe U.S.\tÉtats-Unis\n"
    path.write_text(rows, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("source", "translation", "kept"),
    [
        ("a house", "une maison", 1),
        ("a HOUSE", "cette Demeure!", 1),
        ("a house", "un logis", 1),
        ("a house", "un toit", 0),
        ("the house's roof", "le toit", 0),
        ("a boathouse", "un toit", None),
        ("the houses", "les toits", None),
        ("a house by the river bank", "une maison", 0),
        ("a house by the river-bank", "une maison sur la rive", 1),
        ("the river, the bank", "le fleuve", None),
        ("from the US", "des États Unis", 1),
        ("from the US", "des etats unis", 0),
    ],
)
def test_a_glossary(make_samples, terms, source, translation, kept):
    samples = make_samples([translation], prompts=[source])
    assert score(glossary(terms), samples) == [kept]


def test_a_glossary_may_be_jsonl_and_its_source_a_column(make_samples, tmp_path):
    path = tmp_path / "terms.jsonl"
    path.write_text(
        '{"source": "house", "target": ["maison", "demeure"]}\n{"source": "dog", "target": "chien"}'
    )
    columns = [{"text": "a dog"}, {"text": "a house"}]
    samples = make_samples(["un chien", "un chien"], columns=columns)
    scorer = glossary(path, column="text")
    assert score(scorer, samples) == [1, 0]
    assert isinstance(scorer, FileScorer)
    assert (scorer.name, scorer.path) == (f"glossary:{path},column=text", path)


@lazy
@given(rows=st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=1, max_size=4))
def test_any_text_has_scores(make_samples, tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "terms.tsv"
    path.write_text("a\tb\n1\t2\n")
    texts, prompts = zip(*rows, strict=True)
    samples = make_samples(texts, prompts=[f"a {prompt}" for prompt in prompts])
    for scorer in (numerals_kept(), numerals_kept_share(), glossary(path)):
        check_scorer(scorer, samples)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", r"a.tsv holds nothing: it is empty"),
        ("a.tsv", "house\n", r"a.tsv, line 1, has no target term: write the source term, a tab"),
        ("a.tsv", "house\tmaison\ndog\t\n", r"a.tsv, line 2, has a term without a word"),
        ("a.tsv", "\t\tmaison\n", r"a.tsv, line 1, has a term without a word"),
        ("a.tsv", b"\xff\n", r"can't read .*a.tsv: it is no text in UTF-8"),
        ("a.jsonl", "house\tmaison\n", r'a.jsonl, line 1, is not {"source": term'),
        ("a.jsonl", '{"source": "house"}\n', r"a.jsonl, line 1, is not .*'target'"),
        ("a.jsonl", '{"source": "house", "target": []}\n', r"a.jsonl, line 1, has no target term"),
        (
            "a.jsonl",
            '{"source": "house", "target": 3}\n',
            r"a.jsonl, line 1, has a term that is no",
        ),
        ("a.jsonl", "[]\n", r"a.jsonl, line 1, is not"),
    ],
)
def test_a_file_that_is_no_glossary(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AttunementError, match=message):
        glossary(path)


def test_a_glossary_that_is_not_there(tmp_path):
    with pytest.raises(AttunementError, match=r"can't read .*absent.tsv: No such file"):
        glossary(tmp_path / "absent.tsv")
