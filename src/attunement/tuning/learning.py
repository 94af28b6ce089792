"""From the samples of a step to its loss: which objective, by sample or by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from attunement.core import TokenWise
from attunement.objectives import (
    Baseline,
    Objective,
    closed_form_kl,
    policy_gradient_signal,
    profiled_log_partition,
    reward_signal,
    sampled_kl,
    surrogate,
    token_advantages,
    token_surrogate,
    trajectory_balance_signal,
)
from attunement.tuning.drawn import Drawn
from attunement.tuning.problem import Problem, TuningState


@dataclass(frozen=True)
class Lesson:
    """What a step does with its samples.

    Attributes:
        loss_of: The share in the loss of some rows; the shares of all add up to the loss.
        signal: [N] the weight of each sample's ∇log π; None where its tokens differ.
        in_batch_partition: Contexts whose Z was only known from this batch, which biases the step.
        empty_contexts: Contexts in which no sample satisfied the constraint; they add nothing. Like
            those of `in_batch_partition` they are 0 for the plain reward, which has no Z.
    """

    loss_of: Callable[[Tensor], Tensor]
    signal: Tensor | None
    in_batch_partition: int
    empty_contexts: int


def lesson(problem: Problem, state: TuningState, drawn: Drawn) -> Lesson:
    """What is to be learnt from the samples, by the settings' objective."""
    log_partition, in_batch = _log_partition(problem, state, drawn)
    empty = int(drawn.context[torch.isneginf(log_partition)].unique().numel())
    if problem.settings.by_token:
        loss = _token_loss(problem, state, drawn, log_partition)
        return Lesson(loss, None, in_batch, empty)
    signal = torch.zeros(len(drawn), dtype=torch.float64)
    rows = drawn.teaches
    signal[rows] = _signal(problem, drawn, log_partition, rows)

    def loss_of(rows: Tensor) -> Tensor:
        return surrogate(signal[rows], state.policy.log_prob(drawn.samples[rows]), len(drawn))

    return Lesson(loss_of, signal, in_batch, empty)


def _log_partition(problem: Problem, state: TuningState, drawn: Drawn) -> tuple[Tensor, int]:
    """[N] log Ẑ, NaN where the objective knows no Z, and how many contexts needed this batch."""
    if not problem.settings.reads_target:
        return torch.full((len(drawn),), math.nan, dtype=torch.float64), 0
    return state.pool.log_partition_of(drawn.context, drawn.log_weights)


def _signal(problem: Problem, drawn: Drawn, log_partition: Tensor, rows: Tensor) -> Tensor:
    settings, divergence = problem.settings, problem.divergence
    context, log_score = drawn.context[rows], drawn.log_score[rows]
    log_policy, log_proposal = drawn.log_policy[rows], drawn.log_proposal[rows]
    match settings.objective:
        case Objective.POLICY_GRADIENT:
            return policy_gradient_signal(
                divergence,
                settings.baseline,
                log_policy=log_policy,
                log_score=log_score,
                log_partition=log_partition[rows],
                log_proposal=log_proposal,
                context=context,
            )
        case Objective.TRAJECTORY_BALANCE:
            return trajectory_balance_signal(
                divergence,
                log_policy=log_policy,
                log_score=log_score,
                log_partition=profiled_log_partition(
                    divergence, log_policy=log_policy, log_score=log_score, context=context
                ),
                log_proposal=log_proposal,
            )
        case Objective.REWARD:
            return reward_signal(
                settings.baseline,
                drawn.reward[rows],
                log_policy=log_policy,
                log_proposal=log_proposal,
                context=context,
            )


def _token_loss(
    problem: Problem, state: TuningState, drawn: Drawn, log_partition: Tensor
) -> Callable[[Tensor], Tensor]:
    """Reverse KL with a signal for every token.

    In closed form the base is asked for each micro-batch: [N, T, V] would be too much to keep.
    """
    settings = problem.settings
    base, policy = cast(TokenWise, problem.target.base), cast(TokenWise, state.policy)
    known = torch.isfinite(log_partition)
    weights = torch.where(known, (drawn.log_policy - drawn.log_proposal).exp(), 0.0)
    at_one = problem.divergence.derivative_at_one
    offset = at_one if settings.baseline is Baseline.NONE else 0.0
    advantage = drawn.log_potential - torch.where(known, log_partition, 0.0) - offset

    def loss_of(rows: Tensor) -> Tensor:
        samples = drawn.samples[rows]
        if settings.closed_form_kl:
            with torch.no_grad():
                log_base = base.next_token_log_probs(samples)
            every = policy.next_token_log_probs(samples)
            chosen = every.gather(2, samples.tokens[:, :, None])[:, :, 0]
            log_policy = torch.where(samples.mask, chosen, 0.0)
            kl = torch.where(samples.mask, closed_form_kl(every, log_base), 0.0)
        else:
            log_policy = policy.token_log_probs(samples)
            kl = sampled_kl(log_policy, cast(Tensor, drawn.log_base_by_token)[rows])
        advantages = token_advantages(
            kl,
            advantage[rows],
            reward_to_go=settings.reward_to_go,
            closed_form=settings.closed_form_kl,
        )
        pathwise = kl if settings.closed_form_kl else None
        return token_surrogate(weights[rows], advantages, log_policy, pathwise, len(drawn))

    return loss_of
