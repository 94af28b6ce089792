"""What the benchmarks share: two sides timed in turn, in one process, on one thread.

Wall time on a shared machine says more about the neighbours than about the code, so a side's cost
is its CPU-seconds (`time.process_time`). The two sides run alternately, after a warm-up each, and
the order changes with every repetition; the figure is the median over repetitions of the ratio
peer / ours, with a 95 % bootstrap interval of that median.

Import this module before torch: it fixes one thread, for both sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """How many times cheaper ours is than the peer: the median, and its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """A finished comparison.

    Attributes:
        name: What was compared.
        ours: Our median, in `unit`.
        peer: The peer's median, in `unit`.
        unit: What `ours` and `peer` count, e.g. `tokens per CPU-second`.
        ratio: Peer's CPU-seconds over ours, paired by repetition.
        repetitions: Pairs of runs.
        machine: Processor, threads and versions.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: Ratio
    repetitions: int
    machine: dict[str, str | int]

    def __str__(self) -> str:
        return (
            f"{self.name}: ours {self.ours:,.0f}, peer {self.peer:,.0f} {self.unit}; "
            f"ratio {self.ratio.median:.2f} [{self.ratio.low:.2f}, {self.ratio.high:.2f}]"
        )


def repetitions_wanted(description: str, default: int) -> int:
    """Read `--repetitions` from the command line and set one thread."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repetitions", type=int, default=default, help="pairs of runs")
    repetitions = parser.parse_args().repetitions
    if repetitions < 1:
        parser.error("--repetitions must be at least 1")
    torch.set_num_threads(1)
    return repetitions


def compare(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    work: float,
    unit: str,
    repetitions: int,
) -> Result:
    """Time both sides alternately.

    Args:
        name: What is compared.
        ours: One run of ours; has to do the same amount of work each time.
        peer: One run of the peer, of the same amount of work.
        work: How much that is, in units; `unit` counts it by CPU-second.
        unit: E.g. `tokens per CPU-second`.
        repetitions: Pairs of runs that count, after one warm-up of each side.
    """
    ours()
    peer()
    pairs = []
    for repetition in range(repetitions):
        if repetition % 2 == 0:
            first = cpu_seconds(ours)
            pairs.append((first, cpu_seconds(peer)))
        else:
            first = cpu_seconds(peer)
            pairs.append((cpu_seconds(ours), first))
    return summarise(name, pairs, work=work, unit=unit)


def summarise(name: str, pairs: Sequence[tuple[float, float]], *, work: float, unit: str) -> Result:
    """The result of pairs of runs.

    Args:
        name: What is compared.
        pairs: CPU-seconds of ours and of the peer, a pair a repetition.
        work: How much one run does, in units; `unit` counts it by CPU-second.
        unit: E.g. `tokens per CPU-second`.
    """
    seconds = np.array(pairs)
    return Result(
        name=name,
        ours=work / statistics.median(seconds[:, 0]),
        peer=work / statistics.median(seconds[:, 1]),
        unit=unit,
        ratio=bootstrap_median(seconds[:, 1] / seconds[:, 0]),
        repetitions=len(seconds),
        machine=machine(),
    )


def cpu_seconds(run: Callable[[], object]) -> float:
    """The CPU-seconds that one call takes, all threads together."""
    start = time.process_time()
    run()
    return time.process_time() - start


def bootstrap_median(ratios: np.ndarray, resamples: int = 2000) -> Ratio:
    """The median of [R] ratios with its 95 % percentile-bootstrap interval."""
    rows = np.random.default_rng(0).integers(0, len(ratios), (resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[rows], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def machine() -> dict[str, str | int]:
    """Processor, threads and versions."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write(result: Result, file_name: str) -> Path:
    """Write a result as JSON under `results/` and print it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / file_name
    path.write_text(json.dumps(asdict(result), indent=2) + "\n")
    print(result)
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
