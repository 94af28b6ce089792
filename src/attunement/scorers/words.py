"""Words and numerals of a text, in one form whatever the way they were written.

A word is a run of letters, and of digits after the first letter. Hyphens part words
(`Franco-German` is two), dots inside an acronym vanish (`U.S.` is `US`), and so does a possessive
's. A numeral is the number that digits stand for: separators of thousands go, the separator of
decimals is a dot, and zeros that add nothing go. So `1,000`, `1.000`, `1'000` and `1000` are one
numeral, and so are `3,5`, `3.5` and `3.50`. Digits that are no such number, as in a date or a
version, are one numeral for each run of them. Where a single separator is followed by three
digits it is taken for one of thousands (`3.142` is 3142), as it would be in one of the two
languages of a translation; `0.125` can only be a decimal. Letters behind digits (`21st`, `5km`)
are left out; a sign, a unit and a number in words aren't read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<numeral> (?<!\w) \d+ (?: [.,'’\u00a0\u2009\u202f] \d+ )* ) [^\W\d_]*
  | (?P<acronym> (?<!\w) (?: [^\W\d_] \. )+ [^\W\d_] (?! \w ) )
  | (?P<word> [^\W\d_] [^\W_]* (?: ['’] [^\W\d_]+ )* )
    """,
    re.VERBOSE,
)
_GROUPED = re.compile(
    r"""
    ([1-9]\d{0,2} ([.,'’\u00a0\u2009\u202f]) \d{3} (?: \2 \d{3} )* )  # thousands
    (?: (?!\2) [.,] (\d+) )?                                          # decimals
    """,
    re.VERBOSE,
)
_DECIMAL = re.compile(r"(\d+) (?: [.,] (\d+) )?", re.VERBOSE)
_POSSESSIVE = re.compile(r"['’][sS]$")
_INSIDE = frozenset(" \t\u00a0\u2009\u202f,/&(-\u2010\u2011\u2013'’")
_JOINING = frozenset(" \t\u00a0\u2009\u202f&-\u2010\u2011")


class Word(NamedTuple):
    """A word or a numeral of a text.

    Attributes:
        text: The word, upper and lower case kept, or the numeral in its one form.
        numeral: Whether it is a numeral.
        inside: Whether a word stands before it in the same sentence: nothing but spaces, commas,
            hyphens, slashes, opening brackets or apostrophes lies between.
        joined: Whether nothing but spaces, hyphens or an ampersand parts it from the one before.
    """

    text: str
    numeral: bool
    inside: bool
    joined: bool


def read_words(text: str) -> list[Word]:
    """The words and numerals of a text, in order."""
    text = unicodedata.normalize("NFC", text)
    found: list[Word] = []
    end = 0
    for match in _TOKEN.finditer(text):
        gap = set(text[end : match.start()])
        inside, joined = bool(found) and gap <= _INSIDE, bool(found) and gap <= _JOINING
        end = match.end()
        if match["numeral"] is None:
            found.append(Word(_written_alike(match[0]), False, inside, joined))
            continue
        for part in read_numeral(match["numeral"]):
            found.append(Word(part, True, inside, joined))
            inside = joined = True
    return found


def read_numeral(text: str) -> list[str]:
    """The numerals in digits and the separators between them: one, or one a run of digits."""
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    if grouped := _GROUPED.fullmatch(text):
        whole = "".join(filter(str.isdecimal, grouped[1]))
        return [_number(whole, grouped[3])]
    if decimal := _DECIMAL.fullmatch(text):
        return [_number(decimal[1], decimal[2])]
    return [_number(run, None) for run in re.findall(r"\d+", text)]


def _number(whole: str, decimals: str | None) -> str:
    whole, decimals = whole.lstrip("0") or "0", (decimals or "").rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def _written_alike(word: str) -> str:
    return _POSSESSIVE.sub("", word).replace(".", "").replace("’", "'")


def numerals(text: str) -> frozenset[str]:
    """The different numerals of a text."""
    return frozenset(word.text for word in read_words(text) if word.numeral)


def lower_case(words: Iterable[Word]) -> list[str]:
    """Words as they are compared where case doesn't matter."""
    return [word.text.casefold() for word in words]


def joined(words: Sequence[str]) -> str:
    """A phrase, or a whole text, such that a phrase stands in a text if its string does."""
    return f" {' '.join(words)} "
