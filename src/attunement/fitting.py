"""λ: the numbers with which matched features have the means that were asked for.

A fit draws samples, holds what is asked for against what they can reach (`reach`), solves for all
λ at once (`dual`) and estimates on fresh samples what is reached with them.

The samples are the base's, or half the base's and half a proposal's, weighed by their mixture m:
where a feature is rare in the base and frequent under the target, a policy that is already near
the target has what the base's samples lack, and P/m stays below 2P/a.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from attunement.conflicts import why_nothing_is_allowed
from attunement.core import AttunementError, Context, Distribution, Estimate, Samples
from attunement.dual import solve_dual
from attunement.estimators import moment_where
from attunement.evidence import BASE, POLICY, Evidence, effective_sample_size, pareto_khat
from attunement.factors import (
    ContextLambdas,
    Factor,
    Matched,
    Moment,
    MomentEach,
    log_potential,
    shown,
)
from attunement.reach import Reach, require_all_seen, require_reachable
from attunement.scorers import evaluate, require_applicable


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    Attributes:
        factors: The factors, every λ known.
        moments: The reached moments by scorer name, averaged over contexts, on fresh samples.
        moments_each: The same in each of the C contexts, for what is matched in every context.
        ess: Effective sample size of the weights that λ was solved on.
        khat: Their Pareto k̂; None where they are bounded or too few.
    """

    factors: tuple[Factor, ...]
    moments: dict[str, Estimate]
    moments_each: dict[str, tuple[Estimate, ...]]
    ess: float
    khat: float | None


def fit(
    base: Distribution,
    factors: Sequence[Factor],
    contexts: tuple[Context, ...],
    n: int,
    proposal: Distribution | None,
    generator: torch.Generator,
) -> Fit:
    """Solve for all λ at once, and estimate on fresh samples what is reached.

    Args:
        base: The base.
        factors: Factors, at least one of them matched.
        contexts: C contexts.
        n: Samples for each context, half of them the proposal's where there is one.
        proposal: A distribution with full support on the base's outcomes, or None.
        generator: Where the samples come from.

    Raises:
        AttunementError: A mean can't be reached, no sample satisfies the hard constraints, or a
            context occurs twice where moments are held in each.
    """
    matched = [factor for factor in factors if isinstance(factor, Matched)]
    held = torch.tensor([isinstance(factor, MomentEach) for factor in matched])
    if bool(held.any()):
        _require_distinct(contexts)
    means = torch.tensor([factor.mean for factor in matched], dtype=torch.float64)
    bank = _draw(base, factors, contexts, n, proposal, generator)
    require_reachable(
        [Reach(f.scorer.name, f.mean, isinstance(f, MomentEach)) for f in matched],
        bank.features,
        torch.isfinite(bank.log_rest),
        bank.context,
        contexts,
    )
    lambdas = solve_dual(bank.features, bank.log_weights, bank.context, means, held)
    found = _with_lambdas(factors, lambdas, contexts)
    fresh = _draw(base, factors, contexts, n, proposal, generator)
    if bool(held.any()):
        require_all_seen(torch.isfinite(fresh.log_rest), fresh.context, contexts)
    evidence = fresh.evidence(lambdas)
    columns = list(zip(matched, fresh.features.T, fresh.applicable.T, strict=True))
    rows = [evidence.context == index for index in range(len(contexts))]
    ess, khat = _worth(bank.log_weights + bank.potential(lambdas), bank.context)
    return Fit(
        factors=found,
        moments={
            factor.scorer.name: moment_where(evidence, column, applies)
            for factor, column, applies in columns
        },
        moments_each={
            factor.scorer.name: tuple(
                moment_where(evidence[r], column[r], applies[r]) for r in rows
            )
            for factor, column, applies in columns
            if isinstance(factor, MomentEach)
        },
        ess=ess,
        khat=khat,
    )


def _require_distinct(contexts: Sequence[Context]) -> None:
    for index, context in enumerate(contexts):
        first = contexts.index(context)
        if first < index:
            raise AttunementError(
                f"contexts {first} and {index} are the same ({shown(context)}): a moment that is "
                "held in every context needs each context once"
            )


