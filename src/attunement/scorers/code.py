"""Features of Python code, read from context and completion together.

`compiles` is the constraint of "Energy-based models for code generation under compilability
constraints" (Korbak et al., arXiv 2106.04985); the others are what that paper and "Controlling
conditional language models without catastrophic forgetting" (arXiv 2112.00791) watch beside it:
violations of PEP 8 by pycodestyle, the number of nodes of the syntax tree, and simple traits of
the first function whose share in the language can be set.

All read `samples.full_texts`: a prompt such as `def f(` is part of the program. Nothing is ever
run. CPython's compiler guards most of its recursions but not all: a comprehension with 47,000
`for` clauses overflows its stack and ends the interpreter (3.11 on 8 MiB). So a text of more than
`LONGEST_PROGRAM` characters is not given to it, and counts as one that doesn't parse; the limit
keeps the deepest known case below 1 MiB of stack.
"""

from __future__ import annotations

import ast
import io
import re
import warnings
from collections.abc import Callable
from functools import cache, partial

import pycodestyle
import torch
from torch import Tensor

from attunement.core import AttunementError, Samples, Scores
from attunement.scorers.base import NamedScorer, as_scores

LONGEST_PROGRAM = 50_000
"""Characters beyond which a text is taken not to parse; see above."""

_REFUSALS = (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError, SystemError)

_IGNORED_VIOLATIONS = (*pycodestyle.DEFAULT_IGNORE.split(","), "W292", "W391")

_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

_NAME_OR_SKIPPED = re.compile(
    r"""
    \#[^\n]*                                               # a comment
  | (?:(?i:[bfru]|[bf]r|r[bf])?)                           # a string, perhaps unfinished
    (?: '{3} (?:[^\\]|\\.?)*? (?:'{3}|\Z) | "{3} (?:[^\\]|\\.?)*? (?:"{3}|\Z)
      | ' (?:[^'\\\n]|\\.?)* '?           | " (?:[^"\\\n]|\\.?)* "? )
  | \.\s*[^\W\d]\w*                                        # an attribute
  | (?P<name>\w+)
    """,
    re.VERBOSE | re.DOTALL,
)


def _parse(text: str) -> ast.Module | None:
    if len(text) > LONGEST_PROGRAM:
        return None
    try:
        return ast.parse(text)
    except _REFUSALS:
        return None


def _text_compiles(text: str) -> bool:
    if len(text) > LONGEST_PROGRAM:
        return False
    try:
        compile(text, "<completion>", "exec", dont_inherit=True)
    except _REFUSALS:
        return False
    return True


def _compiles(samples: Samples) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = zip(samples.finished.tolist(), samples.full_texts, strict=True)
        passed = [finished and _text_compiles(text) for finished, text in rows]
    return torch.tensor(passed, dtype=torch.float64)


def _number_of_each(samples: Samples, function: Callable[[str], float | None]) -> Scores:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return as_scores([function(text) for text in samples.full_texts])


@cache
def _style() -> pycodestyle.StyleGuide:
    """Every option that a user's own configuration file could change is given."""
    return pycodestyle.StyleGuide(
        quiet=1,
        select=(),
        ignore=_IGNORED_VIOLATIONS,
        max_line_length=79,
        max_doc_length=None,
        indent_size=4,
        hang_closing=False,
    )


def pep8_violations(text: str) -> tuple[int, int]:
    """Violations of PEP 8 in a text, and its number of lines.

    pycodestyle's default checks, as on a file of that content, less the two that look at how a
    file ends (W292 and W391), since a completion ends where its stop is. A text that can't be
    split into tokens, or on which a check breaks down (some raise IndexError on broken code), has
    one violation for that beside those found before it. `# noqa` silences the few checks for which
    pycodestyle heeds it.
    """
    writable = text.encode("utf-8", "replace").decode("utf-8")
    lines = io.StringIO(writable, newline=None).readlines()
    options = _style().options
    report = pycodestyle.BaseReport(options)
    checker = pycodestyle.Checker(lines=lines, options=options, report=report)
    try:
        checker.check_all()
    except IndexError:
        return report.total_errors + 1, len(lines)
    return report.total_errors, len(lines)


def _violations_per_line(text: str) -> float:
    violations, lines = pep8_violations(text)
    return violations / max(1, lines)


def _violations_per_character(text: str) -> float:
    return pep8_violations(text)[0] / max(1, len(text))


def _count_nodes(text: str) -> int | None:
    tree = _parse(text)
    return None if tree is None else sum(1 for _ in ast.walk(tree))


def _first_function(text: str) -> _FunctionNode | None:
    tree = _parse(text)
    nodes = () if tree is None else ast.walk(tree)
    functions = (node for node in nodes if isinstance(node, _FunctionNode))
    return min(functions, key=lambda node: (node.lineno, node.col_offset), default=None)


def _has_docstring(text: str) -> bool:
    function = _first_function(text)
    return function is not None and ast.get_docstring(function, clean=False) is not None


def _has_return_annotation(text: str) -> bool:
    function = _first_function(text)
    return function is not None and function.returns is not None


def _text_uses_name(text: str, name: str) -> bool:
    return any(match["name"] == name for match in _NAME_OR_SKIPPED.finditer(text))


compiles = NamedScorer("compiles", _compiles)
"""1 where a completion has finished and its full text compiles as Python, else 0.

It is what `compile(text, ..., 'exec')` of the running Python says: an empty text, or one of
comments only, is a program. Syntax warnings don't matter; whatever the compiler refuses, for
syntax, depth, size or characters, is 0.
"""

pep8_per_line = NamedScorer(
    "pep8_per_line", partial(_number_of_each, function=_violations_per_line)
)
"""Violations of PEP 8 (`pep8_violations`) per line of the full text; 0 for an empty one."""

pep8_per_character = NamedScorer(
    "pep8_per_character", partial(_number_of_each, function=_violations_per_character)
)
"""Violations of PEP 8 (`pep8_violations`) per character of the full text; 0 for an empty one."""

ast_nodes = NamedScorer("ast_nodes", partial(_number_of_each, function=_count_nodes))
"""Nodes of the syntax tree, as `ast.walk` counts them; not applicable where nothing parses."""

has_docstring = NamedScorer("has_docstring", partial(_number_of_each, function=_has_docstring))
"""1 where the first function of the text has a docstring; 0 where nothing parses."""

has_return_annotation = NamedScorer(
    "has_return_annotation", partial(_number_of_each, function=_has_return_annotation)
)
"""1 where the first function of the text annotates what it returns; 0 where nothing parses."""


def uses_name(name: str) -> NamedScorer:
    """1 where an identifier occurs in the code of the full text, else 0.

    Comments, string literals (f-strings as a whole) and attributes (`name` in `x.name`) don't
    count; definitions, parameters and keywords do. It reads the text word by word, so it has a
    value for unfinished and broken code too, as a moment needs.

    Args:
        name: The identifier, e.g. `self`.

    Raises:
        AttunementError: `name` isn't an identifier.
    """
    if not name.isidentifier():
        raise AttunementError(f"uses_name needs a Python identifier, not {name!r}")
    uses = partial(_text_uses_name, name=name)
    return NamedScorer(f"uses_name:{name}", partial(_number_of_each, function=uses))
