"""Scorers: what is measured of a text, and what a target is made of.

In reading order: the contract and its check (`base`); Python code (`code`), any text (`text`),
classifiers (`classifiers`); what reads the source too: `faithfulness` (of `entities`) and
`terminology`, on `words` and `sources`; word lists (`lexicons`); what a user writes (`user`,
`files`); the names that the command line knows (`specs`, `settings`), and a run's copies of users'
files (`copies`).
"""

from attunement.scorers.base import NamedScorer, evaluate, require_applicable
from attunement.scorers.classifiers import Classifier, classifier, sentiment, toxicity
from attunement.scorers.code import (
    ast_nodes,
    compiles,
    has_docstring,
    has_return_annotation,
    pep8_per_character,
    pep8_per_line,
    uses_name,
)
from attunement.scorers.copies import copy_files, file_hashes, scorers_of
from attunement.scorers.faithfulness import (
    entities_in_source,
    entities_in_source_share,
    identifiers_in_source,
    identifiers_in_source_share,
)
from attunement.scorers.files import FileScorer, load_function, load_scorer
from attunement.scorers.lexicons import lexicon, lexicon_share
from attunement.scorers.specs import as_scorer, located_spec, parse_scorer
from attunement.scorers.terminology import glossary, numerals_kept, numerals_kept_share
from attunement.scorers.text import contains, finished, length, regex
from attunement.scorers.user import UserScorer

__all__ = [
    "Classifier",
    "FileScorer",
    "NamedScorer",
    "UserScorer",
    "as_scorer",
    "ast_nodes",
    "classifier",
    "compiles",
    "contains",
    "copy_files",
    "entities_in_source",
    "entities_in_source_share",
    "evaluate",
    "file_hashes",
    "finished",
    "glossary",
    "has_docstring",
    "has_return_annotation",
    "identifiers_in_source",
    "identifiers_in_source_share",
    "length",
    "lexicon",
    "lexicon_share",
    "load_function",
    "load_scorer",
    "located_spec",
    "numerals_kept",
    "numerals_kept_share",
    "parse_scorer",
    "pep8_per_character",
    "pep8_per_line",
    "regex",
    "require_applicable",
    "scorers_of",
    "sentiment",
    "toxicity",
    "uses_name",
]
