"""What a step learns from: samples of its proposal, with all the log-probabilities that count.

With q the proposal, every sample's weight in the gradient has the factors π/q and P/q (design §4,
"Step"). Which q is best depends on the target. On policy π/q is 1, but P/q has no bound: a sample
that the policy has come to find unlikely weighs the more, the more unlikely. From the base, P/q
has that of the target's factors, 1/Z for a hard constraint, and so few surprises where Z isn't
small, but π/q grows as the policy leaves the base. From both, q = ½a + ½π, both are bounded: by 2,
and by 2/Z. A coin is tossed for every sample, so that the samples of a context are independent
draws of q, as the leave-one-out baseline needs them. Whichever q is, a sample costs one forward
pass, of the base or of the policy, beside that of the gradient; `kl_adaptive` alone needs both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attunement.core import Context, Distribution, Samples
from attunement.evidence import log_mixture
from attunement.runs import generator_for
from attunement.tuning.problem import (
    CONTEXTS,
    SAMPLES,
    Problem,
    TuningState,
    samples_of_each,
)
from attunement.tuning.settings import Proposal


@dataclass(frozen=True)
class Drawn:
    """The samples of a step; all log-probabilities [N] float64, in nats, without gradient.

    Attributes:
        samples: N samples.
        context: [N] int64, for each sample the number of its context in the problem.
        log_base: log a.
        log_policy: log π.
        log_proposal: log q.
    """

    samples: Samples
    context: Tensor
    log_base: Tensor
    log_policy: Tensor
    log_proposal: Tensor


@torch.no_grad()
def draw(problem: Problem, state: TuningState) -> Drawn:
    """Draw the samples of the step that comes next.

    Args:
        problem: The problem; its settings say from what, and how many.
        state: Not changed.
    """
    settings, base, policy = problem.settings, problem.target.base, state.policy
    each = samples_of_each(settings, len(problem.contexts))
    chosen = _contexts_of_step(problem, state.step, each)
    contexts = [problem.contexts[index] for index in chosen.tolist()]
    generator = generator_for(settings.seed, SAMPLES, state.step)
    match settings.proposal:
        case Proposal.POLICY:
            samples = policy.sample(contexts, each, generator=generator)
            log_base = base.log_prob(samples)
            log_policy = log_proposal = samples.log_prob
        case Proposal.BASE:
            samples = base.sample(contexts, each, generator=generator)
            log_base = log_proposal = samples.log_prob
            log_policy = policy.log_prob(samples)
        case Proposal.MIXTURE:
            samples, log_base, log_policy = _draw_mixture(base, policy, contexts, each, generator)
            log_proposal = log_mixture(log_base, log_policy, 0.5)
        case Proposal.KL_ADAPTIVE:
            samples = state.proposal.sample(contexts, each, generator=generator)
            log_base, log_policy = base.log_prob(samples), policy.log_prob(samples)
            log_proposal = samples.log_prob
    context = chosen[samples.context_index]
    return Drawn(samples, context, log_base, log_policy, log_proposal)


def _draw_mixture(
    base: Distribution,
    policy: Distribution,
    contexts: Sequence[Context],
    each: int,
    generator: torch.Generator,
) -> tuple[Samples, Tensor, Tensor]:
    """Samples of ½a + ½π, their log a and their log π."""
    heads = int(torch.randint(2, (each,), generator=generator).sum())
    parts: list[tuple[Samples, Tensor, Tensor]] = []
    if heads:
        samples = base.sample(contexts, heads, generator=generator)
        parts.append((samples, samples.log_prob, policy.log_prob(samples)))
    if heads < each:
        samples = policy.sample(contexts, each - heads, generator=generator)
        parts.append((samples, base.log_prob(samples), samples.log_prob))
    samples, log_base, log_policy = zip(*parts, strict=True)
    return Samples.concatenate(samples), torch.cat(log_base), torch.cat(log_policy)


def _contexts_of_step(problem: Problem, step: int, each: int) -> Tensor:
    """The numbers of the contexts that a step draws `each` samples of."""
    settings = problem.settings
    shuffle = generator_for(settings.seed, CONTEXTS, step)
    order = torch.randperm(len(problem.contexts), generator=shuffle)
    return order[: max(1, settings.batch_size // each)]
