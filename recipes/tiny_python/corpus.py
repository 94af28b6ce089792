"""The corpus of `tiny-python`: short Python functions, cut from source that is already installed.

Every function that stands at the top of a module or a class of Python's standard library, or of
one of the permissively licensed packages in `PACKAGES`, is one document: decorators, docstring and
comments as written, dedented, spaces at the ends of lines cut, ended by one newline. Functions that
don't compile by themselves, are longer than `MAX_CHARACTERS` or hold other than ASCII characters
are left out; equal functions are kept once.

Whole files are held out, chosen by a hash of their path, and a function that stands in a held-out
file is taken out of the training part wherever else it stands, so a held-out document was never
trained on. (Near copies may have been: code bases repeat themselves.)
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import platform
import sysconfig
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

STANDARD_LIBRARY = "python"
HELD_OUT_SHARE = 0.02
MAX_CHARACTERS = 2_000
SKIPPED_FOLDERS = frozenset(
    {"_vendor", "vendor", "vendored", "externals", "extern", "third_party", "site-packages"}
    | {"lib2to3", "idlelib", "turtledemo", "__pycache__"}
)

PACKAGES: Mapping[str, str] = {
    "accelerate": "Apache-2.0",
    "anyio": "MIT",
    "arviz-stats": "Apache-2.0",
    "click": "BSD-3-Clause",
    "contourpy": "BSD-3-Clause",
    "datasets": "Apache-2.0",
    "dill": "BSD-3-Clause",
    "execnet": "MIT",
    "filelock": "MIT",
    "fonttools": "MIT",
    "fsspec": "BSD-3-Clause",
    "grimp": "BSD-2-Clause",
    "h11": "MIT",
    "huggingface_hub": "Apache-2.0",
    "import-linter": "BSD-2-Clause",
    "Jinja2": "BSD-3-Clause",
    "markdown-it-py": "MIT",
    "matplotlib": "PSF-like (matplotlib)",
    "mpmath": "BSD-3-Clause",
    "multiprocess": "BSD-3-Clause",
    "networkx": "BSD-3-Clause",
    "numpy": "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    "packaging": "Apache-2.0 OR BSD-2-Clause",
    "pandas": "BSD-3-Clause",
    "pillow": "MIT-CMU",
    "pluggy": "MIT",
    "portalocker": "BSD-3-Clause",
    "psutil": "BSD-3-Clause",
    "pyarrow": "Apache-2.0",
    "pycodestyle": "MIT",
    "pydantic": "MIT",
    "Pygments": "BSD-2-Clause",
    "pyparsing": "MIT",
    "pytest": "MIT",
    "python-dateutil": "Apache-2.0 AND BSD-3-Clause",
    "PyYAML": "MIT",
    "rich": "MIT",
    "sacrebleu": "Apache-2.0",
    "safetensors": "Apache-2.0",
    "scipy": "BSD-3-Clause",
    "setuptools": "MIT",
    "sortedcontainers": "Apache-2.0",
    "sympy": "BSD-3-Clause",
    "tabulate": "MIT",
    "tokenizers": "Apache-2.0",
    "torch": "BSD-3-Clause and other permissive licences",
    "transformers": "Apache-2.0",
    "trl": "Apache-2.0",
    "typer": "MIT",
    "typing-inspection": "MIT",
}
"""Packages read, by their name on the index, with the licence that their metadata states."""


class CorpusError(RuntimeError):
    """The corpus can't be made; the message names what is missing."""


@dataclass(frozen=True)
class Source:
    """One package, as it was read.

    Attributes:
        name: Its name on the index, or `python` for the standard library.
        version: The version that was installed.
        licence: The licence that its metadata states.
        files: Python files read.
        functions: Functions kept, before equal ones are merged across files.
    """

    name: str
    version: str
    licence: str
    files: int
    functions: int


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and documents of other files to measure on.

    Attributes:
        train: Distinct functions.
        held_out: Distinct functions by file, none of which stands in `train`.
        sources: The packages read.
    """

    train: list[str]
    held_out: dict[str, list[str]]
    sources: list[Source]


def compiles(text: str) -> bool:
    """Whether `text` is a Python module that compiles; its warnings are ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "<function>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
            return False
    return True


