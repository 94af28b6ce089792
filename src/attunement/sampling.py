"""Draw from a target without training anything.

- *Rejection* is exact where P <= a, as for every hard constraint: draw from the base, keep with
  probability P/a.
- *Quasi-rejection* (Eikema et al. 2022, arXiv 2112.05702) keeps x ~ q with probability
  min(1, P/(β q)), which samples p_β ∝ min(P, β q): β trades acceptance for closeness to p, and
  both are reported.
- *Importance resampling* draws a pool from q and resamples it by P/q; exact as the pool grows.

Samples keep the log-probability of the proposal that drew them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attunement.core import (
    AttunementError,
    Context,
    Distribution,
    Estimate,
    Samples,
    Target,
    as_contexts,
    require_proposal,
)
from attunement.divergences import total_variation
from attunement.estimators import divergence, sample_mean
from attunement.evidence import POLICY, Evidence, effective_sample_size


@dataclass(frozen=True)
class Draws:
    """Samples of a target and what they cost.

    Attributes:
        samples: The accepted samples, n for each context that reached n.
        draws: [C] int64, how many proposals each context took.
        accepted: [C] int64, how many of them were accepted, surplus ones included.
    """

    samples: Samples
    draws: Tensor
    accepted: Tensor

    @property
    def acceptance(self) -> Estimate:
        """The acceptance rate over all contexts, with Wilson's interval."""
        drawn, accepted = int(self.draws.sum()), int(self.accepted.sum())
        return sample_mean((torch.arange(drawn) < accepted).double())


def rejection(
    target: Target,
    contexts: Sequence[Context | str] | None,
    n: int,
    *,
    generator: torch.Generator,
    budget: int = 1000,
) -> Draws:
    """Exact samples of a target with P <= a, such as any hard constraint.

    Args:
        target: The target; a log-potential above 0 is an error.
        contexts: C contexts.
        n: Samples for each context.
        generator: Randomness.
        budget: Draws allowed for each sample wanted; a context that needs more is an error.

    Raises:
        AttunementError: P > a for a sample, or the budget is used up.
    """

    def log_acceptance(samples: Samples) -> Tensor:
        potential = target.log_potential(samples)
        if bool((potential > 1e-9).any()):
            raise AttunementError(
                "rejection is exact only where the target lies below its base, as for constraints; "
                "use quasi_rejection for tilts and matched moments"
            )
        return potential

    return _accept(target.base, log_acceptance, contexts, n, generator, budget)


@dataclass(frozen=True)
class QuasiRejection:
    """Samples of p_β and how far p_β is from the target.

    Attributes:
        draws: The accepted samples and their cost.
        log_beta: log β.
        total_variation: TV(p_β, p), estimated on a pool of the proposal's samples.
    """

    draws: Draws
    log_beta: float
    total_variation: Estimate


def quasi_rejection(
    target: Target,
    contexts: Sequence[Context | str] | None,
    n: int,
    *,
    acceptance: float = 0.1,
    proposal: Distribution | None = None,
    pool: int = 2048,
    generator: torch.Generator,
    budget: int = 1000,
) -> QuasiRejection:
    """Samples near a target, at an acceptance rate that you choose (arXiv 2112.05702).

    Args:
        target: The target.
        contexts: C contexts.
        n: Samples for each context.
        acceptance: The acceptance rate over all contexts that β is set for, in (0, 1]; lower is
            nearer to p. Where fewer of the proposal's samples satisfy a constraint, their share.
        proposal: q; the base by default. It needs full support.
        pool: Proposal samples for each context from which β and the distance are found.
        generator: Randomness.
        budget: Draws allowed for each sample wanted.

    Raises:
        AttunementError: The acceptance isn't in (0, 1], the proposal cuts something off, no sample
            of a context's pool satisfies the constraint, or the budget is used up.
    """
    if not 0 < acceptance <= 1:
        raise AttunementError(f"the acceptance rate lies in (0, 1], not at {acceptance}")
    proposal = target.base if proposal is None else proposal
    require_proposal(target, proposal)
    samples = proposal.sample(contexts, pool, generator=generator)
    log_base = _log_prob(target.base, samples)
    log_potential = target.log_potential(samples)
    log_weights = log_base + log_potential - samples.log_prob
    log_beta = _log_beta(log_weights, samples.context_index, acceptance)
    distance = _quasi_distance(samples, log_base, log_potential, log_beta)

    def log_acceptance(drawn: Samples) -> Tensor:
        log_score = _log_prob(target.base, drawn) + target.log_potential(drawn)
        return log_score - drawn.log_prob - log_beta

    draws = _accept(proposal, log_acceptance, contexts, n, generator, budget)
    return QuasiRejection(draws, log_beta, distance)


