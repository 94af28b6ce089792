"""Several processes as one: each does its rows, and what they find becomes common to all.

Started by `accelerate launch` or `torchrun`, every process runs the same program on the same
recipe. The rule that everything else relies on: *all processes do the same things in the same
order*. Randomness is a function of the seed, so all of them know the uniforms of a whole batch;
each decodes, scores or differentiates its own rows, and the rows are gathered or the gradients
summed before anything is decided. Sums are reduced, never means, so a step doesn't depend on how
its samples were split (to rounding). Only the main process writes.

What a process does inside `alone()` it does by itself: there nothing is shared, and the others
needn't take part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

from attunement.core import AttunementError

_alone: ContextVar[bool] = ContextVar("alone", default=False)


def join() -> None:
    """Join the other processes if there are any; the first thing that a program does.

    Raises:
        AttunementError: The launcher was asked for FSDP, which is asked for by a setting here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
        raise AttunementError(
            "FSDP is a setting of the run, not of the launcher: say --fully-shard, and launch "
            "without --use_fsdp"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl")
        return
    if "OMP_NUM_THREADS" not in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        torch.set_num_threads(max(1, torch.get_num_threads() // here))
    dist.init_process_group("gloo")


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def is_shared() -> bool:
    """Whether work is to be shared out here: several processes, and not inside `alone()`."""
    return count() > 1 and not _alone.get()


@contextmanager
def alone() -> Iterator[None]:
    """Nothing inside is shared with other processes."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def own_rows(total: int) -> Tensor:
    """The rows of this process: [about total/count] int64; all of them where nothing is shared."""
    if not is_shared():
        return torch.arange(total)
    return torch.arange(total)[rank() :: count()]


def gather_rows(own: Tensor, total: int) -> Tensor:
    """All rows in order, the same on every process, on the CPU.

    Args:
        own: [len(own_rows(total)), ...] this process's rows; other dimensions are the same
            everywhere.
        total: Rows in all.
    """
    if not is_shared():
        return own
    most = -(-total // count())
    padded = torch.zeros((most, *own.shape[1:]), dtype=own.dtype)
    padded[: len(own)] = own
    sent = _sendable(padded)
    parts = [torch.empty_like(sent) for _ in range(count())]
    dist.all_gather(parts, sent)
    rows = torch.stack([part.cpu() for part in parts], 1).flatten(0, 1)[:total]
    return rows.to(own.dtype)


@torch.no_grad()
def sum_over_processes(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place."""
    if is_shared():
        for tensor in tensors:
            sent = _sendable(tensor)
            dist.all_reduce(sent)
            tensor.copy_(sent)


@torch.no_grad()
def make_common(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by that of the main process, in place."""
    if is_shared():
        for tensor in tensors:
            sent = _sendable(tensor)
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def wait() -> None:
    """Go on when all processes have come here."""
    if is_shared():
        dist.barrier()


def leave() -> None:
    """Leave the others in order; the last thing that a program does."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _sendable(tensor: Tensor) -> Tensor:
    """The tensor as the backend takes it: on a GPU for NCCL, and never of truth values."""
    tensor = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    return tensor.cuda() if dist.get_backend() == "nccl" else tensor
