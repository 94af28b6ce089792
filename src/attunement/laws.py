"""Laws that any distribution, scorer or target must satisfy: call them on your own.

Each `check_...` returns nothing when the laws hold and raises `LawError`, which says what was
expected and what was found. The project's own distributions are held to the same checks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.stats import chi2
from torch import Tensor

from attunement.core import (
    AttunementError,
    Context,
    Distribution,
    Samples,
    Scorer,
    Scores,
    Target,
    as_contexts,
)
from attunement.scorers import evaluate

LOG_PROB_TOLERANCE = 1e-4
"""Nats by which recorded and recomputed log-probabilities of float32 models may differ."""
_SIGNIFICANCE = 1e-6
_ROUNDING = 1e-5


class LawError(AttunementError):
    """A law doesn't hold."""


def check_distribution(
    distribution: Distribution,
    contexts: Sequence[Context | str] | None = None,
    *,
    n: int = 64,
    seed: int = 0,
    tolerance: float = LOG_PROB_TOLERANCE,
) -> None:
    """Check shapes, seeds, end tokens and that `sample` records what `log_prob` says.

    Whether samples occur as often as `log_prob` says is what `check_goodness_of_fit` checks.

    Args:
        distribution: What to check.
        contexts: Contexts to sample from; ragged prompts find the most.
        n: Samples for each context.
        seed: Seed of the samples.
        tolerance: Nats that recorded and recomputed log-probabilities may differ by.

    Raises:
        LawError: A law doesn't hold.
    """
    contexts = as_contexts(contexts)
    generator = torch.Generator().manual_seed(seed)
    untouched = generator.get_state()
    samples = distribution.sample(contexts, n, generator=generator)
    used = not torch.equal(generator.get_state(), untouched)
    _demand(used, "sample must draw its randomness from the generator it is given")
    _check_shapes(samples, len(contexts), n)
    _check_outcomes(samples, distribution)
    again = _draw(distribution, contexts, n, seed)
    same = torch.equal(samples.tokens, again.tokens)
    _demand(same, "the same seed must give the same samples again")
    fresh = _fresh_log_prob(distribution, samples)
    worst = float((fresh - samples.log_prob).abs().max())
    _demand(
        worst <= tolerance,
        f"recorded and recomputed log-probabilities differ by {worst:.2g} nats, "
        f"beyond {tolerance:.2g}",
    )
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    shuffled = _fresh_log_prob(distribution, samples[order])
    worst = float((shuffled - fresh[order]).abs().max())
    _demand(worst <= tolerance, f"log_prob depends on the order of a batch, by {worst:.2g} nats")


def check_goodness_of_fit(
    distribution: Distribution,
    support: Samples,
    *,
    n: int = 20_000,
    seed: int = 0,
) -> None:
    """Hold `sample` against `log_prob` on all outcomes of one context, by a χ² test.

    Args:
        distribution: What to check.
        support: Every outcome of a single context, e.g. from `Tabular.enumerate`.
        n: Samples to draw.
        seed: Seed of the samples.

    Raises:
        LawError: Probabilities don't sum to 1, or the samples don't follow them.
        AttunementError: The support has several contexts.
    """
    if len(support.contexts) != 1:
        raise AttunementError(
            f"the goodness of fit is checked for one context, and there are {len(support.contexts)}"
        )
    probabilities = _fresh_log_prob(distribution, support).exp()
    total = float(probabilities.sum())
    _demand(abs(total - 1) < 1e-4, f"the probabilities of all outcomes sum to {total:.6f}")
    cells = {tuple(row): cell for cell, row in enumerate(support.token_lists)}
    drawn = _draw(distribution, support.contexts, n, seed)
    counts = torch.zeros(len(support), dtype=torch.float64)
    for row in drawn.token_lists:
        _demand(tuple(row) in cells, f"{row} was drawn but isn't among the outcomes")
        counts[cells[tuple(row)]] += 1
    level = goodness_of_fit(counts, probabilities / total)
    _demand(
        level > _SIGNIFICANCE,
        f"samples don't follow log_prob: a χ² this large has probability {level:.1g}",
    )


