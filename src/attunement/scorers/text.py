"""Features of any text: how long it is, whether it ended, what occurs in it.

They read the completion alone (`samples.texts`), without its context.
"""

from __future__ import annotations

import re
from functools import partial

import torch
from torch import Tensor

from attunement.core import AttunementError, Samples
from attunement.scorers.base import NamedScorer


def _length(samples: Samples) -> Tensor:
    return samples.lengths.double()


def _finished(samples: Samples) -> Tensor:
    return samples.finished.double()


def _contains(samples: Samples, string: str) -> Tensor:
    return torch.tensor([string in text for text in samples.texts], dtype=torch.float64)


def _matches(samples: Samples, pattern: re.Pattern[str]) -> Tensor:
    found = [pattern.search(text) is not None for text in samples.texts]
    return torch.tensor(found, dtype=torch.float64)


length = NamedScorer("length", _length)
"""Tokens of the completion, the end token included."""

finished = NamedScorer("finished", _finished)
"""1 where the completion ended by itself, 0 where it was cut at `max_new_tokens`."""


def contains(string: str) -> NamedScorer:
    """1 where the completion contains a string, else 0.

    Args:
        string: What to look for, upper and lower case told apart.

    Raises:
        AttunementError: `string` is empty, and so in every text.
    """
    if not string:
        raise AttunementError("contains needs a string to look for, e.g. contains:amazing")
    return NamedScorer(f"contains:{string}", partial(_contains, string=string))


def regex(pattern: str) -> NamedScorer:
    """1 where a regular expression (Python's `re.search`) matches in the completion, else 0.

    Args:
        pattern: The expression.

    Raises:
        AttunementError: `pattern` isn't a regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise AttunementError(f"{pattern!r} is not a regular expression: {error}") from error
    return NamedScorer(f"regex:{pattern}", partial(_matches, pattern=compiled))
