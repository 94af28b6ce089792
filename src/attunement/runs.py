"""A run on disk: everything needed to read it, to go on with it and to do it again.

    recipe.json          what was asked, resolved; versions; seed
    metrics.jsonl        one line a step
    samples.jsonl        texts with features and log-probabilities
    checkpoints/step-N/  safetensors and counters.json
    policy/              the delivered model
    report.html

Files are written to a temporary name, flushed to disk and renamed; logs are appended and flushed,
and a checkpoint records their lengths, so that resuming cuts off what a killed run wrote after
it. Nothing is ever unpickled. Of several processes the main one writes, and the others wait for it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from attunement import processes
from attunement.core import AttunementError, Context

RECIPE, METRICS, SAMPLES = "recipe.json", "metrics.jsonl", "samples.jsonl"
CONTEXTS, MEASUREMENT, REPORT = "contexts.jsonl", "measurement.json", "report.html"
_LOGS = (METRICS, SAMPLES)
_KEPT_CHECKPOINTS = 2


def generator_for(seed: int, *keys: int) -> torch.Generator:
    """An independent stream for every purpose and step: a function of the seed and the keys."""
    # Not SeedSequence([seed, *keys]): that pads with zeros, so (seed,) and (seed, 0) would agree.
    state = np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def versions() -> dict[str, str]:
    """What a recipe says of the software that it ran with."""
    names = ("attunement", "torch", "transformers", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write strict JSON through a temporary name; the old file stays whole until the rename."""
    if not processes.is_main():
        return
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    with _replacing(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        AttunementError: The file is missing or isn't a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AttunementError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise AttunementError(f"{path} is not a JSON object")
    return content


@dataclass(frozen=True)
class Run:
    """A folder with a recipe in it."""

    folder: Path

    @classmethod
    def create(cls, folder: Path | str, recipe: Mapping[str, object]) -> Run:
        """Start a run in a new or empty folder.

        Raises:
            AttunementError: The folder holds something already.
        """
        folder = Path(folder)
        if processes.is_main():
            cls.require_vacant(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / RECIPE, recipe)
        processes.wait()
        return cls(folder)

    @staticmethod
    def require_vacant(folder: Path | str) -> None:
        """Raise unless a run can be started in the folder.

        Raises:
            AttunementError: It is a file, or holds something already.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise AttunementError(f"{folder} is a file: choose another --output-dir")
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        if (folder / RECIPE).exists():
            raise AttunementError(
                f"the output folder {folder} holds another run: choose another --output-dir, or "
                "--resume to go on with that run"
            )
        raise AttunementError(f"the output folder {folder} isn't empty: choose another")

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """An existing run.

        Raises:
            AttunementError: The folder holds no run.
        """
        if not (Path(folder) / RECIPE).is_file():
            raise AttunementError(f"{folder} holds no run: there is no {RECIPE} in it")
        return cls(Path(folder))

    @property
    def recipe(self) -> dict[str, object]:
        """What was asked, resolved."""
        return read_json(self.folder / RECIPE)

    @property
    def policy_folder(self) -> Path:
        """Where the delivered model lies."""
        return self.folder / "policy"

    def append(self, log: str, row: Mapping[str, object]) -> None:
        """Add one line to `metrics.jsonl` or `samples.jsonl` and flush it."""
        if not processes.is_main():
            return
        with (self.folder / log).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")

    def rows(self, log: str) -> Iterator[dict[str, object]]:
        """The lines of a log; a last line cut by a kill is left out.

        Raises:
            AttunementError: Any other line is not JSON.
        """
        path = self.folder / log
        if not path.exists():
            return
        with path.open("rb") as file:  # as bytes, for a kill may cut a character in two
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield _parsed(path, number, line)

    def replace_file(self, name: str, write: Callable[[Path], None]) -> Path:
        """Write a file or folder of the run under a temporary name, then put it in place.

        Every process calls `write`, which may gather from all of them and writes on the main one.
        """
        final = self.folder / name
        with _replacing(final) as temporary:
            write(temporary)
        processes.wait()
        return final

    def save_checkpoint(self, step: int, write: Callable[[Path], Mapping[str, object]]) -> None:
        """Write `checkpoints/step-N`; the older of more than two go once it stands.

        Args:
            step: N.
            write: Writes tensors into the folder it is given and returns the counters; every
                process calls it, as in `replace_file`.
        """
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        with _replacing(folder / f"step-{step}") as temporary:
            if processes.is_main():
                temporary.mkdir()
            counters = write(temporary)
            if processes.is_main():
                lengths = {log: self._length(log) for log in _LOGS}
                write_json(temporary / "counters.json", {**counters, "step": step, "logs": lengths})
        processes.wait()
        if processes.is_main():
            for old in self.checkpoints()[:-_KEPT_CHECKPOINTS]:
                os.replace(old, _aside(old))
            for left_over in folder.glob(".step-*"):
                _remove(left_over)

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        folder = self.folder / "checkpoints"
        found = {
            int(path.name.removeprefix("step-")): path
            for path in folder.glob("step-*")
            if path.name.removeprefix("step-").isdecimal() and (path / "counters.json").is_file()
        }
        return [found[step] for step in sorted(found)]

    def rewind(self, checkpoint: Path | None) -> dict[str, object]:
        """Cut the logs to what they were at a checkpoint and return its counters.

        Args:
            checkpoint: One of `checkpoints()`, or None for the very start.
        """
        counters = {} if checkpoint is None else read_json(checkpoint / "counters.json")
        lengths = counters.get("logs", {})
        for log in _LOGS:
            length = int(lengths.get(log, 0)) if isinstance(lengths, dict) else 0
            if processes.is_main() and self._length(log) > length:
                os.truncate(self.folder / log, length)
        processes.wait()
        return counters

    def save_contexts(self, contexts: Sequence[Context] | None) -> None:
        """Write the contexts as JSONL; nothing where there are none."""
        if contexts is None:
            return
        lines = [
            json.dumps({**c.columns, "prompt": c.prompt}, ensure_ascii=False) for c in contexts
        ]
        self.replace_file(CONTEXTS, lambda path: _write_lines(path, lines))

    def load_contexts(self) -> tuple[Context, ...]:
        """Read what `save_contexts` wrote."""
        return read_contexts(self.folder / CONTEXTS)

    def _length(self, log: str) -> int:
        path = self.folder / log
        return path.stat().st_size if path.exists() else 0


def read_contexts(path: Path | str) -> tuple[Context, ...]:
    """Contexts from a file: JSONL with a column `prompt`, or a text with one prompt a line.

    Raises:
        AttunementError: The file can't be read or holds no prompt.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AttunementError(f"the prompts {path} can't be read: {error}") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise AttunementError(f"{path} holds no prompt: it is empty")
    if path.suffix not in (".jsonl", ".json"):
        return tuple(Context(line) for _, line in filled)
    return tuple(_context(path, number, line) for number, line in filled)


def _context(path: Path, number: int, line: str) -> Context:
    row = _parsed(path, number, line)
    if "prompt" not in row:
        raise AttunementError(f"{path}, line {number} has no column 'prompt'")
    prompt = row.pop("prompt")
    if isinstance(prompt, str):
        return Context(prompt, row)
    if not isinstance(prompt, list) or not prompt or not all(map(_is_message, prompt)):
        raise AttunementError(
            f"{path}, line {number}: a prompt is a text or a list of messages, each with the texts "
            "'role' and 'content'"
        )
    return Context(tuple(prompt), row)


def _is_message(entry: object) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("role", "content")
    )


def _parsed(path: Path, number: int, line: str | bytes) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AttunementError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise AttunementError(f"{path}, line {number} is not a JSON object")
    return row


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    if processes.is_main():
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@contextmanager
def _replacing(final: Path) -> Iterator[Path]:
    """A temporary name to write a file or folder under, which then takes the place of `final`.

    If writing fails, what was written goes and `final` stays as it was. Only the main process puts
    anything in place.
    """
    temporary = final.with_name(f".{final.name}.tmp")
    if not processes.is_main():
        yield temporary
        return
    _remove(temporary)
    try:
        yield temporary
        _flush(temporary)
        if final.is_dir():  # a folder can't be replaced in one go
            _remove(_aside(final))
            os.replace(final, _aside(final))
        os.replace(temporary, final)
        _remove(_aside(final))
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def _aside(path: Path) -> Path:
    """Where a folder waits for its removal, so that no kill leaves half of it under its name."""
    return path.with_name(f".{path.name}.old")


def _flush(path: Path) -> None:
    for entry in [path] if path.is_file() else sorted(path.rglob("*")):
        if entry.is_file():
            with entry.open("rb") as file:
                os.fsync(file.fileno())
