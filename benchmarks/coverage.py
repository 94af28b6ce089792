"""Do the 95 % intervals hold the truth 95 % of the time? On models whose truth is a finite sum.

Every estimator of `attunement.estimators` is run many times on fresh samples of exact tabular
models, on a grid that is fixed in this file: targets × proposals × sample sizes. A cell is one
estimator at one place of the grid; its coverage is the share of repetitions whose interval holds
the exact value. Every cell is printed and written, none is left out.

Criteria, for n >= 2,000:

- regular cells (a finite truth, spread above 0, the rarest event expected ten times or more, and
  no outcome or context expected less often that carries half of the variance by itself): 95 % of
  them within 93 to 97 %, none below 90 %;
- boundary cells (π = p exactly; rates of 0 or 1): at least 93 %;
- wherever coverage is below 90 %, at least 80 % of the missing intervals carry a warning;
- where the truth is infinite the estimate is;
- with a policy that has lost half of the target's mass: right, or flagged.

Run `python benchmarks/coverage.py` (about 26 minutes of CPU, shared by all cores), or a trial
with `--repetitions 200`.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from harness import RESULTS, machine
from scipy.optimize import brentq
from torch import Tensor

from attunement import estimators
from attunement.core import Estimate
from attunement.distributions.tabular import END, Tabular
from attunement.divergences import DIVERGENCES, Divergence, alpha, reverse_kl
from attunement.evidence import BASE, POLICY, Evidence

TARGETS = ("hard", "tilt", "match", "conditional")
PROPOSALS = ("base", "policy", "mixture")
SIZES = (500, 2000, 8000)
ROWS = (*DIVERGENCES.values(), alpha(0.5))
SEED = 1
PER_CONTEXT = 64
POPULATION = 200
WITHIN, FLOOR, BOUNDARY, FLAGGED, SHARE = (0.93, 0.97), 0.90, 0.93, 0.80, 0.95
ROUNDING = 1e-9


@dataclass(frozen=True)
class Problem:
    """Exact tables of C contexts with K outcomes each; log-probabilities in nats.

    Attributes:
        target: Which of `TARGETS`.
        kind: `regular`, `boundary` or `collapsed`.
        log_base: [C, K].
        log_policy: [C, K].
        log_potential: [C, K].
        features: [K] features by name.
    """

    target: str
    kind: str
    log_base: Tensor
    log_policy: Tensor
    log_potential: Tensor
    features: dict[str, Tensor]

    @property
    def log_target(self) -> Tensor:
        """[C, K] log p."""
        return (self.log_base + self.log_potential).log_softmax(1)

    def log_proposal(self, proposal: str) -> Tensor:
        """[C, K] log q."""
        if proposal == "mixture":
            return torch.logaddexp(self.log_base, self.log_policy) - math.log(2)
        return self.log_base if proposal == "base" else self.log_policy


@dataclass(frozen=True)
class Cell:
    """One estimator at one place of the grid.

    Attributes:
        kind: `regular`, `rare`, `boundary`, `infinite` or `collapsed`.
        target: The target.
        proposal: What was sampled.
        n: Samples in all.
        estimator: The estimator.
        truth: The exact value.
        coverage: Share of intervals that hold it.
        flagged: Share of the missing intervals that carry a warning, None where none misses.
        low_misses: Share of intervals that lie above the truth.
        high_misses: Share of intervals that lie below the truth.
        bias: Mean error over the mean standard error, None where either has no meaning.
        repetitions: How many intervals.
    """

    kind: str
    target: str
    proposal: str
    n: int
    estimator: str
    truth: float | str
    coverage: float
    flagged: float | None
    low_misses: float
    high_misses: float
    bias: float | None
    repetitions: int

    def __str__(self) -> str:
        flagged = "-" if self.flagged is None else f"{self.flagged:.2f}"
        truth = self.truth if isinstance(self.truth, str) else f"{self.truth:.4f}"
        bias = "-" if self.bias is None else f"{self.bias:+.2f}"
        return (
            f"{self.kind:9} {self.target:11} {self.proposal:7} {self.n:5} {self.estimator:22} "
            f"truth {truth:>8} coverage {self.coverage:.4f} above {self.low_misses:.3f} "
            f"below {self.high_misses:.3f} bias {bias} flagged {flagged}"
        )


def problem(target: str, kind: str = "regular") -> Problem:
    """The model, target and policy of one row of the grid."""
    generator = torch.Generator().manual_seed(SEED)
    prompts = [str(row) for row in range(POPULATION)] if target == "conditional" else [""]
    base = Tabular.random(4, 4, generator=generator, prompts=prompts, scale=0.8)
    outcomes = base.enumerate(prompts)
    size = len(outcomes) // len(prompts)
    tokens, mask = outcomes.tokens[:size], outcomes.mask[:size]
    counts = ((tokens == 1) & mask).sum(1).double()
    features = {
        "contains": ((tokens == 2) & mask).any(1).double(),
        "length": mask.sum(1).double(),
        "never": torch.zeros(size, dtype=torch.float64),
        "always": torch.ones(size, dtype=torch.float64),
    }
    log_base = outcomes.log_prob.reshape(len(prompts), size)
    potential = _potential(target, log_base, counts, features["contains"])
    log_target = (log_base + potential).log_softmax(1)
    if kind == "boundary":
        log_policy = log_target
    else:
        log_policy = _tuned(base, tokens, mask, log_base, log_target, generator)
    if kind == "collapsed":
        log_policy = _collapsed(log_policy, log_target)
    return Problem(target, kind, log_base, log_policy, potential, features)


def _potential(target: str, log_base: Tensor, counts: Tensor, contains: Tensor) -> Tensor:
    if target in ("hard", "conditional"):
        return torch.where(counts > 0, 0.0, -math.inf).double().expand_as(log_base)
    if target == "tilt":
        return counts.expand_as(log_base)

    def surplus(strength: float) -> float:
        weights = (log_base + strength * contains).softmax(1)
        return float((weights * contains).sum() - (log_base.exp() * contains).sum()) - 0.2

    return float(brentq(surplus, 0.0, 10.0)) * contains.expand_as(log_base)  # pyright: ignore


def _tuned(
    base: Tabular,
    tokens: Tensor,
    mask: Tensor,
    log_base: Tensor,
    log_target: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """A policy half way, in logits, from the base to the target, with some noise of its own."""
    logits = []
    for row in range(len(log_base)):
        tables = [_conditionals(base, tokens, mask, log[row]) for log in (log_base, log_target)]
        logits.append(sum(table.clamp(min=1e-3).log() for table in tables) / 2)
    stacked = torch.stack(logits)
    noise = torch.randn(stacked.shape, generator=generator, dtype=torch.float64)
    policy = Tabular(stacked + 0.25 * noise, tokens.shape[1], base.prompts)
    return policy.enumerate(list(base.prompts)).log_prob.reshape(log_base.shape)


def _conditionals(base: Tabular, tokens: Tensor, mask: Tensor, log_prob: Tensor) -> Tensor:
    """[P, V] next-symbol probabilities of a distribution over outcomes."""
    table = torch.zeros(base.logits.shape[1], base.vocabulary, dtype=torch.float64)
    prefix = torch.zeros(len(tokens), dtype=torch.long)
    for step in range(tokens.shape[1]):
        rows = mask[:, step]
        table.index_put_((prefix[rows], tokens[rows, step]), log_prob[rows].exp(), accumulate=True)
        prefix = prefix * base.vocabulary + 1 + tokens[:, step]
        prefix = torch.where(tokens[:, step] == END, 0, prefix)
    return table / table.sum(1, keepdim=True).clamp(min=1e-300)


def _collapsed(log_policy: Tensor, log_target: Tensor) -> Tensor:
    """The policy with half of the target's mass, taken from the middle of its outcomes, lost."""
    order = log_target.argsort(1, descending=True)
    cumulative = log_target.gather(1, order).exp().cumsum(1)
    lost = torch.zeros_like(log_policy).scatter(1, order, (cumulative > 0.5).double())
    return (log_policy - 30 * lost).log_softmax(1)


