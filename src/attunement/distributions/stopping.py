"""Stops: functions of a decoded completion that say where it ends.

Models of code seldom end by themselves: after the function asked for comes another one, then a
test, then a licence. `python_function_end` ends a completion where the body of a function does,
as Python's own layout rule has it: at the first line that begins at column 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from attunement.core import StopFunction

_LINE = re.compile(r"\n(?=([^\s]))")
_CONTINUES = frozenset("#)]}@")


def python_function_end(text: str) -> int | None:
    r"""The end of a completion that continues a Python function's signature or body.

    The completion ends at the first newline that is followed by a line beginning at column 0
    with something other than white space, a comment (`#`) or a closing bracket. A decorator
    belongs to what follows it: neither a line that begins with `@` nor the line after such a line
    ends the completion.

    It reads layout, not syntax. Where a string in triple quotes has text at column 0, the
    completion ends inside the string; a line joined by a backslash ends it likewise. The first
    line, which continues the prompt, never ends it.

    Args:
        text: The decoded completion, without its prompt.

    Returns:
        The offset of that newline, or None while the function goes on.
    """
    for match in _LINE.finditer(text):
        start = match.start()
        previous = text[text.rfind("\n", 0, start) + 1 : start]
        if match[1] not in _CONTINUES and not previous.startswith("@"):
            return start
    return None


STOPS: Mapping[str, StopFunction] = MappingProxyType({"python-function": python_function_end})
"""The stop functions that have a name, for the command line."""
