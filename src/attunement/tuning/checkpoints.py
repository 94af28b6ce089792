"""What a checkpoint holds of a tuning run.

Every random stream is a function of the seed, its purpose and the step, so that no generator has a
state to be kept: parameters, their averages, the optimiser, what is known of Z, an adaptive
proposal and the batches that are replayed are all that the next step reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import nn

from attunement import training
from attunement.core import Distribution, Trainable
from attunement.tuning.partition import PartitionPool
from attunement.tuning.problem import Problem, TuningState
from attunement.tuning.replay import load_replay, save_replay
from attunement.tuning.settings import Proposal


def save_state(problem: Problem, state: TuningState, folder: Path) -> dict[str, object]:
    """Write tensors into a checkpoint folder and return the counters that go with them."""
    counters = training.save_training(state.training, folder)
    training.write_tensors(
        {"log_sums": state.pool.log_sums, "counts": state.pool.counts},
        folder / "partition.safetensors",
    )
    if problem.settings.proposal is Proposal.KL_ADAPTIVE:
        training.save_parameters(_module(state.proposal), folder / "proposal.safetensors")
    save_replay(state.replay, folder)
    best = "inf" if math.isinf(state.best) else state.best
    return {**counters, "best": best, "replay": len(state.replay)}


def load_state(
    problem: Problem, state: TuningState, folder: Path, counters: Mapping[str, object]
) -> None:
    """Bring a fresh state to where `save_state` was called.

    Raises:
        AttunementError: A file of the checkpoint is missing or corrupt.
    """
    training.load_training(state.training, folder, counters)
    if problem.settings.proposal is Proposal.KL_ADAPTIVE:
        training.load_parameters(_module(state.proposal), folder / "proposal.safetensors")
    sums = training.load_tensors(folder / "partition.safetensors")
    state.pool = PartitionPool(sums["log_sums"], sums["counts"])
    state.step = state.training.updates
    state.best = float(str(counters["best"]))
    replayed = int(str(counters["replay"]))
    state.replay = load_replay(folder, replayed, problem.bank.outcomes, problem.bank.decoder)


def _module(adaptive: Distribution) -> nn.Module:
    """The network of an adaptive proposal, which is a copy of the policy."""
    return cast(Trainable, adaptive).module