def goodness_of_fit(counts: Tensor, probabilities: Tensor) -> float:
    """The p-value of Pearson's χ² test; rare outcomes are pooled until five are expected.

    Args:
        counts: [K] how often each outcome was drawn.
        probabilities: [K] what it should be, summing to 1.

    Returns:
        The probability of a χ² at least this large; 0 where an impossible outcome was drawn.
    """
    if bool((counts[probabilities == 0] > 0).any()):
        return 0.0
    ascending = probabilities.argsort()
    observed = counts[ascending].double()
    expected = (probabilities[ascending] * counts.sum()).double()
    pooled = int((expected < 5).sum())
    if 0 < float(expected[:pooled].sum()) < 5:
        pooled += 1
    observed = torch.cat([observed[:pooled].sum()[None], observed[pooled:]])
    expected = torch.cat([expected[:pooled].sum()[None], expected[pooled:]])
    kept = expected > 0
    statistic = float(((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum())
    return float(chi2.sf(statistic, max(1, int(kept.sum()) - 1)))


def check_scorer(scorer: Scorer, samples: Samples) -> None:
    """Check that a scorer is a function of each sample alone, gives one number each, and a name.

    Raises:
        LawError: A law doesn't hold.
    """
    _demand(bool(scorer.name), "a scorer needs a name")
    scores = evaluate(scorer, samples)
    same = _agree(scores, evaluate(scorer, samples))
    _demand(same, f"{scorer.name} says different things twice")
    backwards = torch.arange(len(samples) - 1, -1, -1)
    for rows in (backwards, backwards[::2]):
        expected = Scores(scores.values[rows], scores.applicable[rows])
        _demand(
            _agree(expected, evaluate(scorer, samples[rows])),
            f"{scorer.name} scores a sample differently beside other samples",
        )


def check_target(target: Target, samples: Samples) -> None:
    """Check that a target's log-potential is a number or minus infinity, sample by sample.

    Raises:
        LawError: A law doesn't hold.
    """
    potential = target.log_potential(samples)
    _demand(potential.shape == (len(samples),), "log_potential must give one number a sample")
    _demand(potential.dtype == torch.float64, "log_potential must be float64")
    legal = torch.isfinite(potential) | torch.isneginf(potential)
    _demand(bool(legal.all()), "log_potential must be finite or minus infinity")
    half = len(samples) // 2
    if half:
        parts = [target.log_potential(samples[:half]), target.log_potential(samples[half:])]
        same = torch.allclose(potential, torch.cat(parts), rtol=_ROUNDING, atol=_ROUNDING)
        _demand(same, "log_potential depends on the batch")


def _agree(first: Scores, second: Scores) -> bool:
    """Equal but for the rounding of a model that scores batches of another shape."""
    values = torch.allclose(first.values, second.values, rtol=_ROUNDING, atol=_ROUNDING)
    return values and torch.equal(first.applicable, second.applicable)


def _check_shapes(samples: Samples, contexts: int, n: int) -> None:
    count = contexts * n
    _demand(len(samples) == count, f"{count} samples were asked for, {len(samples)} came")
    _demand(samples.mask.shape == samples.tokens.shape, "tokens and mask differ in shape")
    for name in ("log_prob", "finished", "context_index"):
        shape = tuple(getattr(samples, name).shape)
        _demand(shape == (count,), f"{name} has the shape {shape}, not ({count},)")
    ordered = torch.arange(contexts).repeat_interleave(n)
    _demand(
        torch.equal(samples.context_index, ordered),
        f"the {n} completions of a context must stand next to each other, in order of contexts",
    )
    _demand(samples.log_prob.dtype == torch.float64, "log_prob must be summed in float64")
    finite = bool(torch.isfinite(samples.log_prob).all())
    _demand(finite, "the log-probability of a drawn sample must be finite")
    _demand(bool((samples.log_prob <= 1e-6).all()), "a log-probability is above 0")
    contiguous = samples.mask.long().cummin(1).values.sum(1) == samples.lengths
    _demand(bool(contiguous.all()), "a mask must be true on the first tokens and false after")


def _check_outcomes(samples: Samples, distribution: Distribution) -> None:
    same = samples.outcomes == distribution.outcomes
    _demand(same, "the samples have other outcomes than the distribution that drew them")
    limit = distribution.outcomes.max_new_tokens
    _demand(int(samples.lengths.max()) <= limit, f"a completion is longer than {limit} tokens")
    unfinished_short = ~samples.finished & (samples.lengths < limit)
    _demand(not bool(unfinished_short.any()), "an unfinished completion is shorter than the limit")
    forbidden = torch.tensor(sorted(distribution.outcomes.forbidden), dtype=torch.long)
    drawn = torch.isin(samples.tokens, forbidden) & samples.mask
    _demand(not bool(drawn.any()), "a forbidden token was drawn")
    stop = distribution.outcomes.stop
    ends = torch.isin(samples.tokens, torch.tensor(sorted(stop.tokens), dtype=torch.long))
    ends &= samples.mask
    last = torch.arange(samples.tokens.shape[1]) == (samples.lengths - 1).unsqueeze(1)
    _demand(not bool((ends & ~last).any()), "an end token stands inside a completion")
    by_token = (ends & last).any(1)
    _demand(
        bool((samples.finished | ~by_token).all()), "a completion with an end token isn't finished"
    )
    if not stop.reads_text:
        _demand(
            bool((by_token | ~samples.finished).all()),
            "a finished completion has no end token at its end: the mask must include it",
        )


def _draw(distribution: Distribution, contexts: Sequence[Context], n: int, seed: int) -> Samples:
    return distribution.sample(contexts, n, generator=torch.Generator().manual_seed(seed))


def _fresh_log_prob(distribution: Distribution, samples: Samples) -> Tensor:
    with torch.no_grad():
        log_prob = distribution.log_prob(samples)
    shape, count = tuple(log_prob.shape), len(samples)
    _demand(shape == (count,), f"log_prob gives the shape {shape}, not ({count},)")
    _demand(log_prob.dtype == torch.float64, "log_prob must be summed in float64")
    return log_prob


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise LawError(sentence)
