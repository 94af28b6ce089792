"""Whether a completion keeps to its source: named entities, and identifiers of code.

A faithful summary names nothing that its source doesn't: NER(x) ⊆ NER(c), with at least four
entities so that saying nothing isn't a way out, is the constraint of "Controlling conditional
language models without catastrophic forgetting" (arXiv 2112.00791):
`entities_in_source:minimum=4`. Here an entity of the completion must stand in the text of the
source, whether or not a recogniser would find it there. What an entity is says `entities`.

For code, a docstring is held against its function: what is written like an identifier must occur
there. That is a word in backquotes, in snake_case or camelCase, or before an opening bracket
(`open(`, but not `file(s)`); keywords such as `None` don't count. It reads the whole completion, so
let that end with the docstring, by a stop at its closing quotes.

Each has two forms. The first is 1 or 0, for constraints: everything named stands in the source, and
there are `minimum` different ones at least; where nothing is named it is 1, for the empty set lies
in every other, unless a minimum is asked for. The second is the share of the different ones that
stand in the source, not applicable where nothing is named.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from attunement.core import Samples, Scores
from attunement.scorers.base import NamedScorer, as_scores
from attunement.scorers.entities import ByRule, Recogniser, load_spacy
from attunement.scorers.settings import spec_of
from attunement.scorers.sources import read_sources

Found: TypeAlias = list[list[bool]]
"""For each sample, for each thing that it names, whether that stands in the source."""

_BACKQUOTED = re.compile(r"(?<!`)`++([^`]++)`++")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_PLURAL = re.compile(r"\(e?s\)")


def _all_found(samples: Samples, find: Callable[[Samples], Found], minimum: int) -> Tensor:
    rows = [all(row) and len(row) >= minimum for row in find(samples)]
    return torch.tensor(rows, dtype=torch.float64)


def _share_found(samples: Samples, find: Callable[[Samples], Found]) -> Scores:
    return as_scores([sum(row) / len(row) if row else None for row in find(samples)])


def _find_entities(
    samples: Samples, name: str, column: str | None, recogniser: Recogniser
) -> Found:
    sources = read_sources(name, samples, column, recogniser.read_source)
    rows = zip(recogniser.entities(samples.texts, sources), sources, strict=True)
    return [[entity in source for entity in entities] for entities, source in rows]


def _find_identifiers(samples: Samples, name: str, column: str | None) -> Found:
    sources = read_sources(name, samples, column, lambda text: set(_IDENTIFIER.findall(text)))
    rows = zip(map(identifiers, samples.texts), sources, strict=True)
    return [[identifier in source for identifier in found] for found, source in rows]


def identifiers(text: str) -> frozenset[str]:
    """The different words of a text that are written like identifiers of code."""
    quoted = [name for part in _BACKQUOTED.findall(text) for name in _IDENTIFIER.findall(part)]
    written = [match[0] for match in _IDENTIFIER.finditer(text) if _looks_like_code(match)]
    return frozenset(name for name in (*quoted, *written) if not keyword.iskeyword(name))


def _looks_like_code(match: re.Match[str]) -> bool:
    name, text, end = match[0], match.string, match.end()
    snake = "_" in name and any(character.isalnum() for character in name)
    camel = any(first.islower() and second.isupper() for first, second in pairwise(name))
    return snake or camel or (text[end : end + 1] == "(" and not _PLURAL.match(text, end))


def entities_in_source(
    *, column: str | None = None, minimum: int = 0, spacy: str | None = None
) -> NamedScorer:
    """1 where every named entity of the completion stands in the source, else 0.

    Args:
        column: The column that holds the source; the prompt where None.
        minimum: Different entities that a completion must name besides.
        spacy: The spaCy pipeline that finds entities, e.g. `en_core_web_sm`; the rule where None.

    Raises:
        AttunementError: The pipeline isn't there, or spaCy isn't.
    """
    settings = (("column", column), ("minimum", minimum), ("spacy", spacy))
    name = spec_of("entities_in_source", settings)
    recogniser = ByRule() if spacy is None else load_spacy(spacy)
    find = partial(_find_entities, name=name, column=column, recogniser=recogniser)
    return NamedScorer(name, partial(_all_found, find=find, minimum=minimum))


def entities_in_source_share(*, column: str | None = None, spacy: str | None = None) -> NamedScorer:
    """The share of the completion's named entities that stand in the source.

    Args:
        column: The column that holds the source; the prompt where None.
        spacy: The spaCy pipeline that finds entities; the rule where None.

    Raises:
        AttunementError: The pipeline isn't there, or spaCy isn't.
    """
    name = spec_of("entities_in_source_share", (("column", column), ("spacy", spacy)))
    recogniser = ByRule() if spacy is None else load_spacy(spacy)
    find = partial(_find_entities, name=name, column=column, recogniser=recogniser)
    return NamedScorer(name, partial(_share_found, find=find))


def identifiers_in_source(*, column: str | None = None, minimum: int = 0) -> NamedScorer:
    """1 where every identifier that the completion names stands in the source, else 0.

    Args:
        column: The column that holds the source; the prompt where None.
        minimum: Different identifiers that a completion must name besides.
    """
    name = spec_of("identifiers_in_source", (("column", column), ("minimum", minimum)))
    find = partial(_find_identifiers, name=name, column=column)
    return NamedScorer(name, partial(_all_found, find=find, minimum=minimum))


def identifiers_in_source_share(*, column: str | None = None) -> NamedScorer:
    """The share of the identifiers that the completion names that stand in the source.

    Args:
        column: The column that holds the source; the prompt where None.
    """
    name = spec_of("identifiers_in_source_share", (("column", column),))
    find = partial(_find_identifiers, name=name, column=column)
    return NamedScorer(name, partial(_share_found, find=find))
