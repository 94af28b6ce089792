"""Scorers by name: the grammar that the command line, recipes and Python share.

    SPEC = name | name:argument (first colon) | file.py:function

Settings stand at the end of an argument (`settings`). A scorer's `name` is its SPEC, so what a
recipe stores builds the scorer again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from attunement.core import AttunementError, Scorer
from attunement.hub import located
from attunement.scorers.base import NamedScorer, suggestion
from attunement.scorers.classifiers import classifier, sentiment, toxicity
from attunement.scorers.code import (
    ast_nodes,
    compiles,
    has_docstring,
    has_return_annotation,
    pep8_per_character,
    pep8_per_line,
    uses_name,
)
from attunement.scorers.entities import located_pipeline
from attunement.scorers.faithfulness import (
    entities_in_source,
    entities_in_source_share,
    identifiers_in_source,
    identifiers_in_source_share,
)
from attunement.scorers.files import FileScorer, load_scorer
from attunement.scorers.lexicons import lexicon, lexicon_share
from attunement.scorers.settings import only_settings, spec_of, split_settings, whole_number
from attunement.scorers.terminology import glossary, numerals_kept, numerals_kept_share
from attunement.scorers.text import contains, finished, length, regex
from attunement.scorers.user import UserFunction, read_scorer

SCORERS: Mapping[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        compiles,
        pep8_per_line,
        pep8_per_character,
        ast_nodes,
        has_docstring,
        has_return_annotation,
        length,
        finished,
        sentiment,
        toxicity,
    )
}
"""The scorers that a name alone stands for."""

SCORERS_OF_ARGUMENT: Mapping[str, Callable[[str], Scorer]] = {
    "uses_name": uses_name,
    "contains": contains,
    "regex": regex,
    "classifier": classifier,
}
"""The scorers that are made from a name and an argument."""


class WithSettings(NamedTuple):
    """A function that makes a scorer, and the settings that it takes.

    Attributes:
        make: The function; settings are its keyword arguments.
        keys: Each setting's name with what reads its value.
    """

    make: Callable[..., Any]
    keys: Mapping[str, Callable[[str], Any]]


SCORERS_OF_SETTINGS: Mapping[str, WithSettings] = {
    "entities_in_source": WithSettings(
        entities_in_source, {"column": str, "minimum": whole_number, "spacy": str}
    ),
    "entities_in_source_share": WithSettings(
        entities_in_source_share, {"column": str, "spacy": str}
    ),
    "identifiers_in_source": WithSettings(
        identifiers_in_source, {"column": str, "minimum": whole_number}
    ),
    "identifiers_in_source_share": WithSettings(identifiers_in_source_share, {"column": str}),
    "numerals_kept": WithSettings(numerals_kept, {"column": str}),
    "numerals_kept_share": WithSettings(numerals_kept_share, {"column": str}),
}
"""The scorers that a name stands for, alone or with settings behind a colon."""

SCORERS_OF_FILE: Mapping[str, WithSettings] = {
    "glossary": WithSettings(glossary, {"column": str}),
    "lexicon": WithSettings(lexicon, {}),
    "lexicon_share": WithSettings(lexicon_share, {}),
}
"""The scorers that are made from a name and a user's file."""


def parse_scorer(spec: str, copy: Path | None = None) -> Scorer:
    """The scorer that a SPEC stands for.

    Args:
        spec: `name`, `name:argument` or `file.py:function`.
        copy: A copy of the user's file that the SPEC names, to be read in its place.

    Raises:
        AttunementError: The name is unknown, an argument is missing or one too many, or the
            file can't be used.
    """
    name, colon, argument = spec.partition(":")
    if name in SCORERS:
        if colon:
            raise AttunementError(f"{name} takes no argument: write {name}, not {spec}")
        return SCORERS[name]
    if name in SCORERS_OF_SETTINGS:
        if colon and not argument:
            raise AttunementError(f"{name}: needs settings behind the colon, or none of the two")
        return _of_settings(spec, argument, SCORERS_OF_SETTINGS[name])
    if name in SCORERS_OF_ARGUMENT or name in SCORERS_OF_FILE:
        if not argument:
            raise AttunementError(f"{name} needs an argument: write {name}:...")
        if name in SCORERS_OF_FILE:
            return _of_file(spec, argument, SCORERS_OF_FILE[name], copy)
        return SCORERS_OF_ARGUMENT[name](argument)
    file = spec.rpartition(":")[0] or spec
    if file.endswith(".py"):
        return load_scorer(spec, copy)
    with_argument = (*SCORERS_OF_ARGUMENT, *SCORERS_OF_FILE)
    known = [*SCORERS, *SCORERS_OF_SETTINGS, *(f"{name}:..." for name in with_argument)]
    raise AttunementError(
        f"there is no scorer {spec!r}; {suggestion(name, [*known, 'file.py:function'])}"
    )


def located_spec(spec: str) -> str:
    """The same SPEC, the folder of a model that it names said by its absolute path.

    A user's file stays as it was named, for a run reads its own copy.

    Raises:
        AttunementError: Its settings can't be read.
    """
    name, _, argument = spec.partition(":")
    if name == "classifier":
        model, _, label = argument.rpartition("=")
        return f"{name}:{located(model)}={label}"
    if name in SCORERS_OF_SETTINGS:
        found = only_settings(argument, SCORERS_OF_SETTINGS[name].keys)
        if "spacy" in found:
            found["spacy"] = located_pipeline(found["spacy"])
            return spec_of(name, [*reversed(found.items())])  # they were split off from the end
    return spec


def _of_settings(spec: str, argument: str, known: WithSettings) -> NamedScorer:
    return replace(known.make(**only_settings(argument, known.keys)), name=spec)


def _of_file(spec: str, argument: str, known: WithSettings, copy: Path | None) -> FileScorer:
    file, settings = split_settings(argument, known.keys)
    if not file:
        raise AttunementError(f"{spec} names no file: write it before the settings")
    return replace(known.make(copy or file, **settings), name=spec)


def as_scorer(thing: str | Scorer | UserFunction, name: str | None = None) -> Scorer:
    """A scorer from whatever a person may give for one.

    Args:
        thing: A SPEC, a `Scorer`, or a plain function of one of the forms of `user.FORMS`.
        name: How to call it; its own name by default.

    Raises:
        AttunementError: The SPEC stands for nothing, or `thing` is none of the three; the message
            shows what there is.
    """
    return read_scorer(parse_scorer(thing) if isinstance(thing, str) else thing, name)
