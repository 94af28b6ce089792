"""One step: draw, score, weigh, update."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attunement import training
from attunement.tuning.drawing import draw
from attunement.tuning.learning import lesson
from attunement.tuning.problem import SAMPLES, Problem, TuningState
from attunement.tuning.replay import remember, with_replay


@dataclass(frozen=True)
class StepInfo:
    """What a reader of a step needs.

    Attributes:
        step: Number of the step, from 1.
        samples: Samples drawn.
        replayed: Samples of earlier steps that were learnt from again.
        tokens: Completion tokens drawn.
        satisfied: Share of the samples drawn that the target allows.
        reward: Mean of the plain reward of the samples drawn.
        signal_variance: Variance of the signal over the step's samples: what the baseline lowers;
            None where the tokens of a sample have signals of their own.
        in_batch_partition: Contexts whose Z was only known from this batch, which biases the step.
        empty_contexts: Contexts in which no sample satisfied the constraint; they add nothing. Like
            those of `in_batch_partition` they are 0 for the plain reward, which has no Z.
        update: What the optimiser did.
        seconds: Wall time.
    """

    step: int
    samples: int
    replayed: int
    tokens: int
    satisfied: float
    reward: float
    signal_variance: float | None
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
    fresh = draw(problem, state, SAMPLES)
    drawn = with_replay(fresh, state)
    taught = lesson(problem, state, drawn)
    parts = micro_batches(
        drawn.samples.lengths, drawn.teaches.nonzero()[:, 0], settings.micro_batch_size
    )
    info = training.update(state.training, parts, taught.loss_of, settings)
    if settings.reads_target:
        state.pool.add(fresh.context, fresh.log_weights)
    remember(fresh, state, settings.replay)
    state.step += 1
    return StepInfo(
        step=state.step,
        samples=len(fresh),
        replayed=len(drawn) - len(fresh),
        tokens=int(fresh.samples.mask.sum()),
        satisfied=float((~torch.isneginf(fresh.log_potential)).double().mean()),
        reward=float(fresh.reward.mean()),
        signal_variance=None if taught.signal is None else float(taught.signal.var(correction=0)),
        in_batch_partition=taught.in_batch_partition,
        empty_contexts=taught.empty_contexts,
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
