"""Whether a translation keeps its source's terms: numerals, and a glossary.

Terminology consistency is a task of "Controlling conditional language models without catastrophic
forgetting" (arXiv 2112.00791), there for numerals: every numeral of the source stands in the
translation. Numerals are compared in one form (`words`), so that `1,000.5` is kept by `1.000,5`;
number words aren't read. Where the source has no numeral, or no term of the glossary, there is
nothing to keep and the scorer isn't applicable.

A glossary is a file of source terms with what they may become:

    terms.tsv      house TAB maison TAB demeure
    terms.jsonl    {"source": "house", "target": ["maison", "demeure"]}

Wherever a source term occurs in the source, one of its target terms must occur in the completion:
as whole words next to each other, whatever their case and the punctuation between them. Inflected
forms are terms of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

from attunement.core import AttunementError, Samples, Scores
from attunement.scorers.base import NamedScorer, as_scores
from attunement.scorers.files import FileScorer, read_lines
from attunement.scorers.settings import spec_of
from attunement.scorers.sources import read_sources
from attunement.scorers.words import joined, lower_case, numerals, read_words

Glossary: TypeAlias = Mapping[str, frozenset[str]]
"""Source term to target terms, each as a joined phrase in lower case."""


def _kept(
    samples: Samples, name: str, column: str | None, value: Callable[[list[bool]], float]
) -> Scores:
    sources = read_sources(name, samples, column, numerals)
    completions = map(numerals, samples.texts)
    rows = [
        [numeral in completion for numeral in source]
        for source, completion in zip(sources, completions, strict=True)
    ]
    return as_scores([value(row) if row else None for row in rows])


def _share(row: list[bool]) -> float:
    return sum(row) / len(row)


def numerals_kept(*, column: str | None = None) -> NamedScorer:
    """1 where every numeral of the source stands in the completion, else 0.

    Args:
        column: The column that holds the source; the prompt where None.
    """
    name = spec_of("numerals_kept", [("column", column)])
    return NamedScorer(name, partial(_kept, name=name, column=column, value=all))


def numerals_kept_share(*, column: str | None = None) -> NamedScorer:
    """The share of the source's different numerals that stand in the completion.

    Args:
        column: The column that holds the source; the prompt where None.
    """
    name = spec_of("numerals_kept_share", [("column", column)])
    return NamedScorer(name, partial(_kept, name=name, column=column, value=_share))


def glossary(file: Path | str, *, column: str | None = None) -> FileScorer:
    """1 where every term of a glossary that the source has is translated as it says, else 0.

    Args:
        file: The glossary: JSONL where its name ends in .jsonl, else TSV.
        column: The column that holds the source; the prompt where None.

    Raises:
        AttunementError: The file can't be read, or a line is no term with what it may become.
    """
    path = Path(file)
    name = f"glossary:{file}" if column is None else f"glossary:{file},column={column}"
    terms = read_glossary(path)
    keeps = NamedScorer(name, partial(_translated, name=name, column=column, terms=terms))
    return FileScorer(name, path.resolve(), keeps)


def _translated(samples: Samples, name: str, column: str | None, terms: Glossary) -> Scores:
    def wanted(source: str) -> list[frozenset[str]]:
        text = joined(lower_case(read_words(source)))
        return [targets for term, targets in terms.items() if term in text]

    sources = read_sources(name, samples, column, wanted)
    completions = [joined(lower_case(read_words(text))) for text in samples.texts]
    rows = [
        [any(term in completion for term in targets) for targets in source]
        for source, completion in zip(sources, completions, strict=True)
    ]
    return as_scores([all(row) if row else None for row in rows])


def read_glossary(path: Path) -> Glossary:
    """The terms of a glossary's file; what several lines say of one term is taken together.

    Raises:
        AttunementError: As `glossary`.
    """
    terms: dict[str, frozenset[str]] = {}
    for number, line in read_lines(path):
        where = f"{path}, line {number},"
        entries = _of_json(where, line) if path.suffix == ".jsonl" else line.split("\t")
        phrases = [joined(lower_case(read_words(entry))) for entry in _filled(where, entries)]
        terms[phrases[0]] = terms.get(phrases[0], frozenset()) | frozenset(phrases[1:])
    return terms


def _of_json(where: str, line: str) -> list[str]:
    try:
        row = json.loads(line)
        target = row["target"]
        entries = [row["source"], *(target if isinstance(target, list) else [target])]
    except (ValueError, KeyError, TypeError) as error:
        raise AttunementError(
            f'{where} is not {{"source": term, "target": term or list of terms}}: {error}'
        ) from error
    if not all(isinstance(entry, str) for entry in entries):
        raise AttunementError(f"{where} has a term that is no text")
    return entries


def _filled(where: str, entries: list[str]) -> Iterator[str]:
    """The entries of a line, once it is known that each has a word and that there are two."""
    if len(entries) < 2:
        raise AttunementError(
            f"{where} has no target term: write the source term, a tab and its translation"
        )
    for entry in entries:
        if not read_words(entry):
            raise AttunementError(f"{where} has a term without a word or a numeral: {entry!r}")
        yield entry
