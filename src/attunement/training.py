"""What every training loop shares: one function that changes a model, and its state.

`update` is the only place where the parameters of a language model are changed. It adds up the
gradients of micro-batches, clips, takes one AdamW step at the scheduled learning rate and moves
the averaged weights. The gradient is the same for any split into micro-batches, because losses
are sums over a micro-batch divided by the size of the whole step. Several processes share the
micro-batches out and sum their gradients (`processes`, `sharding`).

What is trained, averaged and saved are a network's parameters that require a gradient; frozen ones,
such as those under an adapter, are never touched and stand in no checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attunement import processes
from attunement.core import AttunementError
from attunement.sharding import full, is_sharded, local, split_like

MicroBatch = TypeVar("MicroBatch")


class OptimizerSettings(BaseModel):
    """How parameters move; the names are those of transformers' `TrainingArguments`.

    Attributes:
        learning_rate: Peak of the schedule.
        warmup_steps: Steps of linear increase from 0.
        max_steps: Steps in all; the rate falls along a cosine to 0, where the last one ends.
        max_grad_norm: Gradients with a larger norm are scaled down to it, and counted.
        weight_decay: AdamW's.
        adam_beta1: AdamW's.
        adam_beta2: AdamW's.
        adam_epsilon: AdamW's.
        averaging: Weight of the past in the exponential moving average of the parameters that is
            delivered; 0 delivers the last ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(default=5e-5, gt=0)
    warmup_steps: int = Field(default=5, ge=0)
    max_steps: int = Field(default=80, ge=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.99, ge=0, lt=1)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    averaging: float = Field(default=0.95, ge=0, lt=1)


@dataclass
class TrainingState:
    """What the next update needs.

    Attributes:
        module: The network that is trained.
        average: A network of the same shape that holds the averaged weights.
        optimizer: AdamW over the module's trainable parameters.
        updates: How many updates were made.
    """

    module: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW
    updates: int = 0


@dataclass(frozen=True)
class UpdateInfo:
    """What a reader of an update needs.

    Attributes:
        loss: The whole step's loss.
        gradient_norm: Norm before clipping.
        clipped: Whether it was scaled down.
        learning_rate: The rate of this update.
    """

    loss: float
    gradient_norm: float
    clipped: bool
    learning_rate: float


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name; tied ones stand once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def start_training(
    module: nn.Module, average: nn.Module, settings: OptimizerSettings
) -> TrainingState:
    """A state at zero updates.

    Args:
        module: The network to train.
        average: An independent copy of it, for the averaged weights.
        settings: How it moves.

    Raises:
        AttunementError: Every parameter is frozen.
    """
    parameters = trainable(module)
    if not parameters:
        raise AttunementError(
            "every parameter of the policy is frozen, so there is nothing to train: start from a "
            "model with parameters that require a gradient"
        )
    if not is_sharded(module):
        processes.make_common(parameters.values())
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )
    return TrainingState(module, average, optimizer)


def scheduled_learning_rate(settings: OptimizerSettings, update: int) -> float:
    """Linear warm-up, then a cosine to 0 at `max_steps`; `update` counts from 0."""
    if update < settings.warmup_steps:
        return settings.learning_rate * (update + 1) / (settings.warmup_steps + 1)
    rest = max(1, settings.max_steps - settings.warmup_steps)
    progress = min(1.0, (update - settings.warmup_steps) / rest)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def update(
    state: TrainingState,
    micro_batches: Iterable[MicroBatch],
    loss_of: Callable[[MicroBatch], Tensor],
    settings: OptimizerSettings,
) -> UpdateInfo:
    """One optimiser step over all micro-batches; changes the state's modules in place.

    Args:
        state: The state.
        micro_batches: The parts of the step.
        loss_of: A part's share of the loss: the shares add up to the loss of the step.
        settings: How parameters move.

    Raises:
        AttunementError: The gradient isn't finite; parameters are as before.
    """
    state.optimizer.zero_grad(set_to_none=True)
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    loss = _backward(state.module, parameters, list(micro_batches), loss_of)
    rate = scheduled_learning_rate(settings, state.updates)
    norm = float(full(nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)))
    if not math.isfinite(norm):
        raise AttunementError(
            f"the gradient of update {state.updates + 1} isn't finite: lower the learning rate"
        )
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.updates += 1
    _move_average(state, settings.averaging)
    return UpdateInfo(loss, norm, norm > settings.max_grad_norm, rate)


