"""Settings at the end of a scorer's argument: `name:ARGUMENT,KEY=VALUE,...`.

    entities_in_source:column=article,minimum=4
    glossary:terms.tsv,column=source

What stands before the first setting is the argument itself, which may hold commas and equals signs
of its own: only keys that the scorer knows are split off, from the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attunement.core import AttunementError
from attunement.scorers.base import suggestion


def split_settings(
    argument: str, keys: Mapping[str, Callable[[str], Any]]
) -> tuple[str, dict[str, Any]]:
    """An argument parted into what stands before its settings, and the settings by key.

    Args:
        argument: What stands behind the colon of a SPEC.
        keys: The keys that are known, each with what reads its value.

    Raises:
        AttunementError: A key is given twice, or a value is missing or can't be read.
    """
    found: dict[str, Any] = {}
    while True:
        rest, _, last = argument.rpartition(",")
        key, equals, value = last.partition("=")
        if not equals or key not in keys:
            return argument, found
        if key in found:
            raise AttunementError(f"{key} is given twice: say {key}=... once")
        if not value:
            raise AttunementError(f"{key}= needs a value")
        found[key] = keys[key](value)
        argument = rest


def only_settings(argument: str, keys: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The settings of an argument that holds nothing else.

    Raises:
        AttunementError: As `split_settings`, or something that is no known setting stands there.
    """
    rest, found = split_settings(argument, keys)
    if rest:
        known = [f"{key}=..." for key in keys]
        raise AttunementError(f"there is no setting {rest!r}; {suggestion(rest, known)}")
    return found


def whole_number(value: str) -> int:
    """A whole number that isn't below 0.

    Raises:
        AttunementError: It is none.
    """
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise AttunementError(f"{value!r} is not a whole number")
    return int(value)


def spec_of(name: str, settings: Sequence[tuple[str, object]]) -> str:
    """The SPEC of a scorer: settings that are left at their default (None or 0) stay unsaid."""
    said = [f"{key}={value}" for key, value in settings if value not in (None, 0)]
    return f"{name}:{','.join(said)}" if said else name
