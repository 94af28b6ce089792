"""Words of a list in the completion: whether any occurs, and what share of the words they are.

A lexicon is a text file with a word or a phrase a line. Whole words are compared, in any script
that parts them, whatever their case; punctuation isn't looked at, a hyphen is as a space, and a
possessive 's doesn't count (see `words`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from attunement.core import AttunementError, Samples, Scores
from attunement.scorers.base import NamedScorer, as_scores
from attunement.scorers.files import FileScorer, read_lines
from attunement.scorers.words import lower_case, read_words

Lexicon: TypeAlias = Mapping[str, Sequence[Sequence[str]]]
"""First word to the entries that begin with it, the longest first."""


def lexicon(file: Path | str) -> FileScorer:
    """1 where any entry of a word list occurs in the completion, else 0.

    Args:
        file: The list, a word or a phrase a line.

    Raises:
        AttunementError: The file can't be read, or a line has no word.
    """
    name = f"lexicon:{file}"
    occurs = NamedScorer(name, partial(_occurs, entries=read_lexicon(Path(file))))
    return FileScorer(name, Path(file).resolve(), occurs)


def lexicon_share(file: Path | str) -> FileScorer:
    """The share of the completion's words that belong to an entry of a word list.

    Not applicable to a completion without words.

    Args:
        file: The list, a word or a phrase a line.

    Raises:
        AttunementError: The file can't be read, or a line has no word.
    """
    name = f"lexicon_share:{file}"
    share = NamedScorer(name, partial(_share, entries=read_lexicon(Path(file))))
    return FileScorer(name, Path(file).resolve(), share)


def _occurs(samples: Samples, entries: Lexicon) -> Tensor:
    found = [covered(lower_case(read_words(text)), entries) > 0 for text in samples.texts]
    return torch.tensor(found, dtype=torch.float64)


def _share(samples: Samples, entries: Lexicon) -> Scores:
    rows = [lower_case(read_words(text)) for text in samples.texts]
    return as_scores([covered(row, entries) / len(row) if row else None for row in rows])


def covered(words: Sequence[str], entries: Lexicon) -> int:
    """How many of the words belong to an entry; from left to right, the longest entry first."""
    count = position = 0
    while position < len(words):
        beginning = entries.get(words[position], ())
        fits = (e for e in beginning if list(words[position : position + len(e)]) == list(e))
        length = len(next(fits, ()))
        count += length
        position += max(1, length)
    return count


def read_lexicon(path: Path) -> Lexicon:
    """The entries of a word list's file.

    Raises:
        AttunementError: As `lexicon`.
    """
    entries: dict[str, list[list[str]]] = {}
    for number, line in read_lines(path):
        words = lower_case(read_words(line))
        if not words:
            raise AttunementError(f"{path}, line {number}, has no word: {line!r}")
        entries.setdefault(words[0], []).append(words)
    return {first: sorted(found, key=len, reverse=True) for first, found in entries.items()}
