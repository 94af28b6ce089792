from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attunement import check_scorer
from attunement.core import AttunementError
from attunement.scorers import (
    entities_in_source,
    entities_in_source_share,
    evaluate,
    identifiers_in_source,
    identifiers_in_source_share,
)
from attunement.scorers.faithfulness import identifiers

lazy = settings(deadline=None)

ARTICLE = (
    "Angela Merkel met Emmanuel Macron in Paris on Monday. France and Germany want 1,000 more "
    "trains by 2030, the Franco-German council said. Macron's office called it historic."
)
FUNCTION = (
    "def read_rows(path, limit=None):\n    rows = parseFile(path)\n    return rows[:limit].sort()\n"
)

WORDS = ["Paris", "Rome", "NATO", "sees", "old", "rain", "iPhone", "1,000", "2.5", "7", "I", "U.S."]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(
    lambda words: f"{words[0][0].upper()}{' '.join(words)[1:]}."
)
names = st.from_regex(r"[A-Z][a-z]{3,8}", fullmatch=True)


def score(scorer, samples):
    scores = evaluate(scorer, samples)
    pairs = zip(scores.values.tolist(), scores.applicable.tolist(), strict=True)
    return [value if applies else None for value, applies in pairs]


@pytest.mark.parametrize(
    ("summary", "kept", "share"),
    [
        ("The chancellor, Angela Merkel, was in Paris.", 1, 1),
        ("The chancellor, Angela Merkel, was in Rome.", 0, 1 / 2),
        ("They want 1000 trains by 2030", 1, 1),
        ("They want 1000 trains by 2031", 0, 1 / 2),
        ("They met.", 1, None),
        ("", 1, None),
        ("Said by Emmanuel Merkel", 0, 0),
        ("A Franco-German plan for France's trains, from France", 1, 1),
    ],
)
def test_a_summary(make_samples, summary, kept, share):
    samples = make_samples([summary], prompts=[ARTICLE])
    assert score(entities_in_source(), samples) == [kept]
    assert score(entities_in_source_share(), samples) == [share]


def test_a_minimum_of_different_entities(make_samples):
    texts = ["It names Merkel, Macron, Paris and France", "It names Merkel, Merkel, Paris, France"]
    samples = make_samples([*texts, ""], prompts=[ARTICLE] * 3)
    assert score(entities_in_source(minimum=4), samples) == [1, 0, 0]
    assert score(entities_in_source(minimum=3), samples) == [1, 1, 0]


def test_the_source_may_be_a_column(make_samples):
    samples = make_samples(
        ["It names Rome", "It names Paris"],
        prompts=["Tell of Rome", "Tell of Rome"],
        columns=[{"article": ARTICLE}] * 2,
    )
    assert score(entities_in_source(), samples) == [1, 0]
    assert score(entities_in_source(column="article"), samples) == [0, 1]
    with pytest.raises(AttunementError, match=r"entities_in_source:column=text reads its source"):
        score(entities_in_source(column="text"), samples)


def test_entities_by_spacy(make_samples, tmp_path):
    made = pytest.importorskip("spacy").blank("en")
    patterns = [{"label": "NAME", "pattern": name} for name in ("merkel", "Rome")]
    made.add_pipe("entity_ruler").add_patterns(patterns)
    made.to_disk(tmp_path / "names")
    folder = str(tmp_path / "names")
    samples = make_samples(["it was merkel", "Rome", "Oslo"], prompts=[ARTICLE] * 3)
    assert score(entities_in_source(spacy=folder), samples) == [1, 0, 1]
    assert score(entities_in_source_share(spacy=folder), samples) == [1, 0, None]
    assert entities_in_source(spacy=folder).name == f"entities_in_source:spacy={folder}"


def test_a_name_says_every_setting():
    assert entities_in_source().name == "entities_in_source"
    made = entities_in_source(minimum=4, column="a")
    assert made.name == "entities_in_source:column=a,minimum=4"
    assert identifiers_in_source(minimum=1).name == "identifiers_in_source:minimum=1"


