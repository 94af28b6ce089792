"""The contexts of `tiny-python`: first lines of functions of Python's standard library.

A signature is the first line of a function that `corpus.py` keeps, where that line holds all of
its parameters: `def name(args):`. The line's end is left to the completion, for with the indent
that follows it makes one piece of the tokenizer. Decorated functions, tests (a name that begins
with `test`) and lines of `MAX_CHARACTERS` or more are left out, and each name stands once.

The files that `corpus.py` holds out give the held-out signatures; one that also stands in another
file is left out, so that neither the model nor a tuning on the rest has seen it.

    python recipes/tiny_python/signatures.py
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from corpus import is_held_out, read_library

MAX_CHARACTERS = 80
TUNING, HELD_OUT = 200, 100
FOLDER = Path(__file__).resolve().parents[2] / "src/attunement/distributions/tiny_python"


def signature_of(function: str) -> tuple[str, str] | None:
    """The name and the first line of a function that begins with `def`, or None."""
    node = ast.parse(function).body[0]
    first = function.split("\n", 1)[0]
    if not isinstance(node, ast.FunctionDef) or not first.startswith("def "):
        return None
    is_whole = node.body[0].lineno > 1 and first.endswith(":")
    try:
        ast.parse(f"{first}\n    pass\n")
    except SyntaxError:
        return None
    if not is_whole or node.name.startswith("test") or len(first) >= MAX_CHARACTERS:
        return None
    return node.name, first


def rows_of(files: Mapping[str, list[str]], held_out: bool) -> list[dict[str, str]]:
    """A row for each name, in the order of a hash of the signature.

    Args:
        files: Functions by path.
        held_out: Whether of the files that are held out, or of the others.
    """
    mine = list(_signatures(files, held_out))
    others = {text for _, text, _ in _signatures(files, not held_out)} if held_out else set()
    by_name: dict[str, dict[str, str]] = {}
    for name, text, path in mine:
        if text not in others:
            by_name.setdefault(name, {"prompt": text, "name": name, "file": path})
    return sorted(by_name.values(), key=lambda row: hashlib.sha256(row["prompt"].encode()).digest())


def _signatures(files: Mapping[str, list[str]], held_out: bool) -> Iterator[tuple[str, str, str]]:
    for path in sorted(files):
        if is_held_out(path) == held_out:
            for function in files[path]:
                if (found := signature_of(function)) is not None:
                    yield *found, path


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="First lines of functions, to be contexts.")
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    folder = parser.parse_args().output_dir
    files = read_library()
    for name, held_out, most in (
        ("signatures.jsonl", False, TUNING),
        ("signatures_held_out.jsonl", True, HELD_OUT),
    ):
        rows = rows_of(files, held_out)[:most]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
        print(f"{folder / name}: {len(rows)} signatures")


if __name__ == "__main__":
    main()
