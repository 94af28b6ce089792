"""One step: draw, score, weigh, update."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attunement import training
from attunement.core import Samples
from attunement.objectives import policy_gradient_signal, surrogate
from attunement.tuning.drawing import draw
from attunement.tuning.problem import Problem, TuningState


@dataclass(frozen=True)
class StepInfo:
    """What a reader of a step needs.

    Attributes:
        step: Number of the step, from 1.
        samples: Samples drawn.
        tokens: Completion tokens drawn.
        satisfied: Share of the samples that the target allows.
        signal_variance: Variance of w·A over the step: what the baseline lowers.
        in_batch_partition: Contexts whose Z was only known from this batch, which biases the step.
        empty_contexts: Contexts in which no sample satisfied the constraint; they add nothing.
        update: What the optimiser did.
        seconds: Wall time.
    """

    step: int
    samples: int
    tokens: int
    satisfied: float
    signal_variance: float
    in_batch_partition: int
    empty_contexts: int
    update: training.UpdateInfo
    seconds: float

    def to_json(self) -> dict[str, object]:
        """A line of `metrics.jsonl`."""
        row = {key: value for key, value in vars(self).items() if key != "update"}
        return row | vars(self.update)


def step(problem: Problem, state: TuningState) -> StepInfo:
    """One step; changes the state in place."""
    started = time.perf_counter()
    settings, target = problem.settings, problem.target
    drawn = draw(problem, state)
    samples, context = drawn.samples, drawn.context
    log_score = drawn.log_base + target.log_potential(samples)
    log_weights = log_score - drawn.log_proposal
    log_partition, in_batch = state.pool.log_partition_of(context, log_weights)
    signal = policy_gradient_signal(
        problem.divergence,
        settings.baseline,
        log_policy=drawn.log_policy,
        log_score=log_score,
        log_partition=log_partition,
        log_proposal=drawn.log_proposal,
        context=context,
    )

    def loss_of(rows: Tensor) -> Tensor:
        return surrogate(signal[rows], state.policy.log_prob(samples[rows]), len(samples))

    info = training.update(
        state.training, micro_batches(samples, settings.micro_batch_size), loss_of, settings
    )
    state.pool.add(context, log_weights)
    state.step += 1
    return StepInfo(
        step=state.step,
        samples=len(samples),
        tokens=int(samples.mask.sum()),
        satisfied=float(torch.isfinite(log_score).double().mean()),
        signal_variance=float(signal.var()) if len(signal) > 1 else 0.0,
        in_batch_partition=in_batch,
        empty_contexts=int(context[torch.isneginf(log_partition)].unique().numel()),
        update=info,
        seconds=time.perf_counter() - started,
    )


def micro_batches(samples: Samples, size: int) -> Iterator[Tensor]:
    """Index tensors of at most `size` samples of like length, so that little is padding."""
    yield from samples.lengths.argsort(descending=True, stable=True).split(size)
