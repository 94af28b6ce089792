"""Fresh samples, and CPU-seconds, that it takes to come so near to a target.

Plain on-policy DPG (forward KL, no baseline, no replay: arXiv 2012.11635, 2106.04985) against ours:
the analytic baseline, samples of base and policy in equal parts, and the last batches again.

- Tabular: the exact total variation of the averaged policy from the target, looked at every five
  steps, on languages that neither side's learning rate was chosen on.
- Embedded (`--embedded`): KL(p‖π) of tiny-python from "its programs compile", on base samples that
  neither side has seen.

Each side has the learning rate, of the same grid, with which it is quickest on other seeds. The
looking isn't counted. A run that doesn't arrive within the budget counts with the whole budget, so
that ratios are lower bounds then, and says so.

    python benchmarks/samples_to_target.py --repetitions 8
    python benchmarks/samples_to_target.py --embedded --repetitions 3
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import harness
import numpy as np
import torch

from attunement import Causal, Tabular, Target, TuningSettings, init, step
from attunement.runs import generator_for
from attunement.tuning import Problem, TuningState

PLAIN, OURS = "plain on-policy DPG", "baseline, mixture and replay"
_FRESH = 1000
"""The random stream of the base samples that only look."""


@dataclass(frozen=True)
class Arrival:
    """What a run took to reach a level.

    Attributes:
        samples: Fresh samples drawn.
        seconds: CPU-seconds of its steps.
        arrived: Whether it did within the budget.
    """

    samples: int
    seconds: float
    arrived: bool


@dataclass(frozen=True)
class Course:
    """A kind of runs that two sides make.

    Attributes:
        name: What is approached, and how the distance is measured.
        levels: Distances to be reached, the farthest first.
        budget: Fresh samples after which a run is given up.
        every: Steps between two looks.
        rates: The grid of learning rates, which ends beyond the best of either side.
        sides: The settings of both sides, by name.
        start: From a seed and settings to a problem, its state and the distance as a function.
    """

    name: str
    levels: tuple[float, ...]
    budget: int
    every: int
    rates: tuple[float, ...]
    sides: dict[str, dict[str, object]]
    start: Callable[
        [int, TuningSettings], tuple[Problem, TuningState, Callable[[TuningState], float]]
    ]


def run(course: Course, side: str, rate: float, seed: int) -> list[Arrival]:
    """One run, to the last of the course's levels or the end of its budget."""
    settings = TuningSettings.model_validate(
        {
            **course.sides[side],
            "learning_rate": rate,
            "warmup_steps": 0,
            "max_steps": 10**9,  # the rate hardly falls
            "seed": seed,
        }
    )
    problem, state, distance = course.start(seed, settings)
    found: list[Arrival] = []
    samples, seconds = 0, 0.0
    while samples < course.budget and len(found) < len(course.levels):
        started = time.process_time()
        samples += step(problem, state).samples
        seconds += time.process_time() - started
        if state.step % course.every == 0:
            here = distance(state)
            while len(found) < len(course.levels) and here < course.levels[len(found)]:
                found.append(Arrival(samples, seconds, True))
    missing = len(course.levels) - len(found)
    return found + [Arrival(samples, seconds, False)] * missing


def best_rate(course: Course, side: str, seeds: Sequence[int]) -> float:
    """The learning rate with which a side reaches the last level with the fewest samples."""

    def cost(rate: float) -> float:
        last = [run(course, side, rate, seed)[-1] for seed in seeds]
        return float(np.median([one.samples if one.arrived else math.inf for one in last]))

    costs = {rate: cost(rate) for rate in course.rates}
    print(f"{course.name}, {side}: samples to the last level by learning rate {costs}", flush=True)
    return min(costs, key=lambda rate: costs[rate])


