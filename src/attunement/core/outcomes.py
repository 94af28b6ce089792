"""The sample space of a distribution: where a sequence starts, what ends it, where it is cut.

Two distributions can only be compared on the same outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from attunement.core.errors import AttunementError

StopFunction: TypeAlias = Callable[[str], int | None]
"""Where in a decoded completion it ends (a character offset), or None while it goes on."""


@dataclass(frozen=True)
class Stop:
    """What ends a completion.

    A completion ends at the first token at which it is the end token, or at which the decoded
    text meets a stop. That token counts in the probability; the stop text is cut from `texts`.

    Attributes:
        token: The end token's id, or None where there is none.
        further_tokens: Other ids that end a completion; many chat models have several.
        strings: Texts that end a completion where they begin.
        function: A function from the decoded completion to the offset at which it ends, or None.
    """

    token: int | None = None
    strings: tuple[str, ...] = ()
    function: StopFunction | None = None
    further_tokens: frozenset[int] = frozenset()

    @property
    def tokens(self) -> frozenset[int]:
        """Every id that ends a completion."""
        return self.further_tokens | (frozenset() if self.token is None else {self.token})

    @property
    def reads_text(self) -> bool:
        """Whether a sampler has to decode the text to know where to stop."""
        return bool(self.strings) or self.function is not None

    def find(self, text: str) -> int | None:
        """The offset at which `text` ends, or None if no stop occurs in it."""
        found = [at for string in self.strings if (at := text.find(string)) >= 0]
        if self.function is not None and (at := self.function(text)) is not None:
            found.append(at)
        return min(found, default=None)


@dataclass(frozen=True)
class Outcomes:
    """The sample space of a distribution: equal for base, policy, proposal and target.

    Attributes:
        start: Id of the token that stands before everything, or None where the context is enough.
        stop: What ends a completion.
        max_new_tokens: The length at which a completion is cut; such a completion is an outcome
            like any other, whose probability is the product of its tokens.
        forbidden: Ids that are never drawn; the rest is renormalised.
    """

    start: int | None
    stop: Stop
    max_new_tokens: int
    forbidden: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise AttunementError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")

    def to_json(self) -> dict[str, object]:
        """A description for recipes; a stop function appears by its name."""
        function = self.stop.function
        return {
            "start": self.start,
            "stop_token": self.stop.token,
            "further_stop_tokens": sorted(self.stop.further_tokens),
            "stop_strings": list(self.stop.strings),
            "stop_function": None if function is None else getattr(function, "__name__", "custom"),
            "max_new_tokens": self.max_new_tokens,
            "forbidden": sorted(self.forbidden),
        }
