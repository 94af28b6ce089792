from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.scorers.words import joined, lower_case, numerals, read_numeral, read_words

lazy = settings(deadline=None)


def texts_of(text: str) -> list[str]:
    return [word.text for word in read_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Franco-German talks", ["Franco", "German", "talks"]),
        ("the U.S. and the U.S.A.", ["the", "US", "and", "the", "USA"]),
        ("Obama's, O'Neill’s and the Joneses'", ["Obama", "O'Neill", "and", "the", "Joneses"]),
        ("don't and don’t", ["don't", "and", "don't"]),
        ("OBAMA'S", ["OBAMA"]),
        ("B2B, H2O and snake_case", ["B2B", "H2O", "and", "snake", "case"]),
        ("the 21st, 5km, 1980s and 3D", ["the", "21", "5", "1980", "and", "3"]),
        ("Cafe\u0301 Ünal Ελλάδα", ["Café", "Ünal", "Ελλάδα"]),
        ("end.Then a.b", ["end", "Then", "ab"]),
        ("COVID-19", ["COVID", "19"]),
    ],
)
def test_words(text, expected):
    assert texts_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000", ["1000"]),
        ("1,000", ["1000"]),
        ("1.000", ["1000"]),
        ("1'000", ["1000"]),
        ("1\u202f000\u202f000", ["1000000"]),
        ("1,234.56", ["1234.56"]),
        ("1.234,56", ["1234.56"]),
        ("3.5", ["3.5"]),
        ("3,50", ["3.5"]),
        ("7.0", ["7"]),
        ("007", ["7"]),
        ("0.125", ["0.125"]),
        ("3.142", ["3142"]),
        ("1234,567", ["1234.567"]),
        ("12.05.2026", ["12", "5", "2026"]),
        ("1,2,3", ["1", "2", "3"]),
        ("2.10.1", ["2", "10", "1"]),
        ("5\u00a06", ["5", "6"]),
        ("0", ["0"]),
        ("٣٫٥", ["3", "5"]),
        ("١٩٨٤", ["1984"]),
    ],
)
def test_a_numeral_has_one_form(text, expected):
    assert read_numeral(text) == expected


@lazy
@given(number=st.integers(0, 10**12), separator=st.sampled_from([",", ".", "'", "’", "\u202f"]))
def test_separators_of_thousands_do_not_matter(number, separator):
    written = f"{number:,}".replace(",", separator)
    assert numerals(f"about {written} of them.") == {str(number)}


@lazy
@given(whole=st.integers(0, 10**9), decimals=st.integers(0, 99))
def test_a_decimal_is_read_in_both_ways_of_writing(whole, decimals):
    english = f"{whole:,}.{decimals:02d}"
    german = english.translate(str.maketrans(",.", ".,"))
    assert numerals(english) == numerals(german) == {f"{whole + decimals / 100:.12g}"}


@lazy
@given(text=st.text())
def test_any_text_has_words(text):
    words = read_words(text)
    assert all(word.text and " " not in word.text for word in words)
    assert not words or not (words[0].inside or words[0].joined)
    assert all(word.inside for word in words if word.joined)
    assert numerals(text) == {word.text for word in words if word.numeral}


@lazy
@given(text=st.text(st.sampled_from("aB1.,'’-&\n é٣²"), max_size=60))
def test_words_read_again_are_the_same(text):
    words = texts_of(text)
    assert texts_of("\n".join(words)) == words


def test_a_text_of_many_digits_is_read():
    assert numerals("9" * 20_000) == {"9" * 20_000}


def test_what_stands_inside_a_sentence():
    words = read_words('One, two (three) four-five "six". Seven\neight & nine: 10 eleven')
    assert [w.text for w in words if not w.inside] == ["One", "four", "six", "Seven", "eight", "10"]
    assert [w.text for w in words if w.joined] == ["five", "nine", "eleven"]


def test_a_phrase_stands_in_a_text_as_whole_words():
    text = joined(lower_case(read_words("The White House's lawn, at 10,000 m")))
    for phrase in (["white", "house"], ["lawn", "at", "10000"], ["the"]):
        assert joined(phrase) in text
    assert joined(["hite", "house"]) not in text
    assert joined(["house", "white"]) not in text
