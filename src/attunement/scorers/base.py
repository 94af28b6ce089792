"""What every scorer of this package is made of, and the check that each result goes through.

A scorer is anything with a `name` that turns N samples into N numbers (`core.Scorer`). Built-in
ones are `NamedScorer`: a plain function of samples under the name that the command line knows it
by. `evaluate` is how targets and reports call a scorer, because it accepts nothing but N finite
numbers: a NaN that passed here would surface as a broken gradient a thousand steps later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from attunement import processes
from attunement.core import AttunementError, Samples, Scorer, Scores

SHOWN_CHARACTERS = 60
"""How much of a text an error message shows."""


@dataclass(frozen=True)
class NamedScorer:
    """A function of samples with a name; two of equal name are the same scorer.

    Attributes:
        name: The SPEC that builds the scorer again, e.g. `uses_name:self`.
        function: Samples to [N] numbers, or to `Scores`.
    """

    name: str
    function: Callable[[Samples], Tensor | Scores] = field(compare=False, repr=False)

    def __call__(self, samples: Samples) -> Tensor | Scores:
        """The feature of each of the N samples."""
        return self.function(samples)


def as_scores(numbers: Sequence[float | None]) -> Scores:
    """`Scores` from N numbers; None is not applicable."""
    return Scores(
        values=torch.tensor([0.0 if x is None else x for x in numbers], dtype=torch.float64),
        applicable=torch.tensor([x is not None for x in numbers], dtype=torch.bool),
    )


def describe(samples: Samples, index: int) -> str:
    """Which sample an error is about: its index and, where there is a decoder, its beginning."""
    if samples.decoder is None:
        return f"sample {index}"
    text = samples.texts[index]
    shown = text[:SHOWN_CHARACTERS]
    return f"sample {index} ({shown!r}{'...' if len(text) > len(shown) else ''})"


def evaluate(scorer: Scorer, samples: Samples) -> Scores:
    """Call a scorer and hold it to its contract; several processes share the samples out.

    Args:
        scorer: The scorer.
        samples: N samples.

    Returns:
        [N] float64 values, 0 where not applicable, and [N] bool applicable; both on the CPU.

    Raises:
        AttunementError: The result isn't a tensor or `Scores` of shape [N], or a value that
            applies is NaN or infinite; the message names the scorer and the sample.
    """
    if not processes.is_shared():
        return checked(scorer.name, scorer(samples), samples)
    own = processes.own_rows(len(samples))
    with processes.alone():
        mine = _nothing() if len(own) == 0 else evaluate(scorer, samples[own])
    return Scores(*(processes.gather_rows(column, len(samples)) for column in mine))


def _nothing() -> Scores:
    return Scores(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.bool))


def checked(name: str, result: Tensor | Scores, samples: Samples) -> Scores:
    """What the scorer called `name` returned, as `evaluate` describes it."""
    if isinstance(result, Tensor):
        result = Scores(result, torch.ones(result.shape, dtype=torch.bool))
    if not isinstance(result, Scores):
        raise AttunementError(
            f"the scorer {name} returned a {type(result).__name__}; "
            "it must return a tensor or Scores"
        )
    for part in result:
        if part.shape != (len(samples),):
            raise AttunementError(
                f"the scorer {name} returned the shape {list(part.shape)} for "
                f"{len(samples)} samples; it must return one number a sample"
            )
    applicable = result.applicable.to("cpu", torch.bool)
    values = result.values.detach().to("cpu", torch.float64).masked_fill(~applicable, 0.0)
    refused = (~values.isfinite()).nonzero().flatten().tolist()
    if refused:
        raise AttunementError(
            f"the scorer {name} gave {float(values[refused[0]])} for "
            f"{describe(samples, refused[0])}; every score must be a finite number"
        )
    return Scores(values, applicable)


def require_applicable(features: Mapping[str, Scores]) -> None:
    """Raise if a feature applies to none of the samples: whatever it is for, it would do nothing.

    It is asked of a whole bank, for a few samples may well all be out of a scorer's scope.

    Args:
        features: Scorer's name to its scores, of one sample or more.

    Raises:
        AttunementError: It does; the message names the scorer.
    """
    for name, scores in features.items():
        if not bool(scores.applicable.any()):
            raise AttunementError(
                f"the scorer {name} applies to none of {len(scores.applicable)} samples (it "
                "returned None for all of them), so there is nothing to go by"
            )


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: what was meant, perhaps, and what there is."""
    names = sorted(known)
    near = get_close_matches(wanted, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}there is {', '.join(names) or 'nothing'}"
