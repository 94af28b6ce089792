"""Where contexts come from: a file, a data set, or what is shipped with the package.

    prompts.jsonl            a row a line; the prompt is one of its columns
    prompts.txt              a prompt a line
    prompts.csv, a folder    through the `datasets` library; Parquet files too
    owner/name:split         a data set of the hub, or of the local cache
    owner/name:config:split  the same where it has configurations (cnn_dailymail:3.0.0:train)
    tiny-python-signatures   first lines of Python functions, for the embedded model

A prompt is a text, or a conversation (a list of messages) for a tokenizer's chat template. The
other columns of a row travel with it, and scorers may read them. In Python a list of prompts or of
`Context`s does as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attunement.core import AttunementError, Context, MissingExtraError
from attunement.hub import first_line

TINY_PYTHON_SIGNATURES = "tiny-python-signatures"
"""The name of the shipped contexts: signatures from Python's standard library."""

_PROMPT = "prompt"
_SIGNATURES = {"tuning": "signatures.jsonl", "held-out": "signatures_held_out.jsonl"}
_READERS = {".csv": "csv", ".parquet": "parquet"}
_OF_ROWS = (".jsonl", ".json")
_OF_LINES = (".txt", ".md")
_INSTEAD = (
    "give a JSONL, text, CSV or Parquet file, a folder of such files, or "
    f"'{TINY_PYTHON_SIGNATURES}'"
)


def read_contexts(
    source: Path | str, column: str | None = None, most: int | None = None, seed: int = 0
) -> tuple[Context, ...]:
    """Contexts by the name of where they are.

    Args:
        source: A file, a folder, NAME[:SPLIT] of the shipped contexts, or NAME[[:CONFIG]:SPLIT]
            of a data set; a path that exists is meant as such. The split is `train` (of the
            shipped ones, `tuning`) where none is named.
        column: The column of the prompts; `prompt` where None. Beside another one, a column
            `prompt` is left out.
        most: At most so many of them, chosen by the seed and kept in their order.
        seed: Of that choice.

    Raises:
        AttunementError: There is no such source, it holds no prompt, it lacks the column, or a row
            holds something else than a prompt or than what can be written as JSON.
    """
    if most is not None and most < 1:
        raise AttunementError(f"at least one prompt is needed, not {most}")
    found = _source(str(source), column)
    if found.count == 0:
        raise AttunementError(f"{found.where} holds no prompt: it is empty")
    chosen = range(found.count)
    if most is not None and most < found.count:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(found.count, generator=generator)[:most].sort().values.tolist()
    column = _PROMPT if column is None else column
    return tuple(_context(*found.row(at), column) for at in chosen)


def signatures(split: str = "tuning") -> tuple[Context, ...]:
    """The contexts shipped for the embedded model: first lines of Python functions.

    Args:
        split: `tuning`, or `held-out` for those of files that the model wasn't trained on.

    Raises:
        AttunementError: There is no such split.
    """
    return read_contexts(f"{TINY_PYTHON_SIGNATURES}:{split}")


def duplicates(contexts: Sequence[Context]) -> int:
    """How many contexts equal an earlier one in prompt and columns."""
    return len(contexts) - len({_line(context) for context in contexts})


def require_held_out(contexts: Sequence[Context], held_out: Sequence[Context]) -> None:
    """Raise if a prompt that is to be held out is among those of tuning.

    Raises:
        AttunementError: Some are; the message says how many and shows the first.
    """
    seen = {_line(Context(context.prompt)) for context in contexts}
    again = [c for c in held_out if _line(Context(c.prompt)) in seen]
    if again:
        raise AttunementError(
            f"{len(again)} of {len(held_out)} held-out prompts are among those of tuning, the "
            f"first is {again[0].prompt!r:.60}: leave them out of one of the two"
        )


def write_contexts(path: Path, contexts: Sequence[Context]) -> None:
    """Write contexts as JSONL that `read_contexts` reads back."""
    path.write_text("".join(f"{_line(context)}\n" for context in contexts), encoding="utf-8")


def parse_row(where: str, line: str | bytes) -> dict[str, object]:
    """A JSON object from a line of a file.

    Raises:
        AttunementError: It isn't one; the message begins with `where`.
    """
    try:
        row = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AttunementError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise AttunementError(f"{where} is not a JSON object")
    return row


@dataclass(frozen=True)
class _Source:
    """Rows that are read when they are asked for.

    Attributes:
        where: What they are called in an error.
        count: How many there are.
        row: From the number of a row to its place in words and its columns.
    """

    where: str
    count: int
    row: Callable[[int], tuple[str, dict[str, object]]]