def compare(course: Course, choosing: Sequence[int], seeds: Sequence[int]) -> dict[str, object]:
    """Both sides on the same seeds, each at its own best rate; ratios plain / ours by level."""
    rates = {side: best_rate(course, side, choosing) for side in (PLAIN, OURS)}
    runs = {side: [run(course, side, rates[side], seed) for seed in seeds] for side in rates}
    rows = []
    for at, level in enumerate(course.levels):
        plain, ours = ([one[at] for one in runs[side]] for side in (PLAIN, OURS))
        ratios = {
            "samples": harness.bootstrap_median(
                np.array([p.samples / o.samples for p, o in zip(plain, ours, strict=True)])
            ),
            "seconds": harness.bootstrap_median(
                np.array([p.seconds / o.seconds for p, o in zip(plain, ours, strict=True)])
            ),
        }
        rows.append(
            {
                "level": level,
                "plain": [asdict(one) for one in plain],
                "ours": [asdict(one) for one in ours],
                "ratio": {name: asdict(ratio) for name, ratio in ratios.items()},
            }
        )
        arrived = (sum(one.arrived for one in side) for side in (plain, ours))
        spread = "; ".join(
            f"{name} {r.median:.2f} [{r.low:.2f}, {r.high:.2f}]" for name, r in ratios.items()
        )
        print(
            f"{course.name} < {level}: plain / ours {spread}; arrived {next(arrived)} and "
            f"{next(arrived)} of {len(seeds)}",
            flush=True,
        )
    sides = {side: {**course.sides[side], "learning_rate": rates[side]} for side in rates}
    return {"name": course.name, "sides": sides, "levels": rows}


def tabular() -> Course:
    """A language of 341 sentences for each seed, a constraint that about half of it satisfies."""

    def wanted(texts: list[str]) -> list[bool]:
        return ["a" in text and not text.endswith("b") for text in texts]

    def start(
        seed: int, settings: TuningSettings
    ) -> tuple[Problem, TuningState, Callable[[TuningState], float]]:
        base = Tabular.random(5, 4, generator=generator_for(seed, _FRESH))
        target = Target(base).constrain(wanted)
        problem, state = init(target, None, settings)
        support = base.enumerate()
        p = (support.log_prob + target.log_potential(support)).softmax(0)

        def distance(state: TuningState) -> float:
            with torch.no_grad():
                return 0.5 * float((state.average.log_prob(support).exp() - p).abs().sum())

        return problem, state, distance

    common = {"batch_size": 64, "bank_size": 1024, "divergence": "forward_kl"}
    return Course(
        name="tabular, total variation",
        levels=(0.1, 0.05),
        budget=100_000,
        every=5,
        rates=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
        sides={
            PLAIN: {**common, "proposal": "policy", "baseline": "none"},
            OURS: {**common, "proposal": "mixture", "baseline": "analytic", "replay": 4},
        },
        start=start,
    )


def main() -> None:
    """Run the tabular course or, with `--embedded`, the other one, and write what came out."""
    parser = argparse.ArgumentParser(description="Fresh samples to come so near to a target.")
    parser.add_argument("--repetitions", type=int, default=8, help="seeds that both sides run")
    parser.add_argument("--embedded", action="store_true", help="tiny-python instead of tables")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    course = embedded() if asked.embedded else tabular()
    choosing = range(100, 101 if asked.embedded else 103)
    content = compare(course, choosing, range(asked.repetitions))
    kind = "embedded" if asked.embedded else "tabular"
    path = harness.RESULTS / f"samples_to_target_{kind}.json"
    path.write_text(json.dumps({**content, "machine": harness.machine()}, indent=2) + "\n")


def embedded() -> Course:
    """tiny-python towards programs that end within 64 tokens and compile."""

    def start(
        seed: int, settings: TuningSettings
    ) -> tuple[Problem, TuningState, Callable[[TuningState], float]]:
        base = Causal.load("tiny-python")
        target = Target(base).constrain("compiles")
        problem, state = init(target, None, settings)
        fresh = base.sample(None, 4096, generator=generator_for(seed, _FRESH))
        allowed = torch.isfinite(target.log_potential(fresh))
        log_z = float(allowed.double().mean().log())
        fresh = fresh[allowed]  # exact samples of the target

        def distance(state: TuningState) -> float:
            with torch.no_grad():
                return float((fresh.log_prob - log_z - state.average.log_prob(fresh)).mean())

        return problem, state, distance

    common = {"batch_size": 128, "bank_size": 1024, "divergence": "forward_kl"}
    return Course(
        name="tiny-python that compiles, KL(p‖π)",
        levels=(0.8, 0.7, 0.65),
        budget=20_000,
        every=4,
        rates=(1e-5, 2e-5, 5e-5),
        sides={
            PLAIN: {**common, "proposal": "policy", "baseline": "none"},
            OURS: {**common, "proposal": "mixture", "baseline": "analytic", "replay": 4},
        },
        start=start,
    )


if __name__ == "__main__":
    main()
