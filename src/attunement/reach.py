"""Which means samples can reach: those in the interior of the hull of the features seen.

Beyond it no λ has the means that were asked for, and the search for one would run off to infinity.
So what is asked for is held against the samples first, and an error says which mean it is, in
which context, and what can be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from attunement.core import AttunementError, Context
from attunement.factors import shown


class Reach(NamedTuple):
    """A mean that is asked for: of which feature, and whether in every context."""

    name: str
    mean: float
    each: bool


def require_reachable(
    wanted: Sequence[Reach],
    features: Tensor,
    allowed: Tensor,
    context: Tensor,
    contexts: Sequence[Context],
) -> None:
    """Raise unless the means lie in the interior of the convex hull of the features seen.

    Args:
        wanted: K means.
        features: [N, K] float64.
        allowed: [N] bool, whether the other factors allow a sample.
        context: [N] int64.
        contexts: C contexts.

    Raises:
        AttunementError: They don't; the message says which mean, where, and what is reachable.
    """
    each = [column for column, entry in enumerate(wanted) if entry.each]
    if each:
        require_all_seen(allowed, context, contexts)
    rows_of = [context == index for index in range(len(contexts))]
    groups = [features[rows & allowed] for rows in rows_of if bool((rows & allowed).any())]
    lowest = torch.stack([group.min(0).values for group in groups])
    highest = torch.stack([group.max(0).values for group in groups])
    for column, entry in enumerate(wanted):
        values = features[:, column]
        if entry.each:
            bounds = zip(lowest[:, column].tolist(), highest[:, column].tolist(), strict=True)
            faults = {
                index: fault
                for index, (low, high) in enumerate(bounds)
                if (fault := _fault(entry, low, high, values[rows_of[index]], len(groups[index])))
            }
            if faults:
                where = _listed(list(faults), contexts)
                raise AttunementError(f"in {where}: {next(iter(faults.values()))}")
        else:
            low, high = float(lowest[:, column].mean()), float(highest[:, column].mean())
            if fault := _fault(entry, low, high, values, int(allowed.sum())):
                raise AttunementError(fault)
    _require_together(wanted, groups, each, contexts)


def require_all_seen(allowed: Tensor, context: Tensor, contexts: Sequence[Context]) -> None:
    """Raise unless some sample of every context is allowed.

    Args:
        allowed: [N] bool.
        context: [N] int64.
        contexts: C contexts.

    Raises:
        AttunementError: In some context there is none, so no moment can be held in it.
    """
    counts = torch.zeros(len(contexts), dtype=torch.long).index_add(0, context, allowed.long())
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if empty:
        raise AttunementError(
            f"in {_listed(empty, contexts)}: none of {int((context == empty[0]).sum())} samples "
            "satisfies the hard constraints, so no moment can be held there; leave such contexts "
            "out, loosen the constraint or give it a floor"
        )


def _fault(entry: Reach, low: float, high: float, values: Tensor, count: int) -> str | None:
    """What is wrong with a mean, or None.

    Args:
        entry: What is asked.
        low: The lowest value of the feature where the other factors allow a sample.
        high: The highest.
        values: All values, also where they don't.
        count: How many samples they allow.
    """
    asked, seen = f"{entry.name} = {entry.mean:g}", f"in {_count(count)}"
    if low == high:
        fixed = bool((values != low).any())
        why = (
            "because a constraint fixes it"
            if fixed
            else "for the base never produces anything else: draw more, or from a policy that does"
        )
        return f"{asked} can't be matched: it is always {low:g} {seen}, {why}"
    if entry.mean in (0.0, 1.0) and (low, high) == (0.0, 1.0):
        return f"{asked} is a constraint, not a proportion: use constrain instead"
    if not low < entry.mean < high:
        return f"{asked} can't be reached: it lies between {low:g} and {high:g} {seen}"
    return None


def _require_together(
    wanted: Sequence[Reach],
    groups: Sequence[Tensor],
    each: Sequence[int],
    contexts: Sequence[Context],
) -> None:
    """Means that can be reached alone must lie on no side of a plane through what was seen."""
    if fault := _fault_together(wanted, range(len(wanted)), torch.cat(list(groups))):
        raise AttunementError(fault)
    for index, features in enumerate(groups if each else ()):
        if fault := _fault_together(wanted, each, features):
            raise AttunementError(f"in {_listed([index], contexts)}: {fault}")


def _fault_together(
    wanted: Sequence[Reach], columns: Sequence[int], features: Tensor
) -> str | None:
    means = torch.tensor([wanted[column].mean for column in columns], dtype=torch.float64)
    if len(columns) < 2 or not _separable(features[:, list(columns)] - means):
        return None
    listed = ", ".join(f"{wanted[column].name} = {wanted[column].mean:g}" for column in columns)
    return (
        f"{listed} can't be reached together in {_count(len(features))}: "
        "the features don't combine that way"
    )


def _separable(centred: Tensor) -> bool:
    """Whether a plane through 0 has all rows [N, K] on one side of it: a linear program."""
    rows = np.unique(centred.numpy(), axis=0)
    rows = rows / np.abs(rows).max(0)
    plane = linprog(-rows.sum(0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1))
    return plane.status == 0 and -plane.fun > 1e-7


def _count(samples: int) -> str:
    return f"{samples} samples that satisfy the other factors"


def _listed(indices: Sequence[int], contexts: Sequence[Context]) -> str:
    first = indices[0]
    name = f"context {first} ({shown(contexts[first])})"
    further = len(indices) - 1
    return name if further == 0 else f"{name} and {further} more of {len(contexts)} contexts"
