"""Scorers: what is measured of a text, and what a target is made of.

In reading order: the contract and its check (`base`), Python code (`code`), any text (`text`),
what a user writes (`user`, `files`), and the names that the command line knows (`specs`).
"""

from attunement.scorers.base import NamedScorer, evaluate, require_applicable
from attunement.scorers.code import (
    ast_nodes,
    compiles,
    has_docstring,
    has_return_annotation,
    pep8_per_character,
    pep8_per_line,
    uses_name,
)
from attunement.scorers.files import FileScorer, load_function, load_scorer
from attunement.scorers.specs import as_scorer, parse_scorer
from attunement.scorers.text import contains, finished, length, regex
from attunement.scorers.user import UserScorer

__all__ = [
    "FileScorer",
    "NamedScorer",
    "UserScorer",
    "as_scorer",
    "ast_nodes",
    "compiles",
    "contains",
    "evaluate",
    "finished",
    "has_docstring",
    "has_return_annotation",
    "length",
    "load_function",
    "load_scorer",
    "parse_scorer",
    "pep8_per_character",
    "pep8_per_line",
    "regex",
    "require_applicable",
    "uses_name",
]