def importance_resampling(
    target: Target,
    contexts: Sequence[Context | str] | None,
    n: int,
    *,
    proposal: Distribution | None = None,
    pool: int = 4096,
    generator: torch.Generator,
) -> Samples:
    """Resample a pool of the proposal's samples by P/q, with replacement.

    Args:
        target: The target.
        contexts: C contexts.
        n: Samples for each context.
        proposal: q; the base by default. It needs full support.
        pool: Proposal samples for each context.
        generator: Randomness.

    Raises:
        AttunementError: The proposal cuts something off, or the pool of a context is worth fewer
            effective samples than n or 10, whichever is less.
    """
    _require_positive(n)
    proposal = target.base if proposal is None else proposal
    require_proposal(target, proposal)
    contexts = as_contexts(contexts)
    samples = proposal.sample(contexts, pool, generator=generator)
    log_score = _log_prob(target.base, samples) + target.log_potential(samples)
    log_weights = log_score - samples.log_prob
    kept = []
    for index in range(len(contexts)):
        rows = (samples.context_index == index).nonzero().squeeze(1)
        effective = effective_sample_size(log_weights[rows])
        if effective < min(n, 10) - 1e-6:
            raise AttunementError(
                f"the pool of {pool} samples of context {index} is worth {effective:.1f} samples "
                "of the target: draw a larger pool or use a nearer proposal"
            )
        weights = log_weights[rows].softmax(0)
        kept.append(rows[torch.multinomial(weights, n, replacement=True, generator=generator)])
    return samples[torch.cat(kept)]


def _accept(
    proposal: Distribution,
    log_acceptance: Callable[[Samples], Tensor],
    contexts: Sequence[Context | str] | None,
    n: int,
    generator: torch.Generator,
    budget: int,
) -> Draws:
    """Draw for all contexts that still lack samples, until each has n."""
    _require_positive(n)
    contexts = as_contexts(contexts)
    draws, accepted = torch.zeros(2, len(contexts), dtype=torch.long)
    kept: list[list[Samples]] = [[] for _ in contexts]
    table: Samples | None = None
    while bool((accepted < n).any()):
        lacking = (accepted < n).nonzero().squeeze(1)
        left = budget * n - int(draws[lacking].max())
        if left <= 0:
            where = int(lacking[0])
            raise AttunementError(
                f"context {where} accepted {int(accepted[where])} of {int(draws[where])} draws, "
                f"{n} were wanted: loosen the constraint, give it a floor or raise the budget"
            )
        size = min(left, _next_batch(n, draws[lacking], accepted[lacking]))
        chosen = [contexts[index] for index in lacking.tolist()]
        batch = proposal.sample(chosen, size, generator=generator)
        uniforms = torch.rand(len(batch), generator=generator, dtype=torch.float64)
        keep = uniforms.log() < log_acceptance(batch)
        table = batch if table is None else table  # the first batch knows all contexts
        batch = _under(table, batch, lacking)
        for index in lacking.tolist():
            rows = batch.context_index == index
            draws[index] += int(rows.sum())
            accepted[index] += int((rows & keep).sum())
            kept[index].append(batch[rows & keep])
    parts = [Samples.concatenate(parts)[:n] for parts in kept]
    return Draws(Samples.concatenate(parts), draws, accepted)


def _under(table: Samples, batch: Samples, rows: Tensor) -> Samples:
    """A batch of some contexts, its index pointing into the table of all of them."""
    return replace(
        batch,
        contexts=table.contexts,
        context_tokens=table.context_tokens,
        source_tokens=table.source_tokens,
        context_index=rows[batch.context_index],
    )


def _next_batch(n: int, draws: Tensor, accepted: Tensor) -> int:
    """Enough draws for what is missing at the acceptance rate seen, within bounds."""
    rate = (float(accepted.sum()) + 1) / (float(draws.sum()) + 2)
    missing = int((n - accepted).max())
    return int(min(max(math.ceil(1.1 * missing / rate), 16), 1024))


def _require_positive(n: int) -> None:
    if n < 1:
        raise AttunementError(f"the number of samples must be at least 1, not {n}")


def _log_beta(log_weights: Tensor, context: Tensor, acceptance: float) -> float:
    """log β with mean(min(1, w/β)) = acceptance, by bisection.

    The mean falls with β from the share of positive weights, at the smallest of them, and is
    mean(w)/β at most; so β lies between. The smallest weight where the share is less than asked.
    """
    positive = torch.isfinite(log_weights)
    for index in context.unique().tolist():
        if not bool(positive[context == index].any()):
            count = int((context == index).sum())
            raise AttunementError(
                f"none of {count} samples of context {index} satisfies the constraint: loosen it, "
                "give it a floor or draw a larger pool"
            )
    low = float(log_weights[positive].min())
    mean = float(torch.logsumexp(log_weights, 0)) - math.log(len(log_weights))
    high = max(low, mean - math.log(acceptance))
    for _ in range(200):
        middle = (low + high) / 2
        rate = float((log_weights - middle).clamp(max=0.0).exp().mean())
        low, high = (middle, high) if rate > acceptance else (low, middle)
    return (low + high) / 2


def _quasi_distance(
    samples: Samples, log_base: Tensor, log_potential: Tensor, log_beta: float
) -> Estimate:
    """TV(p_β, p): the policy's place in the evidence is taken by p_β, normalised on the pool."""
    context = samples.context_index
    log_shares = (log_base + log_potential - samples.log_prob - log_beta).clamp(max=0.0)
    for index in context.unique():
        rows = context == index
        log_shares[rows] -= torch.logsumexp(log_shares[rows], 0) - math.log(int(rows.sum()))
    evidence = Evidence(
        log_proposal=samples.log_prob,
        log_base=log_base,
        log_policy=log_shares + samples.log_prob,
        log_potential=log_potential,
        part=torch.full_like(context, POLICY + 1),
        context=context,
    )
    return divergence(evidence, total_variation)


def _log_prob(distribution: Distribution, samples: Samples) -> Tensor:
    with torch.no_grad():
        return distribution.log_prob(samples)