@lazy
@given(source=st.lists(sentences, min_size=1), data=st.data())
def test_a_sentence_of_the_source_is_faithful(make_samples, source, data):
    chosen = data.draw(st.lists(st.sampled_from(source), min_size=1))
    samples = make_samples([" ".join(chosen)], prompts=[" ".join(source)])
    assert score(entities_in_source(), samples) == [1]
    assert score(entities_in_source_share(), samples) in ([1], [None])


@lazy
@given(source=st.lists(sentences, min_size=1), stranger=names, data=st.data())
def test_a_name_that_the_source_lacks_is_not_faithful(make_samples, source, stranger, data):
    words = data.draw(st.sampled_from(source)).removesuffix(".").split()
    at = data.draw(st.integers(1, len(words)))
    assume(words[at - 1] != "U.S." and stranger not in WORDS)
    text = " ".join([*words[:at], stranger, *words[at:]])
    samples = make_samples([text], prompts=[" ".join(source)])
    assert score(entities_in_source(), samples) == [0]
    share = score(entities_in_source_share(), samples)[0]
    assert share is not None
    assert share < 1


@lazy
@given(rows=st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=1, max_size=4))
def test_any_text_has_scores(make_samples, rows):
    texts, prompts = zip(*rows, strict=True)
    samples = make_samples(texts, prompts=[f"In {prompt}" for prompt in prompts])
    pairs = (
        (entities_in_source(), entities_in_source_share()),
        (identifiers_in_source(), identifiers_in_source_share()),
    )
    for binary, share in pairs:
        check_scorer(binary, samples)
        check_scorer(share, samples)
        kept, shares = evaluate(binary, samples), evaluate(share, samples)
        assert kept.applicable.all()
        assert torch.equal(kept.values == 1, (shares.values == 1) | ~shares.applicable)


# --- identifiers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("Return the rows of a file.", set()),
        ("Return `rows` of ``path`` or ``None``.", {"rows", "path"}),
        ("Return `rows[:limit]`.", {"rows", "limit"}),
        ("See read_rows, __init__ and parseFile.", {"read_rows", "__init__", "parseFile"}),
        ("Raises ValueError, not HTTPError, in NumPy.", {"ValueError", "NumPy"}),
        ("Call sort() or rows.sort(key).", {"sort"}),
        ("The file(s) and class(es), if (any).", set()),
        ("a ____ b _ c", set()),
        ("unclosed `quote", set()),
    ],
)
def test_what_looks_like_an_identifier(text, expected):
    assert identifiers(text) == expected


@pytest.mark.parametrize(
    ("docstring", "kept", "share"),
    [
        ("Read `rows` from `path`, at most `limit`.", 1, 1),
        ("Read `rows` from `file`.", 0, 1 / 2),
        ("Call parseFile(path) and sort().", 1, 1),
        ("Call parse_file.", 0, 0),
        ("Read `row`.", 0, 0),
        ("Read them.", 1, None),
    ],
)
def test_a_docstring(make_samples, docstring, kept, share):
    samples = make_samples([docstring], prompts=[FUNCTION])
    assert score(identifiers_in_source(), samples) == [kept]
    assert score(identifiers_in_source_share(), samples) == [share]


def test_a_minimum_of_different_identifiers(make_samples):
    samples = make_samples(["`rows` and `rows`", "`rows` of `path`"], prompts=[FUNCTION] * 2)
    assert score(identifiers_in_source(minimum=2), samples) == [0, 1]


@lazy
@given(words=st.lists(st.sampled_from(["rows", "path", "read_rows", "parseFile", "the", "of"])))
def test_quoting_the_function_is_faithful(make_samples, words):
    text = " ".join(f"`{word}`" if word.isalpha() else word for word in words if len(word) > 3)
    assert score(identifiers_in_source(), make_samples([text], prompts=[FUNCTION])) == [1]
    text += " and `stranger`"
    assert score(identifiers_in_source(), make_samples([text], prompts=[FUNCTION])) == [0]
