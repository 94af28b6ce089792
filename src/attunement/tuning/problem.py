"""A tuning problem and the state of its solution; what a checkpoint holds of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from attunement import training
from attunement.core import (
    AttunementError,
    Context,
    Samples,
    Trainable,
    as_contexts,
    require_same_outcomes,
)
from attunement.divergences import Divergence, parse_divergence
from attunement.objectives import Baseline
from attunement.runs import generator_for
from attunement.targets import Target
from attunement.tuning.partition import PartitionPool
from attunement.tuning.settings import Proposal, TuningSettings

BANK, CONTEXTS, SAMPLES, EVALUATION = range(4)
"""The purposes that random streams are derived for."""


@dataclass(frozen=True)
class Problem:
    """A tuning problem: what stays the same from step to step.

    Attributes:
        target: A fitted target.
        contexts: C contexts.
        settings: The settings.
        divergence: The settings' row of the table.
        bank: Base samples for the evaluations.
        bank_potential: [N] the target's log-potential of the bank.
    """

    target: Target
    contexts: tuple[Context, ...]
    settings: TuningSettings
    bank: Samples
    bank_potential: Tensor
    divergence: Divergence = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "divergence", parse_divergence(self.settings.divergence))


@dataclass
class TuningState:
    """What the next step needs.

    Attributes:
        policy: The model being tuned.
        average: The same with averaged weights: what is evaluated and delivered.
        training: Optimiser and counters.
        proposal: The copy of an earlier policy that `kl_adaptive` draws from; else the policy.
        pool: Z of every context, from the bank and earlier steps.
        step: Steps made.
        best: Lowest KL(p‖π) on the bank so far.
    """

    policy: Trainable
    average: Trainable
    training: training.TrainingState
    proposal: Trainable
    pool: PartitionPool
    step: int = 0
    best: float = math.inf


def init(
    target: Target,
    contexts: Sequence[Context | str] | None,
    settings: TuningSettings,
    *,
    policy: Trainable | None = None,
) -> tuple[Problem, TuningState]:
    """Check everything that can be checked, draw the bank and make the first state.

    Args:
        target: A fitted target whose base can be copied, or with a policy given.
        contexts: The contexts; None for an unconditional model.
        settings: The settings.
        policy: Where to start; a copy of the base by default.

    Raises:
        AttunementError: The divergence is infinite under a hard constraint, the target isn't
            fitted, no base sample satisfies the constraint, or the outcomes differ.
    """
    require_finite(parse_divergence(settings.divergence), target.has_forbidden)
    contexts = as_contexts(contexts)
    _require_enough(settings, len(contexts))
    policy = _copied_base(target) if policy is None else policy
    require_same_outcomes(target.base, policy)
    each = max(2, settings.bank_size // len(contexts))
    bank = target.base.sample(contexts, each, generator=generator_for(settings.seed, BANK))
    potential = target.log_potential(bank)
    if bool(torch.isneginf(potential).all()):
        raise AttunementError(
            f"{target.why_nothing_is_allowed(bank)}, so there is nothing to learn from: loosen it, "
            "give it a floor (--floor 0.01) or raise --bank-size"
        )
    pool = PartitionPool.empty(len(contexts))
    pool.add(bank.context_index, potential)
    average = policy.copy()
    state = TuningState(
        policy=policy,
        average=average,
        training=training.start_training(policy.module, average.module, settings),
        proposal=policy.copy() if settings.proposal is Proposal.KL_ADAPTIVE else policy,
        pool=pool,
    )
    return Problem(target, contexts, settings, bank, potential), state


def require_finite(row: Divergence, hard: bool) -> None:
    """Raise if a divergence is infinite under a target with a hard constraint.

    Raises:
        AttunementError: It is; the message offers a floor.
    """
    if hard and not row.allows_forbidden:
        raise AttunementError(
            f"{row.name} is infinite under a hard constraint: give it a floor (--floor 0.01) or "
            "choose a divergence such as jensen_shannon"
        )


def samples_of_each(settings: TuningSettings, contexts: int) -> int:
    """How many samples a step draws of each context that it draws from."""
    each = settings.batch_size if contexts == 1 else settings.samples_per_context
    return min(each, settings.batch_size)


def _require_enough(settings: TuningSettings, contexts: int) -> None:
    compares = settings.baseline is Baseline.LEAVE_ONE_OUT
    if compares and samples_of_each(settings, contexts) < 2:
        option = "--batch-size" if contexts == 1 else "--samples-per-context or --batch-size"
        raise AttunementError(
            f"leave_one_out needs two or more samples for each context: raise {option}"
        )


def save_state(problem: Problem, state: TuningState, folder: Path) -> dict[str, object]:
    """Write tensors into a checkpoint folder and return the counters that go with them."""
    counters = training.save_training(state.training, folder)
    save_file(
        {"log_sums": state.pool.log_sums, "counts": state.pool.counts},
        folder / "partition.safetensors",
    )
    if problem.settings.proposal is Proposal.KL_ADAPTIVE:
        training.save_parameters(state.proposal.module, folder / "proposal.safetensors")
    return {**counters, "best": "inf" if math.isinf(state.best) else state.best}


def load_state(
    problem: Problem, state: TuningState, folder: Path, counters: Mapping[str, object]
) -> None:
    """Bring a fresh state to where `save_state` was called.

    Raises:
        AttunementError: A file of the checkpoint is missing or corrupt.
    """
    training.load_training(state.training, folder, counters)
    if problem.settings.proposal is Proposal.KL_ADAPTIVE:
        training.load_parameters(state.proposal.module, folder / "proposal.safetensors")
    sums = training.load_tensors(folder / "partition.safetensors")
    state.pool = PartitionPool(sums["log_sums"], sums["counts"])
    state.step = state.training.updates
    state.best = float(str(counters["best"]))


def _copied_base(target: Target) -> Trainable:
    if not isinstance(target.base, Trainable):
        raise AttunementError("the target's base can't be trained: give a policy to start from")
    return target.base.copy()
