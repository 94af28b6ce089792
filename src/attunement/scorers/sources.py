"""The source that a completion is held against: its context's prompt, or one of its columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attunement.core import AttunementError, Context, Samples

Reading = TypeVar("Reading")


def read_sources(
    name: str, samples: Samples, column: str | None, read: Callable[[str], Reading]
) -> list[Reading]:
    """What is read in the source of each of the N samples; each context is read once.

    Args:
        name: The scorer, for the error.
        samples: N samples.
        column: The column that holds the source; the prompt where None. Of a conversation it is
            the contents of all turns.
        read: From the source to what is wanted of it.

    Raises:
        AttunementError: A source is absent, empty or no text.
    """
    rows = samples.context_index.tolist()
    known = {row: read(_source(name, samples.contexts[row], column)) for row in dict.fromkeys(rows)}
    return [known[row] for row in rows]


def _source(name: str, context: Context, column: str | None) -> str:
    if column is None:
        prompt = context.prompt
        turns = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
        source = "\n".join(turns)
    elif column in context.columns:
        source = context.columns[column]
    else:
        there = ", ".join(sorted(context.columns)) or "no columns"
        raise AttunementError(
            f"the scorer {name} reads its source in the column {column!r}; a context has {there}"
        )
    if not isinstance(source, str):
        raise AttunementError(
            f"the scorer {name} reads its source in the column {column!r}; it must be a text, not "
            f"{source!r:.60}"
        )
    if not source.strip():
        where = "prompt" if column is None else f"column {column!r}"
        raise AttunementError(
            f"the scorer {name} has no source: the {where} of a context is empty; give prompts "
            "(--prompts FILE), or name the column that holds the source (column=NAME)"
        )
    return source
