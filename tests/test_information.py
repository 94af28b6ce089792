from __future__ import annotations

import random
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from attunement.core import AttunementError
from attunement.information import (
    MINIMUM_SETS,
    distinct_n,
    n_grams,
    self_bleu,
    set_statistic,
)
from attunement.intervals import mean_interval

completions = st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=2, max_size=7)


def reference_self_bleu(token_lists):
    bleu = BLEU(tokenize="none", effective_order=True)
    lines = [" ".join(map(str, tokens)) for tokens in token_lists]
    scores = [
        bleu.sentence_score(line, lines[:index] + lines[index + 1 :]).score
        for index, line in enumerate(lines)
    ]
    return sum(scores) / len(scores) / 100


# --- distinct-n -----------------------------------------------------------------------------------


def test_distinct_examples():
    assert n_grams([1, 2, 1, 2], 2) == [(1, 2), (2, 1), (1, 2)]
    assert distinct_n([[1, 2, 1, 2]], 2) == 2 / 3
    assert distinct_n([[1, 2], [2, 1]], 1) == 1 / 2
    assert distinct_n([[1, 2], [2, 1]], 2) == 1
    assert distinct_n([[1], []], 2) == 0


@settings(deadline=None)
@given(tokens=completions, n=st.integers(1, 5), seed=st.randoms(use_true_random=False))
def test_distinct_laws(tokens, n, seed):
    value = distinct_n(tokens, n)
    assert 0 <= value <= 1
    shuffled = seed.sample(tokens, len(tokens))
    assert distinct_n(shuffled, n) == value
    relabelled = [[token * 7 + 3 for token in row] for row in tokens]
    assert distinct_n(relabelled, n) == value
    assert distinct_n(tokens * 3, n) == pytest.approx(value / 3, rel=1e-12)


@settings(deadline=None)
@given(tokens=completions, n=st.integers(1, 4))
def test_distinct_is_one_only_without_a_repeat(tokens, n):
    grams = [tuple(row[start : start + n]) for row in tokens for start in range(len(row) - n + 1)]
    if grams:
        assert (distinct_n(tokens, n) == 1) == (len(set(grams)) == len(grams))


def test_distinct_wants_n():
    with pytest.raises(AttunementError, match="at least 1, not 0"):
        distinct_n([[1]], 0)


# --- self-BLEU ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(tokens=completions)
def test_self_bleu_is_sacrebleu(tokens):
    assert self_bleu(tokens) == pytest.approx(reference_self_bleu(tokens), abs=1e-12)


def test_self_bleu_of_a_larger_set_is_sacrebleu():
    draw = random.Random(0)
    tokens = [
        [min(int(draw.paretovariate(0.7)), 500) for _ in range(draw.randint(1, 40))]
        for _ in range(30)
    ]
    value = self_bleu(tokens)
    assert 0.05 < value < 0.95
    assert value == pytest.approx(reference_self_bleu(tokens), abs=1e-12)


@settings(deadline=None)
@given(tokens=completions, seed=st.randoms(use_true_random=False))
def test_self_bleu_laws(tokens, seed):
    value = self_bleu(tokens)
    assert 0 <= value <= 1 + 1e-12
    assert self_bleu(seed.sample(tokens, len(tokens))) == pytest.approx(value, abs=1e-12)
    alike = [row for row in tokens for _ in range(2)]
    share_empty = sum(not row for row in tokens) / len(tokens)
    assert self_bleu(alike) == pytest.approx(1 - share_empty, abs=1e-12)


def test_self_bleu_of_unlike_completions_is_zero():
    assert self_bleu([[1, 2, 3], [4, 5, 6], [7]]) == 0


def test_self_bleu_wants_two():
    with pytest.raises(AttunementError, match="needs 2 completions or more, not 1"):
        self_bleu([[1, 2]])


# --- sets -----------------------------------------------------------------------------------------


def mean_length(token_lists):
    return sum(map(len, token_lists)) / len(token_lists)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=40, max_size=60),
    set_size=st.integers(1, 4),
)
def test_sets_are_disjoint_and_in_order(lengths, set_size):
    token_lists = [[0] * length for length in lengths]
    seen = []

    def statistic(rows):
        assert len(rows) == set_size
        seen.extend(rows)
        return mean_length(rows)

    estimate = set_statistic(statistic, token_lists, set_size)
    used = len(lengths) // set_size * set_size
    assert all(a is b for a, b in zip(seen, token_lists[:used], strict=True))
    means = torch.tensor(lengths[:used]).double().reshape(-1, set_size).mean(1)
    expected = mean_interval(means)
    assert estimate.n == estimate.ess == used
    assert estimate.khat is None
    assert estimate.value == pytest.approx(expected.value)
    assert estimate.stderr == pytest.approx(expected.stderr)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_the_interval_covers():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(0, 6, (400, 100, 2), generator=generator).tolist()
    # Of 10 bigrams over 36 equally likely ones, 36 (1 - (35/36)^10) are expected to differ.
    truth = 36 * (1 - (35 / 36) ** 10) / 10
    estimates = [set_statistic(partial(distinct_n, n=2), draw, 10) for draw in draws]
    covered = sum(estimate.low <= truth <= estimate.high for estimate in estimates)
    # 95 % of 400 is 380, with a standard deviation of 4.4; a skewed statistic costs a little.
    assert 362 <= covered <= 394


def test_too_few_completions():
    with pytest.raises(AttunementError, match="10 sets of 7 need 70 completions, and there are 69"):
        set_statistic(self_bleu, [[1, 2]] * 69, 7)
    estimate = set_statistic(self_bleu, [[1, 2]] * 70, 7)
    assert (estimate.value, estimate.stderr) == pytest.approx((1.0, 0.0))
    assert MINIMUM_SETS == 10


def test_a_set_has_members():
    with pytest.raises(AttunementError, match="at least 1 completion"):
        set_statistic(self_bleu, [[1]], 0)
