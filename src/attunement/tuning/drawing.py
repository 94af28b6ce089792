"""What a step learns from: samples of its proposal, scored, with the log-probabilities that count.

With q the proposal, every sample's weight in the gradient has the factors π/q and P/q (design §4,
"Step"). Which q is best depends on the target. On policy π/q is 1, but P/q has no bound: a sample
that the policy has come to find unlikely weighs the more, the more unlikely. From the base, P/q
has that of the target's factors, 1/Z for a hard constraint, and so few surprises where Z isn't
small, but π/q grows as the policy leaves the base. From both, q = ½a + ½π, both are bounded: by 2,
and by 2/Z. A coin is tossed for every sample, so that the samples of a context are independent
draws of q, as the leave-one-out baseline needs them. Whichever q is, a sample costs one forward
pass, of the base or of the policy, beside that of the gradient; `kl_adaptive` alone needs both.

A sample that can teach nothing costs no pass of the policy at all: with forward KL, whose f'(∞) is
0, and no baseline, as in the first papers (arXiv 2106.04985), that is every sample that the target
forbids. Forward KL from the base is then maximum likelihood on
exact samples of a hard constraint's target, and most of the work is drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attunement.core import Distribution, Samples
from attunement.evidence import log_mixture
from attunement.objectives import has_signal
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
        teaches: [N] bool, whether a sample can have a signal.
        log_score: log P; minus infinity where the target forbids the sample.
        log_policy: log π, NaN where the sample doesn't teach.
        log_proposal: log q; of the mixture NaN where the sample doesn't teach.
    """

    samples: Samples
    context: Tensor
    teaches: Tensor
    log_score: Tensor
    log_policy: Tensor
    log_proposal: Tensor

    @property
    def log_weights(self) -> Tensor:
        """[N] log P/q."""
        forbidden = torch.isneginf(self.log_score)
        return torch.where(forbidden, -math.inf, self.log_score - self.log_proposal)


@torch.no_grad()
def draw(problem: Problem, state: TuningState) -> Drawn:
    """Draw and score the samples of the step that comes next.

    Args:
        problem: The problem; its settings say from what, and how many.
        state: Not changed.

    Raises:
        AttunementError: A scorer fails.
    """
    settings, base, policy = problem.settings, problem.target.base, state.policy
    each = samples_of_each(settings, len(problem.contexts))
    chosen = _contexts_of_step(problem, state.step, each)
    contexts = [problem.contexts[index] for index in chosen.tolist()]
    generator = generator_for(settings.seed, SAMPLES, state.step)
    sources = _sources(settings.proposal, base, state, each, generator)
    parts = [model.sample(contexts, n, generator=generator) for model, n in sources]
    samples = Samples.concatenate(parts)
    log_potential = problem.target.log_potential(samples)
    teaches = has_signal(problem.divergence, settings.baseline, log_potential)

    def log_prob(model: Distribution) -> Tensor:
        """[N], recorded where the model itself drew, from a pass where another did."""
        own = torch.cat(
            [
                torch.full((len(part),), source is model)
                for (source, _), part in zip(sources, parts, strict=True)
            ]
        )
        found = torch.where(own & teaches, samples.log_prob, math.nan)
        missing = teaches & ~own
        if bool(missing.any()):
            found[missing] = model.log_prob(samples[missing])
        return found

    log_base, log_policy = log_prob(base), log_prob(policy)
    mixed = settings.proposal is Proposal.MIXTURE
    return Drawn(
        samples=samples,
        context=chosen[samples.context_index],
        teaches=teaches,
        log_score=torch.where(torch.isneginf(log_potential), -math.inf, log_base + log_potential),
        log_policy=log_policy,
        log_proposal=log_mixture(log_base, log_policy, 0.5) if mixed else samples.log_prob,
    )


def _sources(
    proposal: Proposal,
    base: Distribution,
    state: TuningState,
    each: int,
    generator: torch.Generator,
) -> list[tuple[Distribution, int]]:
    """What draws, and how many of the `each` samples of a context."""
    match proposal:
        case Proposal.POLICY:
            return [(state.policy, each)]
        case Proposal.BASE:
            return [(base, each)]
        case Proposal.MIXTURE:
            heads = int(torch.randint(2, (each,), generator=generator).sum())
            return [(model, n) for model, n in ((base, heads), (state.policy, each - heads)) if n]
        case Proposal.KL_ADAPTIVE:
            return [(state.proposal, each)]


def _contexts_of_step(problem: Problem, step: int, each: int) -> Tensor:
    """The numbers of the contexts that a step draws `each` samples of."""
    settings = problem.settings
    shuffle = generator_for(settings.seed, CONTEXTS, step)
    order = torch.randperm(len(problem.contexts), generator=shuffle)
    return order[: max(1, settings.batch_size // each)]