def _source(name: str, column: str | None) -> _Source:
    path, config, split = Path(name).expanduser(), None, None
    if not path.exists() and ":" in name:
        name, config, split = _parts(name)
        path = Path(name).expanduser()
    if config is not None and (path.is_file() or name == TINY_PYTHON_SIGNATURES):
        raise AttunementError(f"{name} has no configurations: leave out ':{config}'")
    if name == TINY_PYTHON_SIGNATURES:
        return _file(_shipped(split), None, column)
    if path.is_dir() or path.suffix in _READERS:
        _require_there(path)
        return _data_set(path, config, split)
    is_path = name.startswith((".", "~", "/")) or name.count("/") > 1
    if path.is_file() or is_path or path.suffix in (*_OF_ROWS, *_OF_LINES):
        _require_there(path)
        return _file(path, split, column)
    return _data_set(name, config, split)


def _parts(name: str) -> tuple[str, str | None, str]:
    """What stands before the colons, between two of them, and behind."""
    rest, _, split = name.rpartition(":")
    if Path(rest).expanduser().exists() or ":" not in rest:
        return rest, None, split
    rest, _, config = rest.rpartition(":")
    return rest, config, split


def _require_there(path: Path) -> None:
    if not path.exists():
        raise AttunementError(
            f"the prompts {path} can't be read: there is no such file or folder; {_INSTEAD}"
        )


def _shipped(split: str | None) -> Path:
    split = "tuning" if split is None else split
    if split not in _SIGNATURES:
        raise AttunementError(
            f"{TINY_PYTHON_SIGNATURES} has no split {split!r}; there is {', '.join(_SIGNATURES)}"
        )
    return Path(__file__).resolve().parent / "distributions" / "tiny_python" / _SIGNATURES[split]


def _file(path: Path, split: str | None, column: str | None) -> _Source:
    """The lines of a JSONL or text file that aren't blank."""
    of_rows = path.suffix in _OF_ROWS
    if split is not None:
        raise AttunementError(f"{path} has no splits: leave out ':{split}'")
    if column is not None and not of_rows:
        raise AttunementError(f"{path} is a text and has no columns: leave out --prompt-column")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AttunementError(f"the prompts {path} can't be read: {error}") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def row(at: int) -> tuple[str, dict[str, object]]:
        number, line = filled[at]
        place = f"{path}, line {number}"
        return place, parse_row(place, line) if of_rows else {_PROMPT: line}

    return _Source(str(path), len(filled), row)


def _data_set(source: Path | str, config: str | None, split: str | None) -> _Source:
    """A table file, a folder, or a data set by its name on the hub."""
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise MissingExtraError(f"reading the prompts {source}", "datasets") from error
    with _quiet(datasets):
        try:
            table = _loaded(datasets, source, config, "train" if split is None else split)
        except (OSError, ValueError, KeyError, DatasetsError) as error:
            mend = (
                "check its split, and that it isn't empty"
                if isinstance(source, Path)
                else (f"check its name, its split and the connection, or {_INSTEAD}")
            )
            raise AttunementError(
                f"the data set {source} can't be read: {mend} ({first_line(error)})"
            ) from error
    return _Source(
        f"the data set {source}", len(table), lambda at: (f"{source}, row {at}", table[at])
    )


def _loaded(datasets: Any, source: Path | str, config: str | None, split: str) -> Any:
    """A `datasets.Dataset`, all of it at hand."""
    if isinstance(source, Path) and source.suffix in _READERS and source.is_file():
        reader = _READERS[source.suffix]
        return datasets.load_dataset(reader, data_files=str(source), split=split)
    return datasets.load_dataset(str(source), config, split=split)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars of `datasets` inside; as before afterwards."""
    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


def _context(place: str, row: Mapping[str, object], column: str) -> Context:
    if column not in row:
        there = ", ".join(row) or "none"
        raise AttunementError(
            f"{place} has no column {column!r}: choose one by --prompt-column; there is {there}"
        )
    prompt = row[column]
    columns = {name: value for name, value in row.items() if name not in (column, _PROMPT)}
    for name, value in columns.items():
        _require_json(place, name, value)
    if isinstance(prompt, str):
        return Context(prompt, columns)
    if not isinstance(prompt, list) or not prompt or not all(map(_is_message, prompt)):
        raise AttunementError(
            f"{place}: a prompt is a text or a list of messages, each with the texts 'role' and "
            "'content'"
        )
    return Context(tuple(prompt), columns)


def _require_json(place: str, name: str, value: object) -> None:
    """A run keeps its contexts as JSON, so a column has to be JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise AttunementError(
            f"{place}: column {name!r} holds a {type(value).__name__}, which can't be kept as "
            "JSON: write the prompts and the columns that scorers read to a JSONL file"
        ) from error


def _is_message(entry: object) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("role", "content")
    )


def _line(context: Context) -> str:
    return json.dumps({**context.columns, _PROMPT: context.prompt}, ensure_ascii=False)