def exact_values(task: Problem, proposal: str) -> dict[str, Tensor]:
    """[C] the exact value of every estimator in each context."""
    log_target, log_policy, log_base = task.log_target, task.log_policy, task.log_base
    log_z = torch.logsumexp(log_base + task.log_potential, 1)
    allowed = torch.isfinite(task.log_potential)
    restricted = torch.where(allowed, log_policy, -math.inf).log_softmax(1)
    policy, target = log_policy.exp(), log_target.exp()
    gain = torch.where(policy > 0, log_policy - log_base, 0.0)
    found = {"partition": log_z.exp(), "log_partition": log_z}
    for row in ROWS:
        found[row.name] = row.integrand(log_policy, log_target).sum(1)
    found["kl_policy_base"] = (policy * gain).sum(1)
    found["reverse_kl_allowed"] = reverse_kl.integrand(restricted, log_target).sum(1)
    for name, feature in _features(task).items():
        found[f"moment_target {name}"] = target @ feature
        found[f"moment_policy {name}"] = policy @ feature
        found[f"sample_mean {name}"] = task.log_proposal(proposal).exp() @ feature
    return found


def _features(task: Problem) -> dict[str, Tensor]:
    names = ("never", "always") if task.kind == "boundary" else ("contains", "length")
    return {name: task.features[name] for name in names}


