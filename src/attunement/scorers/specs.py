"""Scorers by name: the grammar that the command line, recipes and Python share.

    SPEC = name | name:argument (first colon) | file.py:function

A built-in scorer's `name` is its SPEC, so what a recipe stores builds the scorer again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attunement.core import AttunementError, Scorer
from attunement.scorers.base import suggestion
from attunement.scorers.code import (
    ast_nodes,
    compiles,
    has_docstring,
    has_return_annotation,
    pep8_per_character,
    pep8_per_line,
    uses_name,
)
from attunement.scorers.files import load_scorer
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
    )
}
"""The scorers that a name alone stands for."""

SCORERS_OF_ARGUMENT: Mapping[str, Callable[[str], Scorer]] = {
    "uses_name": uses_name,
    "contains": contains,
    "regex": regex,
}
"""The scorers that are made from a name and an argument."""


def parse_scorer(spec: str) -> Scorer:
    """The scorer that a SPEC stands for.

    Args:
        spec: `name`, `name:argument` or `file.py:function`.

    Raises:
        AttunementError: The name is unknown, an argument is missing or one too many, or the
            file can't be used.
    """
    name, colon, argument = spec.partition(":")
    if name in SCORERS:
        if colon:
            raise AttunementError(f"{name} takes no argument: write {name}, not {spec}")
        return SCORERS[name]
    if name in SCORERS_OF_ARGUMENT:
        if not argument:
            raise AttunementError(f"{name} needs an argument: write {name}:...")
        return SCORERS_OF_ARGUMENT[name](argument)
    file = spec.rpartition(":")[0] or spec
    if file.endswith(".py"):
        return load_scorer(spec)
    known = [*SCORERS, *(f"{name}:..." for name in SCORERS_OF_ARGUMENT), "file.py:function"]
    raise AttunementError(f"there is no scorer {spec!r}; {suggestion(name, known)}")


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
