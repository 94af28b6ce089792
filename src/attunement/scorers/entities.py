"""Named entities: by a rule that needs nothing but capitals and digits, or by a spaCy pipeline.

The rule, for scripts that have capitals:

- Every numeral is an entity, in its one form (see `words`).
- A word with a capital is a name, `I` and its contractions apart. A word that begins a sentence
  needs more than its first letter for that (`NATO`, `iPhone`), or must be a name inside a sentence
  of the source: a capital at the beginning of a sentence says nothing.
- Names parted by nothing but spaces, hyphens or an ampersand are one entity (`Angela Merkel`,
  `Franco-German`).

So a name that only ever begins sentences isn't seen (any dot before it counts as the end of one,
that of `U.S.` too), and German, which writes every noun with a capital, has an entity for every
noun.

An entity stands in a source where its words do, next to each other; punctuation between them
doesn't matter. For the rule, upper and lower case do (`Bush` is not `bush`, `US` is not `us`); for
a pipeline they don't, for it also finds phrases such as `two years ago`, which may begin a
sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Protocol

from attunement.core import AttunementError, MissingExtraError
from attunement.hub import first_line, located
from attunement.scorers.words import Word, joined, lower_case, read_words

if TYPE_CHECKING:
    from spacy.language import Language

_ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True)
class Source:
    """What entities are looked for in.

    Attributes:
        text: Its words as they are compared, joined.
        names: The words that are names inside its sentences.
    """

    text: str
    names: frozenset[str] = frozenset()

    def __contains__(self, entity: str) -> bool:
        return joined([entity]) in self.text


class Recogniser(Protocol):
    """Finds the entities of texts."""

    def read_source(self, text: str) -> Source:
        """A source, ready to be searched."""
        ...

    def entities(self, texts: Sequence[str], sources: Sequence[Source]) -> list[frozenset[str]]:
        """The different entities of each of N texts, beside the source of each."""
        ...


@dataclass(frozen=True)
class ByRule:
    """The rule of capitals and digits."""

    def read_source(self, text: str) -> Source:
        """The words of a source as they are written."""
        words = read_words(text)
        return Source(
            joined([word.text for word in words]),
            frozenset(word.text for word in words if _is_name(word, frozenset())),
        )

    def entities(self, texts: Sequence[str], sources: Sequence[Source]) -> list[frozenset[str]]:
        """The entities of each text; what begins a sentence is judged by its source."""
        pairs = zip(texts, sources, strict=True)
        return [frozenset(_entities(read_words(text), source.names)) for text, source in pairs]


@dataclass(frozen=True)
class BySpacy:
    """The entities that a spaCy pipeline finds, of all its labels.

    Attributes:
        pipeline: The pipeline; a name or a folder.
    """

    pipeline: Language

    def read_source(self, text: str) -> Source:
        """The words of a source in lower case."""
        return Source(joined(lower_case(read_words(text))))

    def entities(
        self,
        texts: Sequence[str],
        sources: Sequence[Source],  # noqa: ARG002
    ) -> list[frozenset[str]]:
        """The entities of each text, a leading article left out."""
        found = (
            (" ".join(lower_case(read_words(entity.text))) for entity in document.ents)
            for document in self.pipeline.pipe(texts)
        )
        return [frozenset(map(_without_article, filter(None, row))) for row in found]


def located_pipeline(name: str) -> str:
    """The absolute path of a spaCy pipeline's folder; the name where one of it is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return located(name)
    return name


@cache
def load_spacy(name: str) -> BySpacy:
    """A recogniser from the name or the folder of a spaCy pipeline; each is loaded once.

    Raises:
        MissingExtraError: spaCy isn't installed.
        AttunementError: There is no such pipeline, or it finds no entities.
    """
    try:
        import spacy
    except ImportError as error:
        raise MissingExtraError("finding entities by spaCy", "faithfulness") from error
    try:
        pipeline = spacy.load(name)
    except (OSError, ValueError) as error:
        raise AttunementError(
            f"there is no spaCy pipeline {name!r}: get one with python -m spacy download {name}, "
            f"or name a pipeline's folder ({first_line(error)})"
        ) from error
    finders = ("ner", "entity_ruler", "span_ruler")
    if not any(pipeline.get_pipe_meta(part).factory in finders for part in pipeline.pipe_names):
        raise AttunementError(
            f"the spaCy pipeline {name!r} finds no entities: it has {pipeline.pipe_names}"
        )
    return BySpacy(pipeline)


def _is_name(word: Word, known: frozenset[str]) -> bool:
    """Whether a word is a name; `known` are those that are names at the beginning of a sentence."""
    if word.numeral or word.text.startswith("I'") or word.text == "I":
        return False
    if word.inside:
        return any(character.isupper() for character in word.text)
    return word.text in known or any(character.isupper() for character in word.text[1:])


def _entities(words: Iterable[Word], known: frozenset[str]) -> list[str]:
    found: list[list[str]] = []
    open_name = False
    for word in words:
        is_name = _is_name(word, known)
        if is_name and open_name and word.joined:
            found[-1].append(word.text)
        elif is_name or word.numeral:
            found.append([word.text])
        open_name = is_name
    return [" ".join(entity) for entity in found]


def _without_article(entity: str) -> str:
    article = next((word for word in _ARTICLES if entity.startswith(word)), "")
    return entity.removeprefix(article)
