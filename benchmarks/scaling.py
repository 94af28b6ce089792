"""What a tuning step costs against the size of the model, the batch, the length and the processes.

One thing is varied at a time around a small GPT-2 form; each point is the median CPU-seconds of
steps after a warm-up, drawing, scoring and learning together. The exponent b of cost ∝ size^b is
fitted on the logarithms, with the 95 % interval of the regression. For processes what counts is the
wall time of a step over that of one process, on as many cores; on a shared machine it is a rough
figure and is given without an exponent.

    python benchmarks/scaling.py --repetitions 5
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import decode
import harness
import numpy as np
import torch
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel

from attunement import Proposal, Target, TuningSettings, init, processes, step
from attunement.distributions.causal import Causal

WIDTH, BATCH, LENGTH = 128, 64, 64


@dataclass(frozen=True)
class Fit:
    """The exponent of cost ∝ size^exponent, with its 95 % interval."""

    exponent: float
    low: float
    high: float


def one_step(width: int = WIDTH, batch: int = BATCH, length: int = LENGTH) -> Callable[[], None]:
    """A tuning step of a random model of four layers, ready to be repeated."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=4,
        n_head=4,
        n_embd=width,
        vocab_size=decode.VOCABULARY,
        n_positions=512,
        bos_token_id=None,
        eos_token_id=decode.END,
    )
    base = Causal.load(
        GPT2LMHeadModel(config).eval(),
        tokenizer=decode.any_tokenizer(),
        max_new_tokens=length,
        forbidden=frozenset({decode.END}),  # so that no completion ends early
    )

    def even(completion_ids: list[list[int]], **_: object) -> list[bool]:
        return [ids[0] % 2 == 0 for ids in completion_ids]

    settings = TuningSettings(
        batch_size=batch, bank_size=32, proposal=Proposal.POLICY, learning_rate=1e-5
    )
    problem, state = init(Target(base).constrain(even), ["t1"], settings)

    def run() -> None:
        assert step(problem, state).tokens == batch * length

    return run


def parameters(width: int) -> int:
    """Of the four layers and the head; the embedding of tokens is the head."""
    return 4 * 12 * width**2 + decode.VOCABULARY * width


def cost(run: Callable[[], None], repetitions: int) -> float:
    """Median CPU-seconds of a step, after one that doesn't count."""
    run()
    return statistics.median(harness.cpu_seconds(run) for _ in range(repetitions))


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Least squares on the logarithms."""
    found, covariance = np.polyfit(np.log(sizes), np.log(seconds), 1, cov=True)
    exponent = float(found[0])
    half = float(stats.t.ppf(0.975, len(sizes) - 2)) * math.sqrt(covariance[0, 0])
    return Fit(exponent, exponent - half, exponent + half)


def wall_seconds(count: int, repetitions: int) -> float:
    """Median wall time of a step on the main one of so many processes."""
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29417"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--as-process", str(repetitions)],
            env=os.environ | common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    printed = [process.communicate()[0] for process in started]
    return float(printed[0])


def as_process(repetitions: int) -> None:
    """One of several processes: prints its median wall time of a step."""
    processes.join()
    torch.set_num_threads(1)
    run = one_step()
    run()
    found = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    processes.wait()
    processes.leave()
    print(statistics.median(found))


def main() -> None:
    """Vary one thing at a time, fit, and write what came out."""
    repetitions = harness.repetitions_wanted("What a tuning step costs.", 5)
    courses: dict[str, tuple[list[int], list[float], Callable[[int], Callable[[], None]]]] = {
        "parameters": (
            [64, 96, 128, 192, 256],
            [],
            lambda width: one_step(width=width),
        ),
        "batch": ([16, 32, 64, 128, 256], [], lambda batch: one_step(batch=batch)),
        "length": ([16, 32, 64, 128, 256], [], lambda length: one_step(length=length)),
    }
    content: dict[str, object] = {}
    for name, (points, seconds, make) in courses.items():
        seconds += [cost(make(point), repetitions) for point in points]
        sizes = [parameters(point) for point in points] if name == "parameters" else points
        found = fit(sizes, seconds)
        content[name] = {"sizes": sizes, "seconds": seconds, **asdict(found)}
        print(
            f"{name}: cost ∝ size^{found.exponent:.2f} [{found.low:.2f}, {found.high:.2f}]; "
            + ", ".join(f"{s:,} {c:.2f} s" for s, c in zip(sizes, seconds, strict=True)),
            flush=True,
        )
    counts = [1, 2]
    walls = [wall_seconds(count, repetitions) for count in counts]
    content["processes"] = {"counts": counts, "wall_seconds": walls, "cores": os.cpu_count()}
    print("processes: " + ", ".join(f"{c} {w:.2f} s" for c, w in zip(counts, walls, strict=True)))
    path = harness.RESULTS / "scaling.json"
    path.write_text(json.dumps({**content, "machine": harness.machine()}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-process"]:
        as_process(int(sys.argv[2]))
    else:
        main()
