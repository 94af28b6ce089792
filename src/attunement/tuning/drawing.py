"""What a step learns from: samples of its proposal, scored, with the log-probabilities that count.

With q the proposal (`proposals`), every sample's weight in the gradient has the factors π/q and P/q
(design §4, "Step"). Where q is a mixture a coin is tossed for every sample, so that the samples of
a context are independent draws of q, as the leave-one-out baseline needs them. A sample costs one
forward pass of every model whose density counts and that didn't draw it.

A sample that can teach nothing costs no pass of the policy at all: with forward KL, whose f'(∞) is
0, and no baseline, as in the first papers (arXiv 2106.04985), that is every sample that the target
forbids. Forward KL from the base is then maximum likelihood on exact samples of a hard constraint's
target, and most of the work is drawing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attunement.core import Distribution, Samples
from attunement.objectives import Objective, has_signal
from attunement.runs import generator_for
from attunement.tuning.drawn import Drawn
from attunement.tuning.problem import (
    CONTEXTS,
    Problem,
    TuningState,
    samples_of_each,
)
from attunement.tuning.proposals import sources
from attunement.tuning.rewards import plain_reward


@torch.no_grad()
def draw(problem: Problem, state: TuningState, purpose: int) -> Drawn:
    """Draw and score fresh samples for the step that comes next.

    Args:
        problem: The problem; its settings say from what, and how many.
        state: Not changed.
        purpose: Which random stream to draw with; the contexts are those of the step in any case.

    Raises:
        AttunementError: A scorer fails.
    """
    settings, target, policy = problem.settings, problem.target, state.policy
    each = samples_of_each(settings, len(problem.contexts))
    chosen = _contexts_of_step(problem, state.step, each)
    contexts = [problem.contexts[index] for index in chosen.tolist()]
    generator = generator_for(settings.seed, purpose, state.step)
    models = sources(problem, state)
    counts = _split(each, len(models), generator)
    drawing = [(model, n) for model, n in zip(models, counts, strict=True) if n]
    parts = [model.sample(contexts, n, generator=generator) for model, n in drawing]
    samples = Samples.concatenate(parts)
    features = target.features(samples)
    log_potential = target.log_potential(samples, features)
    if settings.objective is Objective.POLICY_GRADIENT:
        teaches = has_signal(problem.divergence, settings.baseline, log_potential)
    else:
        teaches = torch.ones(len(samples), dtype=torch.bool)

    def log_prob(model: Distribution) -> Tensor:
        """[N], recorded where the model itself drew, from a pass where another did."""
        own = torch.cat(
            [
                torch.full((len(part),), source is model)
                for (source, _), part in zip(drawing, parts, strict=True)
            ]
        )
        found = torch.where(own & teaches, samples.log_prob, math.nan)
        missing = teaches & ~own
        if bool(missing.any()):
            found[missing] = model.log_prob(samples[missing])
        return found

    known = {id(model): log_prob(model) for model in (target.base, policy)}
    if len(models) == 1:
        log_proposal = samples.log_prob
    else:
        densities = [
            known[id(model)] if id(model) in known else log_prob(model) for model in models
        ]
        log_proposal = torch.stack(densities).logsumexp(0) - math.log(len(models))
    forbidden = torch.isneginf(log_potential)
    return Drawn(
        samples=samples,
        context=chosen[samples.context_index],
        teaches=teaches,
        log_score=torch.where(forbidden, -math.inf, known[id(target.base)] + log_potential),
        log_policy=known[id(policy)],
        log_proposal=log_proposal,
        log_potential=log_potential,
        reward=plain_reward(target, features, len(samples)),
    )


def _split(each: int, models: int, generator: torch.Generator) -> list[int]:
    """How many of the `each` samples of a context come from which model: by the toss of a coin."""
    if models == 1:
        return [each]
    heads = int(torch.randint(2, (each,), generator=generator).sum())
    return [heads, each - heads]


def _contexts_of_step(problem: Problem, step: int, each: int) -> Tensor:
    """The numbers of the contexts that a step draws `each` samples of."""
    settings = problem.settings
    shuffle = generator_for(settings.seed, CONTEXTS, step)
    order = torch.randperm(len(problem.contexts), generator=shuffle)
    return order[: max(1, settings.batch_size // each)]
