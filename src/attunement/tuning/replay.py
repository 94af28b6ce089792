"""Replay: learning again from the last batches, each sample by the density it was drawn with.

A replayed sample keeps the log q that was recorded when it was drawn; only log π is taken anew. For
a given policy, w = π/q keeps every expectation as it is, whatever drew the sample. Over a run there
is a second-order effect that no weight removes: the policy has already learned from the samples
that it meets again. So the last few batches are replayed and no more, the partition function is
estimated from fresh draws alone, and distances always are.
"""

from __future__ import annotations

from pathlib import Path

from attunement import processes
from attunement.core import Decoder, Outcomes, Samples
from attunement.training import load_tensors, write_tensors
from attunement.tuning.drawn import Drawn
from attunement.tuning.problem import TuningState


def with_replay(fresh: Drawn, state: TuningState) -> Drawn:
    """The fresh samples of a step together with those that it meets again."""
    return Drawn.concatenate([fresh, *(old.renewed(state.policy) for old in state.replay)])


def remember(fresh: Drawn, state: TuningState, batches: int) -> None:
    """Put a batch before those that are replayed, of which so many are kept."""
    state.replay = (fresh, *state.replay)[:batches]


def save_replay(batches: tuple[Drawn, ...], folder: Path) -> None:
    """Write the batches into a checkpoint's folder, the latest first; on the main process."""
    for index, batch in enumerate(batches):
        if processes.is_main():
            batch.samples.save(folder / f"replay-{index}-samples.safetensors")
        columns = {name: column.contiguous() for name, column in batch.columns().items()}
        write_tensors(columns, folder / f"replay-{index}.safetensors")


def load_replay(
    folder: Path, batches: int, outcomes: Outcomes, decoder: Decoder | None
) -> tuple[Drawn, ...]:
    """Read what `save_replay` wrote.

    Raises:
        AttunementError: A file is missing or corrupt.
    """
    return tuple(
        Drawn(
            samples=Samples.load(folder / f"replay-{index}-samples.safetensors", outcomes, decoder),
            **load_tensors(folder / f"replay-{index}.safetensors"),
        )
        for index in range(batches)
    )
