"""One step: draw, score, weigh, update."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attunement import training
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
    settings = problem.settings
    drawn = draw(problem, state)
    samples, context, log_weights = drawn.samples, drawn.context, drawn.log_weights
    log_partition, in_batch = state.pool.log_partition_of(context, log_weights)
    teaching = drawn.teaches.nonzero()[:, 0]
    signal = torch.zeros(len(samples), dtype=torch.float64)
    signal[teaching] = policy_gradient_signal(
        problem.divergence,
        settings.baseline,
        log_policy=drawn.log_policy[teaching],
        log_score=drawn.log_score[teaching],
        log_partition=log_partition[teaching],
        log_proposal=drawn.log_proposal[teaching],
        context=context[teaching],
    )

    def loss_of(rows: Tensor) -> Tensor:
        return surrogate(signal[rows], state.policy.log_prob(samples[rows]), len(samples))

    parts = micro_batches(samples.lengths, teaching, settings.micro_batch_size)
    info = training.update(state.training, parts, loss_of, settings)
    state.pool.add(context, log_weights)
    state.step += 1
    return StepInfo(
        step=state.step,
        samples=len(samples),
        tokens=int(samples.mask.sum()),
        satisfied=float(torch.isfinite(drawn.log_score).double().mean()),
        signal_variance=float(signal.var()) if len(signal) > 1 else 0.0,
        in_batch_partition=in_batch,
        empty_contexts=int(context[torch.isneginf(log_partition)].unique().numel()),
        update=info,
        seconds=time.perf_counter() - started,
    )


def micro_batches(lengths: Tensor, rows: Tensor, size: int) -> Iterator[Tensor]:
    """Parts of at most `size` of the rows, of like length each, so that little is padding.

    Args:
        lengths: [N] tokens of every sample of the step.
        rows: [M] int64, the samples to be split.
        size: The largest number in a part.
    """
    if len(rows) > 0:
        yield from rows[lengths[rows].argsort(descending=True, stable=True)].split(size)
