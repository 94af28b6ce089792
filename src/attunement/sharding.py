"""Parameters split among processes: fully sharded data parallelism (FSDP2 of PyTorch).

Each process keeps a part of every parameter, of its gradient, its optimiser state and its average.
A training pass gathers one block of the network at a time, so that all processes must make the same
number of passes; sampling and scoring, where the number of passes differs from process to process,
happen inside `whole`, where every parameter is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from attunement import processes
from attunement.core import AttunementError


def shard(module: nn.Module) -> None:
    """Split a network's parameters among all processes, in place.

    The blocks that a model of transformers names are gathered one at a time, any other network as
    a whole.

    Args:
        module: The network, the same in every process.

    Raises:
        AttunementError: There is only one process.
    """
    if processes.count() == 1:
        raise AttunementError(
            "there is one process, and nothing to shard among: leave out --fully-shard, or start "
            "several with accelerate launch or torchrun"
        )
    blocks = module._no_split_modules if isinstance(module, PreTrainedModel) else None
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (processes.count(),))
    for part in list(module.modules()):
        if type(part).__name__ in (blocks or ()):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was called on the network."""
    return isinstance(module, FSDPModule)


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Inside, every parameter is there, and a forward pass needs no other process.

    All processes enter and leave together. A network that isn't sharded is left as it is.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True)
            part.reshard()


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be split; all processes ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be split, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, split as another one is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)
