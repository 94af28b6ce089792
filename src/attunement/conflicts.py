"""Factors that contradict each other, found before any long work.

Some contradictions show in the description alone: a feature that is constrained and shall have a
mean besides, or that is matched in two ways. Others show on the first samples: constraints that
none of them satisfies, alone or together. Each is one sentence that names the factors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from attunement.core import AttunementError, Samples, Scores
from attunement.factors import Constraint, Factor, Moment, MomentEach, is_hard


def require_compatible(factors: Sequence[Factor]) -> None:
    """Raise unless the factors can stand in one target, as far as their description shows.

    Raises:
        AttunementError: Two scorers have one name, a feature is matched twice, or it is
            constrained and matched.
    """
    scorers = dict.fromkeys(factor.scorer for factor in factors)
    if twice := _repeated([scorer.name for scorer in scorers]):
        raise AttunementError(
            f"two different scorers are called {twice}: name one otherwise, with "
            "as_scorer(function, name=...)"
        )
    shared = [factor.scorer.name for factor in factors if isinstance(factor, Moment)]
    each = [factor.scorer.name for factor in factors if isinstance(factor, MomentEach)]
    for name in each:
        if name in shared:
            raise AttunementError(
                f"{name} is in match and in match_each: what holds in every context holds on "
                "average too, so leave one out"
            )
    if twice := _repeated([*shared, *each]):
        raise AttunementError(f"{twice} is matched twice: a feature has one mean")
    for factor in factors:
        if isinstance(factor, Constraint) and factor.scorer.name in (*shared, *each):
            raise AttunementError(_constrained_and_matched(factor))


def _constrained_and_matched(factor: Constraint) -> str:
    name = factor.scorer.name
    if factor.floor is None:
        return f"{name} is constrained to be 1 and matched besides: its mean is 1, leave one out"
    return (
        f"{name} is constrained with the floor {factor.floor:g} and matched besides: λ would undo "
        "the floor, leave one out"
    )


def why_nothing_is_allowed(
    factors: Sequence[Factor], samples: Samples, scores: Mapping[str, Scores]
) -> str:
    """A sentence on samples that the hard constraints all forbid: which ones, and their own rates.

    Args:
        factors: The factors of a target.
        samples: N samples, none of which satisfies all hard constraints.
        scores: What each scorer says of them, by name.
    """
    satisfied = {
        factor.scorer.name: factor.satisfied(scores[factor.scorer.name], samples)
        for factor in factors
        if isinstance(factor, Constraint) and is_hard(factor)
    }
    rates = {name: float(rows.double().mean()) for name, rows in satisfied.items()}
    never = [name for name, rate in rates.items() if rate == 0]
    if never:
        return f"none of {len(samples)} samples satisfies the hard constraint {never[0]}"
    pairs = combinations(satisfied, 2)
    apart = [(a, b) for a, b in pairs if not bool((satisfied[a] & satisfied[b]).any())]
    together = apart[0] if apart else tuple(satisfied)
    listed = " and ".join(f"{name} ({rates[name]:.3g} of them do)" for name in together)
    return f"none of {len(samples)} samples satisfies the hard constraints together: {listed}"


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
