"""What a step learns from: samples of its proposal, scored, with the log-probabilities that count.

With q the proposal (`proposals`), every sample's weight in the gradient has the factors π/q and P/q
(design §4, "Step"). Where q is a mixture a coin is tossed for every sample, so that the samples of
a context are independent draws of q, as the leave-one-out baseline needs them. A sample costs one
forward pass of every model whose density counts and that didn't draw it. To the plain reward the
base's density counts only where q is a mixture with the base. Where tokens have signals of their
own, every sample costs a pass of the base, which says log a token by token.

A sample that can teach nothing costs no pass of the policy at all: with forward KL, whose f'(∞) is
0, and no baseline, as in the first papers (arXiv 2106.04985), that is every sample that the target
forbids. Forward KL from the base is then maximum likelihood on exact samples of a hard constraint's
target, and most of the work is drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from attunement.core import Context, Distribution, Samples, TokenWise
from attunement.objectives import Objective, has_signal
from attunement.runs import generator_for
from attunement.tuning.drawn import Drawn
from attunement.tuning.plain_reward import plain_reward
from attunement.tuning.problem import (
    CONTEXTS,
    Problem,
    TuningState,
    samples_of_each,
)
from attunement.tuning.proposals import sources


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
    settings, target = problem.settings, problem.target
    each = samples_of_each(settings, len(problem.contexts))
    chosen = _contexts_of_step(problem, state.step, each)
    contexts = [problem.contexts[index] for index in chosen.tolist()]
    generator = generator_for(settings.seed, purpose, state.step)
    fresh = _fresh(sources(problem, state), contexts, each, generator)
    features = target.features(fresh.samples)
    log_potential = target.log_potential(fresh.samples, features)
    teaches = _teaching(problem, log_potential)
    by_token = _log_base_by_token(problem, fresh.samples)
    known = {
        id(model): fresh.log_prob(model, teaches, by_token if model is target.base else None)
        for model in _whose_density_counts(problem, state.policy, fresh.sources)
    }
    log_base = known[id(target.base)] if settings.reads_target else math.nan
    return Drawn(
        samples=fresh.samples,
        context=chosen[fresh.samples.context_index],
        teaches=teaches,
        log_score=torch.where(torch.isneginf(log_potential), -math.inf, log_base + log_potential),
        log_policy=known[id(state.policy)],
        log_proposal=_log_proposal(fresh, known),
        log_potential=log_potential,
        reward=plain_reward(target, features, len(fresh.samples)),
        log_base_by_token=by_token,
    )


@dataclass(frozen=True)
class _Fresh:
    """Samples as they were drawn.

    Attributes:
        samples: N samples.
        sources: The one or two models that they are drawn from.
        source: [N] int64, which of the models drew each.
    """

    samples: Samples
    sources: Sequence[Distribution]
    source: Tensor

    def log_prob(self, model: Distribution, rows: Tensor, by_token: Tensor | None) -> Tensor:
        """A model's log-probabilities: recorded where it drew itself, else from a pass.

        Args:
            model: The model.
            rows: [N] bool, which are asked for.
            by_token: [N, T] what a pass of the model has found already; None without one.

        Returns:
            [N] float64, NaN at other rows.
        """
        own = torch.tensor([source is model for source in self.sources])[self.source]
        found = torch.where(own & rows, self.samples.log_prob, math.nan)
        missing = rows & ~own
        if by_token is not None:
            found[missing] = by_token[missing].double().sum(1)
        elif bool(missing.any()):
            found[missing] = model.log_prob(self.samples[missing])
        return found


def _fresh(
    models: Sequence[Distribution],
    contexts: Sequence[Context],
    each: int,
    generator: torch.Generator,
) -> _Fresh:
    counts = _split(each, len(models), generator)
    drawing = [(number, n) for number, n in enumerate(counts) if n]
    parts = [models[number].sample(contexts, n, generator=generator) for number, n in drawing]
    source = [
        torch.full((len(part),), number) for (number, _), part in zip(drawing, parts, strict=True)
    ]
    return _Fresh(Samples.concatenate(parts), models, torch.cat(source))


def _teaching(problem: Problem, log_potential: Tensor) -> Tensor:
    """[N] bool, which samples can have a signal."""
    settings = problem.settings
    if settings.objective is Objective.POLICY_GRADIENT:
        return has_signal(problem.divergence, settings.baseline, log_potential)
    return torch.ones_like(log_potential, dtype=torch.bool)


def _whose_density_counts(
    problem: Problem, policy: Distribution, models: Sequence[Distribution]
) -> Sequence[Distribution]:
    """The models whose log-probability of a sample is read, each once.

    They are the policy, the base if the objective knows a target, and both halves of a mixture.
    """
    target = [problem.target.base] if problem.settings.reads_target else []
    halves = models if len(models) > 1 else []
    return [*{id(model): model for model in (policy, *target, *halves)}.values()]


def _log_base_by_token(problem: Problem, samples: Samples) -> Tensor | None:
    """[N, T] log a of each token, from a step's one pass of the base; None if nothing reads it."""
    if not problem.settings.reads_base_by_token:
        return None
    return cast(TokenWise, problem.target.base).token_log_probs(samples)


def _log_proposal(fresh: _Fresh, known: Mapping[int, Tensor]) -> Tensor:
    """[N] log q, from the densities of a mixture's halves by the identity of the model."""
    if len(fresh.sources) == 1:
        return fresh.samples.log_prob
    halves = torch.stack([known[id(model)] for model in fresh.sources])
    return halves.logsumexp(0) - math.log(len(halves))


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