def _with_lambdas(
    factors: Sequence[Factor], lambdas: Tensor, contexts: tuple[Context, ...]
) -> tuple[Factor, ...]:
    """The factors with λ from the columns of [C, K], one for each matched factor in order."""
    columns = iter(lambdas.T)
    found: list[Factor] = []
    for factor in factors:
        if isinstance(factor, Moment):
            found.append(replace(factor, lambda_=float(next(columns)[0])))
        elif isinstance(factor, MomentEach):
            values = tuple(next(columns).tolist())
            found.append(replace(factor, lambda_=ContextLambdas(contexts, values)))
        else:
            found.append(factor)
    return tuple(found)


class _Bank(NamedTuple):
    """Samples, as far as fitting needs them.

    Attributes:
        features: [N, K] the matched features, as their factors read them.
        applicable: [N, K] bool, where they apply.
        log_rest: [N] log-potential of all other factors.
        context: [N] int64.
        part: [N] int64, `BASE`, or `POLICY` for the proposal's.
        log_base: [N] log a.
        log_policy: [N] log-probability under the proposal; that under the base without one.
    """

    features: Tensor
    applicable: Tensor
    log_rest: Tensor
    context: Tensor
    part: Tensor
    log_base: Tensor
    log_policy: Tensor

    @property
    def log_weights(self) -> Tensor:
        """[N] of everything but the moments, P'/m."""
        return Evidence.of_mixture(
            self.log_base, self.log_policy, self.log_rest, self.part, self.context
        ).log_weights

    def potential(self, lambdas: Tensor) -> Tensor:
        """[N] what [C, K] λ add."""
        return (self.features * lambdas[self.context]).sum(1)

    def evidence(self, lambdas: Tensor) -> Evidence:
        """What the bank says of the target with these λ."""
        potential = self.log_rest + self.potential(lambdas)
        return Evidence.of_mixture(
            self.log_base, self.log_policy, potential, self.part, self.context
        )


@torch.no_grad()
def _draw(
    base: Distribution,
    factors: Sequence[Factor],
    contexts: Sequence[Context],
    n: int,
    proposal: Distribution | None,
    generator: torch.Generator,
) -> _Bank:
    sources = [base] if proposal is None else [base, proposal]
    parts = [source.sample(contexts, n // len(sources), generator=generator) for source in sources]
    samples = Samples.concatenate(parts)
    part = torch.tensor([BASE, POLICY])[: len(parts)].repeat_interleave(
        torch.tensor([len(drawn) for drawn in parts])
    )
    scorers = dict.fromkeys(factor.scorer for factor in factors)
    scores = {scorer.name: evaluate(scorer, samples) for scorer in scorers}
    require_applicable(scores)
    log_rest = log_potential([f for f in factors if not isinstance(f, Matched)], samples, scores)
    if bool(torch.isneginf(log_rest).all()):
        raise AttunementError(
            f"{why_nothing_is_allowed(factors, samples, scores)}, so no moment can be matched: "
            "loosen it or give it a floor"
        )
    log_base = log_policy = samples.log_prob
    if proposal is not None:
        log_base = torch.cat([parts[0].log_prob, base.log_prob(parts[1])])
        log_policy = torch.cat([proposal.log_prob(parts[0]), parts[1].log_prob])
    matched = [f for f in factors if isinstance(f, Matched)]
    columns = [scores[f.scorer.name] for f in matched]
    pairs = zip(matched, columns, strict=True)
    return _Bank(
        features=torch.stack([factor.feature(column) for factor, column in pairs], 1),
        applicable=torch.stack([column.applicable for column in columns], 1),
        log_rest=log_rest,
        context=samples.context_index,
        part=part,
        log_base=log_base,
        log_policy=log_policy,
    )


def _worth(log_weights: Tensor, context: Tensor) -> tuple[float, float | None]:
    """Effective sample size and Pareto k̂ of weights that are normalised in each context."""
    groups = [log_weights[context == index] for index in context.unique()]
    groups = [group for group in groups if bool(torch.isfinite(group).any())]
    khat, _ = pareto_khat(torch.cat([group.log_softmax(0) for group in groups]))
    return sum(effective_sample_size(group) for group in groups), khat
