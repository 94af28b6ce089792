"""What all that loads from a hub or a folder shares: to name it, to be quiet, to quote an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What transformers raises where a model or tokenizer can't be found or read."""


def located(name: str) -> str:
    """The absolute path of the folder that a name stands for, or the name where there is none."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and warnings of transformers inside; both as before afterwards."""
    from transformers.utils import logging  # it loads transformers, which not all callers need

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
