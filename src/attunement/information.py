"""Statistics of sets of completions: how alike the things are that a language says.

A model that has collapsed says few things over and over. That shows in no single completion, so
these are not scorers; they look at a set of m completions. Both depend on m, so figures compare at
equal m only:

- distinct-n (Li et al., arXiv 1510.03055): the share of different n-grams among all n-grams;
- self-BLEU (Zhu et al., arXiv 1802.01886): the mean BLEU of each completion against the m - 1
  others as its references; near 1 where all are alike.

Their intervals come from ten or more disjoint sets. Resampling with replacement would repeat
completions within a set, which is the very thing that they measure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from attunement.core import AttunementError, Estimate
from attunement.intervals import mean_interval

TokenLists: TypeAlias = Sequence[Sequence[int]]
"""Completions as token ids, without padding, e.g. `samples.token_lists`."""

MINIMUM_SETS = 10
"""Disjoint sets that an interval needs."""

HIGHEST_ORDER = 4
"""The longest n-grams that BLEU compares."""


def n_grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """The n-grams of one completion, in order, repeats included."""
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def distinct_n(token_lists: TokenLists, n: int) -> float:
    """The share of different n-grams among all n-grams of a set of completions.

    Args:
        token_lists: The m completions of the set.
        n: Tokens in an n-gram, 1 or more.

    Returns:
        A number in [0, 1]; 0 where no completion has n tokens.

    Raises:
        AttunementError: `n` is below 1.
    """
    if n < 1:
        raise AttunementError(f"distinct-n needs n of at least 1, not {n}")
    found = [gram for tokens in token_lists for gram in n_grams(tokens, n)]
    return len(set(found)) / max(1, len(found))


def self_bleu(token_lists: TokenLists) -> float:
    """The mean BLEU of each completion of a set against all others as its references.

    BLEU-4 of a sentence as sacrebleu computes it (Post, arXiv 1804.08771), tokens as words,
    exponential smoothing, and orders that the completion is too short for left out. A count is
    clipped at the largest count in any other completion: the largest of all, or the second
    largest for the completion that has the largest. So the cost is linear in the tokens.

    Args:
        token_lists: The m completions of the set, m at least 2.

    Returns:
        A number in [0, 1].

    Raises:
        AttunementError: There are fewer than two completions.
    """
    from sacrebleu.metrics.bleu import BLEU

    if len(token_lists) < 2:
        raise AttunementError(f"self-BLEU needs 2 completions or more, not {len(token_lists)}")
    counts = [_count_all_orders(tokens) for tokens in token_lists]
    largest = _two_largest(counts)
    lengths = sorted(len(tokens) for tokens in token_lists)
    scores = []
    for index, tokens in enumerate(token_lists):
        correct = [0] * HIGHEST_ORDER
        for gram, count in counts[index].items():
            first, owner, second = largest[gram]
            correct[len(gram) - 1] += min(count, second if owner == index else first)
        total = [max(0, len(tokens) - order) for order in range(HIGHEST_ORDER)]
        reference = _closest_other(lengths, len(tokens))
        score = BLEU.compute_bleu(
            correct, total, len(tokens), reference, smooth_method="exp", effective_order=True
        )
        scores.append(score.score / 100)
    return sum(scores) / len(scores)


def _count_all_orders(tokens: Sequence[int]) -> Counter[tuple[int, ...]]:
    orders = range(1, HIGHEST_ORDER + 1)
    return Counter(gram for order in orders for gram in n_grams(tokens, order))


def _two_largest(
    counts: Sequence[Counter[tuple[int, ...]]],
) -> dict[tuple[int, ...], tuple[int, int, int]]:
    """For each n-gram its largest count, which completion has that, and the second largest."""
    largest: dict[tuple[int, ...], tuple[int, int, int]] = {}
    for index, counter in enumerate(counts):
        for gram, count in counter.items():
            first, owner, second = largest.get(gram, (0, -1, 0))
            if count > first:
                largest[gram] = (count, index, first)
            elif count > second:
                largest[gram] = (first, owner, count)
    return largest


def _closest_other(lengths: Sequence[int], length: int) -> int:
    """The closest of the sorted lengths once `length` itself is taken out; the shorter of two."""
    position = bisect_left(lengths, length)
    others = [*lengths[max(0, position - 1) : position], *lengths[position + 1 : position + 2]]
    return min(others, key=lambda other: (abs(other - length), other))


def set_statistic(
    statistic: Callable[[TokenLists], float], token_lists: TokenLists, set_size: int = 100
) -> Estimate:
    """A statistic of sets of a fixed number of completions, with its interval.

    The completions are cut into disjoint sets in the order given, and those left over are not
    used. The sets have to be independent of each other: with several completions a context, choose
    a multiple of their number as the size.

    Args:
        statistic: A function of the completions of one set, e.g. `self_bleu` or
            `functools.partial(distinct_n, n=2)`.
        token_lists: Completions drawn from the distribution.
        set_size: Completions in a set.

    Returns:
        The mean over sets with Student's t interval; n and ess are the completions used.

    Raises:
        AttunementError: Fewer than ten sets can be made.
    """
    if set_size < 1:
        raise AttunementError(f"a set needs at least 1 completion, not {set_size}")
    sets = len(token_lists) // set_size
    if sets < MINIMUM_SETS:
        raise AttunementError(
            f"{MINIMUM_SETS} sets of {set_size} need {MINIMUM_SETS * set_size} completions, and "
            f"there are {len(token_lists)}: draw more, or make the sets smaller"
        )
    starts = range(0, sets * set_size, set_size)
    values = [statistic(token_lists[start : start + set_size]) for start in starts]
    interval = mean_interval(torch.tensor(values, dtype=torch.float64))
    used = sets * set_size
    return Estimate(*interval, n=used, ess=float(used))
