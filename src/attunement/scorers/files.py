"""Scorers out of a user's file: one of Python, or a list that a scorer of the package reads.

All of them are a `FileScorer`, so that a run can keep a copy of what they read (`copies`).

A file of Python, `file.py:function` on the command line, is run as a module of its own. Neither it
nor its folder is put on the import path, and no bytecode is written: it stands by itself, so that
a recipe with a copy of it is complete.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from torch import Tensor

from attunement.core import AttunementError, Samples, Scorer, Scores
from attunement.scorers.base import suggestion
from attunement.scorers.user import read_scorer


@dataclass(frozen=True)
class FileScorer:
    """A scorer out of a user's file; equal by name and file.

    Attributes:
        name: The SPEC as it was given, e.g. `file.py:function` or `lexicon:words.txt`.
        path: The file, absolute, for a recipe to copy and hash.
        scorer: What was found or made there.
    """

    name: str
    path: Path
    scorer: Scorer = field(compare=False, repr=False)

    def __call__(self, samples: Samples) -> Tensor | Scores:
        """The feature of each of the N samples."""
        return self.scorer(samples)


def load_function(spec: str) -> object:
    """What a user's file calls by a name.

    Args:
        spec: `path.py:function`.

    Returns:
        The function, or whatever else the name stands for there.

    Raises:
        AttunementError: The file can't be read or run, or has nothing of that name.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name:
        raise AttunementError(f"{spec!r} doesn't name a function in a file: write path.py:function")
    found = vars(_run_file(Path(file)))
    if name in found:
        return found[name]
    there = [key for key, value in found.items() if callable(value) and not key.startswith("_")]
    raise AttunementError(f"{file} has no function {name}; {suggestion(name, there)}")


def load_scorer(spec: str, copy: Path | None = None) -> FileScorer:
    """The scorer that a user's file calls by a name.

    Args:
        spec: `path.py:function`; what it names is a function or a `Scorer`.
        copy: A copy of the file to run in its place.

    Raises:
        AttunementError: As `load_function`, or what is there can't be a scorer.
    """
    file, _, function = spec.rpartition(":")
    found = load_function(spec if copy is None else f"{copy}:{function}")
    if not callable(found):
        raise AttunementError(f"{spec} is a {type(found).__name__}, not a function or a scorer")
    return FileScorer(spec, Path(copy or file).resolve(), read_scorer(found, spec))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a user's text file that aren't blank, each with its number from 1.

    Raises:
        AttunementError: The file can't be read, isn't UTF-8 or holds nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise AttunementError(f"can't read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise AttunementError(f"can't read {path}: it is no text in UTF-8 ({error})") from error
    filled = [(number, line.strip("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise AttunementError(f"{path} holds nothing: it is empty")
    yield from filled


def _run_file(path: Path) -> ModuleType:
    name = f"{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise AttunementError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look a class's module up
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    except OSError as error:
        problem, cause = f"can't read {path}: {error.strerror or error}", error
    except SyntaxError as error:
        problem, cause = f"{path}, line {error.lineno}, isn't Python: {error.msg}", error
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        problem, cause = f"{path} raised {type(error).__name__} when it was run: {error}", error
    else:
        return module
    del sys.modules[name]
    raise AttunementError(problem) from cause