class Sampler:
    """Draws evidence from exact tables."""

    def __init__(self, task: Problem, proposal: str, n: int):
        """Hold cumulative tables.

        Args:
            task: The tables.
            proposal: One of `PROPOSALS`.
            n: Samples in all.
        """
        self.task, self.proposal = task, proposal
        self.conditional = len(task.log_base) > 1
        self.shape = (n // PER_CONTEXT, PER_CONTEXT) if self.conditional else (1, n)
        half = self.shape[1] // 2
        rest = self.shape[1] - half
        sizes = {"base": (self.shape[1], 0), "policy": (0, self.shape[1]), "mixture": (half, rest)}
        self.sizes = sizes[proposal]
        self.cumulative = [log.exp().cumsum(1) for log in (task.log_base, task.log_policy)]
        self.part = torch.tensor([BASE, POLICY]).repeat_interleave(torch.tensor(self.sizes))

    def draw(self, generator: torch.Generator) -> tuple[Evidence, Tensor]:
        """Evidence of a fresh bank, and the outcome [N] of each sample."""
        count, each = self.shape
        context = torch.zeros(count, dtype=torch.long)
        if self.conditional:
            context = torch.randint(len(self.task.log_base), (count,), generator=generator)
        drawn = []
        for cumulative, size in zip(self.cumulative, self.sizes, strict=True):
            table = cumulative[context]
            uniforms = torch.rand((count, size), generator=generator, dtype=torch.float64)
            index = torch.searchsorted(table, uniforms * table[:, -1:], right=True)
            drawn.append(index.clamp(max=table.shape[1] - 1))
        outcome = torch.cat(drawn, 1)
        rows = context.unsqueeze(1)

        def at(table: Tensor) -> Tensor:
            return table[rows, outcome].flatten()

        evidence = Evidence(
            log_proposal=at(self.task.log_proposal(self.proposal)),
            log_base=at(self.task.log_base),
            log_policy=at(self.task.log_policy),
            log_potential=at(self.task.log_potential),
            part=self.part.repeat(count),
            context=torch.arange(count).repeat_interleave(each),
        )
        return evidence, outcome.flatten()


def estimate_all(task: Problem, evidence: Evidence, outcome: Tensor) -> dict[str, Estimate]:
    """Every estimator on one bank; `sample_mean` of a mixture is that of a shuffled draw."""
    found = {
        "partition": estimators.partition(evidence),
        "log_partition": estimators.log_partition(evidence),
        "kl_policy_base": estimators.kl_policy_base(evidence),
        "reverse_kl_allowed": estimators.reverse_kl_allowed(evidence),
    }
    for row in ROWS:
        found[row.name] = estimators.divergence(evidence, row)
    for name, table in _features(task).items():
        feature = table[outcome]
        found[f"moment_target {name}"] = estimators.moment_target(evidence, feature)
        found[f"moment_policy {name}"] = estimators.moment_policy(evidence, feature)
        if not evidence.is_mixture:
            found[f"sample_mean {name}"] = estimators.sample_mean(feature, evidence.context)
    return found


def rarest(task: Problem, proposal: str, n: int) -> float:
    """How often the rarest event that an estimate rests on is expected in n samples."""
    proposed = task.log_proposal(proposal).exp().mean(0)
    allowed = torch.isfinite(task.log_potential)[0].double()
    contains = task.features["contains"]
    events = (allowed * contains, allowed * (1 - contains), 1 - allowed)
    rates = [float(proposed @ event) for event in events]
    return n * min(rate for rate, event in zip(rates, events, strict=True) if event.any())


def influences(task: Problem, proposal: str) -> dict[str, Tensor]:
    """[K] exact influence of one outcome on each estimate that weighs samples; one context."""
    log_q = task.log_proposal(proposal)[0]
    counts = log_q.exp().requires_grad_()
    log_w = (task.log_base + task.log_potential)[0] - log_q
    log_v, gain = (task.log_policy[0] - log for log in (log_q, task.log_base[0]))
    allowed = torch.isfinite(log_w)

    def mean(log_weights: Tensor, values: Tensor) -> Tensor:
        weights = counts * log_weights.exp()
        return (weights * values).sum() / weights.sum()

    def distance(row: Divergence, log_ratios: Tensor) -> Tensor:
        pair = [log - (counts * log.exp()).sum().log() for log in (log_ratios, log_w)]
        return (counts * row.integrand(*pair)).sum()

    z = (counts * log_w.exp()).sum()
    found = {"partition": z, "log_partition": z.log(), "kl_policy_base": mean(log_v, gain)}
    for row in ROWS:
        if row.allows_forbidden or bool(allowed.all()):
            found[row.name] = distance(row, log_v)
    found["reverse_kl_allowed"] = distance(reverse_kl, torch.where(allowed, log_v, -math.inf))
    for name, feature in _features(task).items():
        found[f"moment_target {name}"] = mean(log_w, feature)
        found[f"moment_policy {name}"] = mean(log_v, feature)
        found[f"sample_mean {name}"] = (counts * feature).sum()
    q, control = log_q.exp(), log_v.exp() - 1
    table = {}
    for name, value in found.items():
        (slope,) = torch.autograd.grad(value, counts, retain_graph=True)
        table[name] = slope - q @ slope
        if proposal == "mixture":
            table[name] -= control * (q @ (control * table[name])) / (q @ control.square())
    return table


def rare_share(task: Problem, proposal: str, n: int) -> dict[str, float]:
    """The largest share of an estimate's variance on one outcome expected under ten times.

    Of several contexts, each a population of its own, it is the share on one context.
    """
    shares = {}
    if len(task.log_base) == 1:
        q = task.log_proposal(proposal)[0].exp()
        for name, influence in influences(task, proposal).items():
            variance = q * influence.square()
            shares[name] = float((variance * (n * q < 10)).max() / variance.sum())
    elif n / PER_CONTEXT / len(task.log_base) < 10:
        for name, values in exact_values(task, proposal).items():
            square = (values - values.mean()).square()
            shares[name] = float(square.max() / square.sum())
    return shares


def cells(task: Problem, proposal: str, n: int, repetitions: int) -> list[Cell]:
    """All estimators at one place of the grid."""
    seed = [TARGETS.index(task.target), PROPOSALS.index(proposal), n]
    generator = torch.Generator().manual_seed(seed[0] * 10**6 + seed[1] * 10**5 + seed[2])
    sampler, exact = Sampler(task, proposal, n), exact_values(task, proposal)
    rows: dict[str, list[tuple[float, float, float, float, bool]]] = {}
    for _ in range(repetitions):
        evidence, outcome = sampler.draw(generator)
        for name, e in estimate_all(task, evidence, outcome).items():
            stderr = math.nan if e.stderr is None else e.stderr
            rows.setdefault(name, []).append((e.value, stderr, e.low, e.high, bool(e.warnings)))
    common = rarest(task, proposal, n) >= 10
    rare = rare_share(task, proposal, n) if task.kind == "regular" else {}
    return [
        _cell(
            task,
            proposal,
            n,
            name,
            float(exact[name].mean()),
            found,
            common and rare.get(name, 0.0) <= 0.5,
        )
        for name, found in rows.items()
    ]


def _cell(
    task: Problem,
    proposal: str,
    n: int,
    name: str,
    truth: float,
    found: Sequence[tuple[float, float, float, float, bool]],
    common: bool,
) -> Cell:
    value, stderr, low, high, warned = torch.tensor(found, dtype=torch.float64).T
    slack = ROUNDING * max(1.0, abs(truth)) if math.isfinite(truth) else 0.0
    above, below = low > truth + slack, high < truth - slack
    missed = above | below
    kind = task.kind
    if kind == "regular" and math.isinf(truth):
        kind = "infinite"
        missed = value != truth
    elif kind == "regular" and not (common and float(stderr.mean()) > 1e-12):
        kind = "rare"
    bias = float((value.mean() - truth) / stderr.mean())
    return Cell(
        kind=kind,
        target=task.target,
        proposal=proposal,
        n=n,
        estimator=name,
        truth=truth if math.isfinite(truth) else "inf",
        coverage=float((~missed).double().mean()),
        flagged=float(warned[missed].mean()) if bool(missed.any()) else None,
        low_misses=float(above.double().mean()),
        high_misses=float(below.double().mean()),
        bias=bias if math.isfinite(bias) and float(stderr.mean()) > 1e-9 else None,
        repetitions=len(found),
    )


@dataclass(frozen=True)
class Place:
    """One place of the grid, worked out by one process.

    Attributes:
        target: One of `TARGETS`.
        kind: `regular`, `boundary` or `collapsed`.
        proposal: One of `PROPOSALS`.
        n: Samples in a bank.
        repetitions: Intervals in each of its cells.
    """

    target: str
    kind: str
    proposal: str
    n: int
    repetitions: int

    def run(self) -> tuple[list[Cell], float]:
        """Its cells, and the CPU-seconds that they took."""
        torch.set_num_threads(1)
        start = time.process_time()
        found = cells(problem(self.target, self.kind), self.proposal, self.n, self.repetitions)
        return found, time.process_time() - start


def places(sizes: Sequence[int], repetitions: int) -> list[Place]:
    """The whole grid; its boundary and the collapsed policy at n = 2,000 alone.

    Args:
        sizes: Samples in a regular bank.
        repetitions: Intervals in a cell that a criterion rests on; a quarter of it at sizes below
            2,000, half of it at the boundary and an eighth for the collapsed policy.
    """
    divisors = {"regular": 1, "boundary": 2, "collapsed": 8}
    return [
        Place(target, kind, proposal, n, -(-repetitions // (divisors[kind] if n >= 2000 else 4)))
        for target in TARGETS
        for kind in divisors
        for proposal in PROPOSALS
        for n in (sizes if kind == "regular" else (2000,))
    ]


def grid(sizes: Sequence[int], repetitions: int, workers: int) -> tuple[list[Cell], float]:
    """Every cell, printed in the order of the grid, and the CPU-seconds of all.

    Args:
        sizes: See `places`.
        repetitions: See `places`.
        workers: Processes that share the places; the figures don't depend on it.
    """
    found, seconds = [], 0.0
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        for made, took in pool.map(Place.run, places(sizes, repetitions)):
            print(*made, sep="\n", flush=True)
            found += made
            seconds += took
    return found, seconds


@dataclass(frozen=True)
class Criterion:
    """One line of the verdict."""

    name: str
    figure: float
    needed: float
    holds: bool

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return f"{verdict}: {self.name}: {self.figure:.4f}, needed {self.needed}"


def verdict(found: Sequence[Cell]) -> list[Criterion]:
    """The criteria, each with its figure; chance error of the repetitions is not forgiven."""
    regular = [c for c in found if c.kind == "regular" and c.n >= 2000]
    boundary = [c.coverage for c in found if c.kind == "boundary"]
    infinite = [c.coverage for c in found if c.kind == "infinite"]
    within = [WITHIN[0] <= c.coverage <= WITHIN[1] for c in regular]
    share = sum(within) / len(within)
    least = min(c.coverage for c in regular)
    poor = [c for c in found if c.kind != "infinite" and c.coverage < FLOOR]
    poor = [c for c in poor if c.n >= 2000 and c.kind != "collapsed"]
    lost = [c for c in found if c.kind == "collapsed" and c.coverage < FLOOR]
    flagged = min((c.flagged or 0.0 for c in poor), default=1.0)
    caught = min((c.flagged or 0.0 for c in lost), default=1.0)
    return [
        Criterion("regular cells within 93 to 97 %", share, SHARE, share >= SHARE),
        Criterion("lowest regular cell", least, FLOOR, least >= FLOOR),
        Criterion("lowest boundary cell", min(boundary), BOUNDARY, min(boundary) >= BOUNDARY),
        Criterion("misses flagged where coverage is poor", flagged, FLAGGED, flagged >= FLAGGED),
        Criterion("infinite where the truth is", min(infinite), 1.0, min(infinite) == 1.0),
        Criterion("a collapsed policy is flagged or right", caught, FLAGGED, caught >= FLAGGED),
    ]


def main() -> int:
    """Run the grid, write `results/coverage.json`, print the verdict."""
    parser = argparse.ArgumentParser(description="Coverage of the 95 % intervals.")
    parser.add_argument("--repetitions", type=int, default=2000, help="intervals in each cell")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    repetitions = arguments.repetitions
    if repetitions < 1 or arguments.workers < 1:
        parser.error("--repetitions and --workers must be at least 1")
    found, seconds = grid(SIZES, repetitions, arguments.workers)
    criteria = verdict(found)
    result = {
        "repetitions": repetitions,
        "cpu_seconds": round(seconds),
        "machine": machine(),
        "criteria": [asdict(criterion) for criterion in criteria],
        "cells": [asdict(cell) for cell in found],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "coverage.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(*criteria, sep="\n")
    print(f"{result['cpu_seconds']} CPU-seconds, {len(found)} cells")
    return 0 if all(criterion.holds for criterion in criteria) else 1


if __name__ == "__main__":
    sys.exit(main())