def cut_functions(source: str) -> list[str]:
    """The functions of a module and of its classes, dedented, each ended by one newline.

    A function inside a function is part of the outer one. A source that doesn't parse has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return []
    lines = source.splitlines()
    texts = (_text_of(node, lines) for node in _outer_functions(tree.body))
    return [text for text in texts if len(text) <= MAX_CHARACTERS and _is_one_function(text)]


def _outer_functions(
    body: Iterable[ast.stmt],
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        else:
            blocks = (getattr(node, name, []) for name in ("body", "orelse", "finalbody"))
            for block in blocks:
                yield from _outer_functions(block)


def _text_of(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    block = "\n".join(line.rstrip() for line in lines[first - 1 : node.end_lineno])
    return textwrap.dedent(block).strip("\n") + "\n"


def _is_one_function(text: str) -> bool:
    return text.startswith(("def ", "async def ", "@")) and text.isascii() and compiles(text)


def is_held_out(path: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether the file at `path` (package and path within it) is held out, by a hash of `path`."""
    digest = hashlib.sha256(path.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split(files: Mapping[str, list[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """Split functions by file into training documents and held-out documents by file.

    Args:
        files: Functions by path.

    Returns:
        Distinct training functions in the order of the paths, and distinct held-out functions by
        path (a function is counted in the first file that it stands in); the two are disjoint.
    """
    seen: set[str] = set()
    held_out: dict[str, list[str]] = {}
    for path in sorted(files):
        if is_held_out(path):
            distinct = [text for text in dict.fromkeys(files[path]) if text not in seen]
            seen.update(distinct)
            if distinct:
                held_out[path] = distinct
    rest = (text for path in sorted(files) if not is_held_out(path) for text in files[path])
    return [text for text in dict.fromkeys(rest) if text not in seen], held_out


def read_corpus() -> Corpus:
    """Read the standard library and `PACKAGES` as installed for this interpreter.

    Raises:
        CorpusError: A package of `PACKAGES` isn't installed.
    """
    files: dict[str, list[str]] = {}
    sources: list[Source] = []
    for name, licence, version, paths in _installed():
        functions = _functions_of(name, paths)
        count = sum(map(len, functions.values()))
        sources.append(Source(name, version, licence, len(functions), count))
        files.update(functions)
    train, held_out = split(files)
    return Corpus(train, held_out, sources)


def read_library() -> dict[str, list[str]]:
    """The functions of the standard library alone, by path, before they are split."""
    name, _, _, paths = next(_installed())
    return _functions_of(name, paths)


def _functions_of(name: str, paths: Mapping[str, Path]) -> dict[str, list[str]]:
    return {f"{name}/{path}": cut_functions(_read(file)) for path, file in paths.items()}


def _installed() -> Iterator[tuple[str, str, str, dict[str, Path]]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    relative = {file.relative_to(library).as_posix(): file for file in library.rglob("*.py")}
    kept = {path: relative[path] for path in sorted(relative) if _is_read(path)}
    yield STANDARD_LIBRARY, "PSF-2.0", platform.python_version(), kept
    for name, licence in PACKAGES.items():
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise CorpusError(
                f"the corpus needs the package {name}: pip install {name}, or take it out of "
                "PACKAGES in recipes/tiny_python/corpus.py"
            ) from error
        listed = sorted(file.as_posix() for file in package.files or [] if file.suffix == ".py")
        found = {path: Path(str(package.locate_file(path))) for path in listed if _is_read(path)}
        yield name, licence, package.version, found


def _is_read(path: str) -> bool:
    return not SKIPPED_FOLDERS.intersection(PurePosixPath(path).parts)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
