"""Scorers that a user writes: a plain function, in a notebook or in a file.

The function is read by the names of its parameters and can have one of three forms (`FORMS`).
The first is that of TRL's reward functions, so one that was written for `GRPOTrainer` is a scorer
as it stands. All get the whole batch at once. None means "nothing to say of this sample": it adds
nothing to the target there and is counted. A batch may be all None (rewards for several tasks are
written so); `require_applicable` asks a whole bank for more.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

import numpy as np
from torch import Tensor

from attunement.core import AttunementError, Context, Samples, Scorer, Scores
from attunement.scorers.base import NamedScorer, as_scores, checked, describe

UserFunction: TypeAlias = Callable[..., object]
"""A function of one of the three forms."""

FORMS = """
    def score(prompts, completions, **columns): as in TRL
    def score(texts): a list of completions
    def score(contexts, texts): with contexts[i].prompt and contexts[i].columns
each returns a list with a number, a bool or None for every sample"""
"""The forms that a user's function can have, as errors show them."""

_TRL_PARAMETERS = frozenset({"prompts", "completions", "completion_ids"})


@dataclass(frozen=True)
class UserScorer:
    """A user's function as a scorer.

    Attributes:
        name: How tables and recipes call it.
        function: The function, of one of the three forms.
    """

    name: str
    function: UserFunction

    def __call__(self, samples: Samples) -> Scores:
        """Call the function once for all N samples.

        Raises:
            AttunementError: The function raised, or wants a column that isn't there, or returned
                anything but N finite numbers or None.
        """
        arguments = _arguments(self, samples)
        try:
            returned = self.function(**arguments)
        except Exception as error:  # a user's function may raise anything
            where = _find_culprit(self, samples)
            raise AttunementError(
                f"the scorer {self.name} raised {type(error).__name__} on {where}: {error}"
            ) from error
        return checked(self.name, as_scores(_numbers(self.name, returned, samples)), samples)


def read_scorer(thing: Scorer | UserFunction, name: str | None = None) -> Scorer:
    """A scorer from a scorer or from a user's plain function.

    Args:
        thing: A `Scorer`, or a function of one of the forms of `FORMS`.
        name: How to call it; its own name by default.

    Raises:
        AttunementError: `thing` is neither; the message shows the three forms.
    """
    if isinstance(thing, type) or not callable(thing):
        raise AttunementError(f"{thing!r} is neither a scorer nor a function of the forms{FORMS}")
    if isinstance(thing, Scorer):
        return thing if name is None else NamedScorer(name, thing)
    known_as = name or getattr(thing, "__name__", type(thing).__name__)
    if problem := _misfit(thing):
        raise AttunementError(
            f"the scorer {known_as} {problem}; write it in one of the forms{FORMS}"
        )
    return UserScorer(known_as, thing)


def _misfit(function: UserFunction) -> str | None:
    """What keeps a function from being of one of the three forms, or None."""
    if inspect.iscoroutinefunction(function):
        return "is async, and nothing here would await it"
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return "has no signature that could be read"
    if not any(p.kind is p.POSITIONAL_ONLY for p in parameters.values()):
        plain = _demanded(function) in ({"texts"}, {"contexts", "texts"})
        if plain or _TRL_PARAMETERS & set(parameters):
            return None
    return f"has the parameters {inspect.signature(function)}"


def _demanded(function: UserFunction) -> set[str]:
    """The parameters that have no default."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in variable
    }


def _arguments(scorer: UserScorer, samples: Samples) -> dict[str, object]:
    parameters = inspect.signature(scorer.function).parameters
    if not _TRL_PARAMETERS & set(parameters):
        offered = {"texts": samples.texts, "contexts": samples.sample_contexts}
        return {key: value for key, value in offered.items() if key in parameters}
    offered = _trl_arguments(samples)
    if absent := sorted(_demanded(scorer.function) - set(offered)):
        columns = sorted({name for context in samples.contexts for name in context.columns})
        raise AttunementError(
            f"the scorer {scorer.name} wants the column {absent[0]!r}; the contexts have "
            f"{', '.join(columns) or 'no columns'}: name it so, or give it a default"
        )
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {key: value for key, value in offered.items() if takes_all or key in parameters}


def _trl_arguments(samples: Samples) -> dict[str, object]:
    """What TRL's trainers pass to a reward function, as it is where no trainer runs."""
    contexts = samples.sample_contexts
    names = dict.fromkeys(name for context in samples.contexts for name in context.columns)
    columns = {name: [context.columns.get(name) for context in contexts] for name in names}
    pairs = list(zip(contexts, samples.texts, strict=True))
    return {
        **columns,
        "prompts": [_trl_prompt(context) for context in contexts],
        "completions": [_trl_completion(context, text) for context, text in pairs],
        "completion_ids": samples.token_lists,
        "trainer_state": None,
        "log_extra": _log_nothing,
        "log_metric": _log_nothing,
    }


def _trl_prompt(context: Context) -> str | list[dict[str, str]]:
    if isinstance(context.prompt, str):
        return context.prompt
    return [dict(message) for message in context.prompt]


def _trl_completion(context: Context, text: str) -> str | list[dict[str, str]]:
    conversational = not isinstance(context.prompt, str)
    return [{"role": "assistant", "content": text}] if conversational else text


def _log_nothing(*_: object, **__: object) -> None:
    """Stand for TRL's loggers where no trainer runs that they could log to."""


def _find_culprit(scorer: UserScorer, samples: Samples) -> str:
    """Halve the batch until one sample is left that makes the function raise."""
    first, last = 0, len(samples)
    while last - first > 1:
        middle = (first + last) // 2
        if _raises(scorer, samples[first:middle]):
            last = middle
        elif _raises(scorer, samples[middle:last]):
            first = middle
        else:
            return f"samples {first} to {last - 1} together ({describe(samples, first)} first)"
    return describe(samples, first) if len(samples) else "no samples"


def _raises(scorer: UserScorer, samples: Samples) -> bool:
    try:
        scorer.function(**_arguments(scorer, samples))
    except Exception:  # a user's function may raise anything
        return True
    return False


def _numbers(name: str, returned: object, samples: Samples) -> list[float | None]:
    rows = returned.tolist() if isinstance(returned, Tensor | np.ndarray) else returned
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise AttunementError(
            f"the scorer {name} returned a {type(returned).__name__} for {len(samples)} samples; "
            "it must return a list with a number for each"
        )
    if len(rows) != len(samples):
        raise AttunementError(
            f"the scorer {name} returned {len(rows)} numbers for {len(samples)} samples; it must "
            "return one for each"
        )
    return [_number(name, row, samples, index) for index, row in enumerate(rows)]


def _number(name: str, row: object, samples: Samples, index: int) -> float | None:
    entry = row.tolist() if isinstance(row, np.generic | Tensor) else row
    if entry is None:
        return None
    if not isinstance(entry, Real):
        raise AttunementError(
            f"the scorer {name} returned {entry!r}, a {type(entry).__name__}, for "
            f"{describe(samples, index)}; it must return numbers, bools or None"
        )
    try:
        return float(entry)
    except OverflowError:
        return math.inf
