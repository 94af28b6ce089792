"""Memory of a tuning step: an adapter over its base's weights, against copies of all weights.

Either way a step needs a base, a policy, its averaged weights, the gradient and AdamW's two
moments. With copies that is six times the model; with a LoRA adapter of rank 8 on every linear
layer but the head it is the model once and five times the adapter. Every figure comes from a fresh
process that does nothing but one step: the bytes of the tensors (weights that share memory counted
once), and the peak of the process's resident memory above what the imports take, activations
included. The allocator is told to give back what is freed, so that the peak is what was in use.
What importing PEFT takes, which only the adapter needs, stands beside it.

    python benchmarks/memory.py --repetitions 3
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import decode
import harness
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from attunement import AdapterSettings, Causal, Target, TuningSettings, init, step, with_adapter
from attunement.tuning import TuningState

MODELS, FORMS = ("tiny-python", "gpt2-random"), ("adapter", "copies")
RANK, GPT2_VOCABULARY = 8, 50257
PAGE, KIBIBYTE = resource.getpagesize(), 1024


@dataclass(frozen=True)
class Footprint:
    """What one step takes, in bytes.

    Attributes:
        parameters: How many parameters the model has.
        weights: Of base, policy and averaged weights together.
        gradients: Of the gradient.
        optimizer: Of AdamW's moments.
        peak: Resident memory at its highest, above that of the imports.
        peft: Resident memory that importing PEFT adds; not part of the peak.
        cpu_seconds: Of the step, which is not what this is about.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    peak: int
    peft: int
    cpu_seconds: float


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of memory behind tensors; what several share counts once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def base_of(model: str) -> tuple[Causal, int]:
    """The base, and how many samples its step draws."""
    if model == "tiny-python":
        return Causal.load(model, max_new_tokens=32), 64
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config(bos_token_id=decode.END, eos_token_id=decode.END)).eval()
    tokenizer = decode.any_tokenizer(GPT2_VOCABULARY)
    return Causal.load(module, tokenizer=tokenizer, max_new_tokens=16), 8


def footprint(model: str, form: str) -> Footprint:
    """Make one step in this process, which should be a fresh one, and say what it took."""
    before = resident()
    if form == "adapter":
        import peft  # noqa: F401
    imported = resident()
    base, samples = base_of(model)
    policy = None
    if form == "adapter":
        settings = AdapterSettings(lora_rank=RANK)
        policy = with_adapter(base, settings, generator=torch.Generator().manual_seed(0))
    settings = TuningSettings(batch_size=samples, micro_batch_size=samples, bank_size=samples)
    problem, state = init(Target(base).tilt("length", beta=10), None, settings, policy=policy)
    gradients: list[Tensor] = []
    state.training.optimizer.register_step_pre_hook(
        lambda optimizer, *_: gradients.extend(
            p.grad for group in optimizer.param_groups for p in group["params"]
        )
    )
    seconds = harness.cpu_seconds(lambda: step(problem, state))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE - imported
    return Footprint(
        parameters=sum(p.numel() for p in base.module.parameters()),
        weights=held(weights(base, state)),
        gradients=held(gradients),
        optimizer=held(moments(state)),
        peak=peak,
        peft=imported - before,
        cpu_seconds=round(seconds, 2),
    )


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def weights(base: Causal, state: TuningState) -> list[Tensor]:
    """The parameters of every network of a step."""
    modules = (base.module, state.policy.module, state.average.module)
    return [parameter for module in modules for parameter in module.parameters()]


def moments(state: TuningState) -> list[Tensor]:
    """The tensors of AdamW."""
    return [
        tensor for entry in state.training.optimizer.state.values() for tensor in entry.values()
    ]


def measured(model: str, form: str, repetitions: int) -> Footprint:
    """The footprint with the median peak of several fresh processes."""
    command = [sys.executable, __file__, "--model", model, "--form", form]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = []
    for _ in range(repetitions):
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        found.append(Footprint(**json.loads(done.stdout)))
    middle = statistics.median_low([footprint.peak for footprint in found])
    return next(footprint for footprint in found if footprint.peak == middle)


def main() -> None:
    """Measure all, or one in this process, and write `results/memory.json`."""
    parser = argparse.ArgumentParser(description="Memory of a tuning step.")
    parser.add_argument("--repetitions", type=int, default=3, help="processes for each figure")
    parser.add_argument("--model", choices=MODELS, help="measure one step in this process")
    parser.add_argument("--form", choices=FORMS, default="adapter")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    if arguments.model is not None:
        print(json.dumps(asdict(footprint(arguments.model, arguments.form))))
        return
    models: dict[str, dict[str, object]] = {}
    for model in MODELS:
        adapter, copies = (measured(model, form, arguments.repetitions) for form in FORMS)
        ratio = {
            "tensors": round(tensors(copies) / tensors(adapter), 2),
            "peak": round(copies.peak / adapter.peak, 2),
        }
        models[model] = {"adapter": asdict(adapter), "copies": asdict(copies), "ratio": ratio}
        print(f"{model}: adapter {adapter}, copies {copies}, copies over adapter {ratio}")
    result = {
        "name": "memory of one tuning step, in bytes: a LoRA adapter over its base, against copies",
        "lora_rank": RANK,
        "repetitions": arguments.repetitions,
        "machine": harness.machine(),
        "models": models,
    }
    harness.RESULTS.mkdir(exist_ok=True)
    (harness.RESULTS / "memory.json").write_text(json.dumps(result, indent=2) + "\n")


def tensors(footprint: Footprint) -> int:
    """Bytes of weights, gradient and moments."""
    return footprint.weights + footprint.gradients + footprint.optimizer


if __name__ == "__main__":
    main()