def _backward(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    parts: Sequence[MicroBatch],
    loss_of: Callable[[MicroBatch], Tensor],
) -> float:
    """The gradient of the whole step on every process, from each one's own parts; its loss.

    A sharded network gathers itself in every pass, so that all processes must make as many: one
    that has run out of parts goes through the first again, for nothing.
    """
    own = parts[processes.rank() :: processes.count()]
    loss = torch.zeros((), dtype=torch.float64)
    with processes.alone():
        for batch in own:
            share = loss_of(batch)
            # What a sharded network reduces is the mean over processes.
            (share * processes.count() if is_sharded(module) else share).backward()
            loss += share.detach().cpu().double()
        rounds = -(-len(parts) // processes.count())
        for _ in range(rounds - len(own) if is_sharded(module) else 0):
            (loss_of(parts[0]) * 0.0).backward()
    processes.sum_over_processes([loss])
    if not is_sharded(module):
        _sum_gradients(parameters)
    return float(loss)


def _sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum over processes; a parameter that no part of the step used keeps having no gradient."""
    if processes.count() == 1:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float64)
    processes.sum_over_processes([used])
    for parameter in (p for p, times in zip(parameters, used.tolist(), strict=True) if times):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        processes.sum_over_processes([parameter.grad])


@torch.no_grad()
def _move_average(state: TrainingState, decay: float) -> None:
    # Early on the average forgets faster, so that it isn't dominated by where it started.
    decay = min(decay, state.updates / (state.updates + 10))
    averages, parameters = trainable(state.average), trainable(state.module)
    for name, parameter in parameters.items():
        local(averages[name]).lerp_(local(parameter), 1 - decay)


def save_training(state: TrainingState, folder: Path) -> dict[str, int]:
    """Write weights, averaged weights and optimiser state as safetensors; returns the counters."""
    save_parameters(state.module, folder / "policy.safetensors")
    save_parameters(state.average, folder / "average.safetensors")
    moments = {
        f"{index}.{key}": full(value).contiguous()
        for index, entry in state.optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
    write_tensors(moments, folder / "optimizer.safetensors")
    return {"updates": state.updates}


def load_training(state: TrainingState, folder: Path, counters: Mapping[str, object]) -> None:
    """Read what `save_training` wrote into a fresh state of the same shape.

    Raises:
        AttunementError: A file is missing, corrupt or of another model.
    """
    load_parameters(state.module, folder / "policy.safetensors")
    load_parameters(state.average, folder / "average.safetensors")
    packed = state.optimizer.state_dict()
    packed["state"] = _optimizer_entries(state.optimizer, folder / "optimizer.safetensors")
    state.optimizer.load_state_dict(packed)
    state.updates = int(str(counters["updates"]))


def _optimizer_entries(optimizer: torch.optim.AdamW, path: Path) -> dict[int, dict[str, Tensor]]:
    """AdamW's state by the parameter's number, as `state_dict` has it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {str(index): tuple(p.shape) for index, p in enumerate(parameters)}
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in load_tensors(path).items():
        index, _, key = name.partition(".")
        if index not in shapes or (key != "step" and tuple(value.shape) != shapes[index]):
            raise AttunementError(f"{path} holds the optimiser of another model")
        split = value if key == "step" else split_like(value, parameters[int(index)])
        entries.setdefault(int(index), {})[key] = split
    return entries


def save_parameters(module: nn.Module, path: Path) -> None:
    """Write a module's trainable parameters by name."""
    tensors = {name: full(p.detach()).contiguous() for name, p in trainable(module).items()}
    write_tensors(tensors, path)


@torch.no_grad()
def load_parameters(module: nn.Module, path: Path) -> None:
    """Read what `save_parameters` wrote into a module of the same shape.

    Raises:
        AttunementError: The file is missing, corrupt or of another model.
    """
    tensors = load_tensors(path)
    own = trainable(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if {name: tuple(p.shape) for name, p in own.items()} != shapes:
        raise AttunementError(f"{path} holds the weights of another model")
    for name, parameter in own.items():
        parameter.copy_(split_like(tensors[name].to(parameter.device), parameter))


@torch.no_grad()
def copy_parameters(source: nn.Module, destination: nn.Module) -> None:
    """Give one network the trainable parameters of another of the same shape, sharded or not."""
    own = trainable(destination)
    for name, parameter in trainable(source).items():
        own[name].copy_(split_like(full(parameter), own[name]))


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file on the main process; all processes have the tensors."""
    if processes.is_main():
        save_file(dict(tensors), path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file.

    Raises:
        AttunementError: The file is missing or corrupt.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise AttunementError(
            f"{path} can't be read ({error}): delete the folder {path.parent} to go on from the "
            "checkpoint before it"
        ) from error
