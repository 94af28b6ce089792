"""Aligning language models with preferences through f-divergence minimization (arXiv 2302.08215).

The paper's claims: one gradient serves every f-divergence and every target that can be evaluated;
reverse KL aligns best and loses diversity, forward KL covers; Jensen-Shannon often comes nearer
than forward KL by a wide margin; no divergence is best on every target.

Hard constraints have a floor of 0.01 here, so that all rows, those that are infinite otherwise too,
have the same target. The distance by which rows are compared is total variation where it is exact,
and Jensen-Shannon where it is estimated. "No single best" is decided on other seeds than those that
the candidates were picked on, because the best of several noisy figures looks better than it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import torch

from attunement.distributions.tabular import Tabular
from attunement.recipes import ModelSettings, TargetSettings
from attunement.reproduce import exact, language
from attunement.reproduce.claims import (
    Claim,
    Figures,
    Replication,
    Side,
    log_ratio,
    per_seed,
    share_lost,
)
from attunement.reproduce.exact import ExactSizes
from attunement.reproduce.language import LanguageSizes, Tasks
from attunement.reproduce.methods import Method
from attunement.reproduce.studies import Study
from attunement.targets import Target

FLOOR = 0.01
"""The factor of what violates a constraint."""
ROWS = (
    "forward_kl",
    "reverse_kl",
    "total_variation",
    "jensen_shannon",
    "pearson_chi2",
    "neyman_chi2",
    "squared_hellinger",
    "alpha:0.25",
)
"""The whole table, with one of the α-divergences; that of order 0.5 is Hellinger's."""
FEW_ROWS = ("forward_kl", "reverse_kl", "jensen_shannon")
"""What fits into the hour on the embedded model."""
TARGETS = ("pointwise", "distributional", "reward", "conditional")
"""The kinds of target that the paper tunes to."""

QUICK = ExactSizes(
    seeds=8,
    settings=exact.COMMON.model_copy(update={"max_steps": 40, "evaluate_every": 40}),
    vocabulary=4,
    max_new_tokens=4,
)
_TINY = LanguageSizes(
    model=ModelSettings(base="tiny-python"),
    seeds=3,
    settings=language.embedded_settings(max_steps=12, evaluate_every=12),
    targets={
        "pointwise": TargetSettings(constrain=("compiles",), floor=FLOOR),
        "distributional": TargetSettings(match={"has_docstring": 0.5}),
        "reward": TargetSettings(tilt={"pep8_per_line": -1.0}, beta=0.1),
        "conditional": TargetSettings(constrain=("compiles",), floor=FLOOR),
    },
    measure_size=1024,
    prompts=replace(language.SIGNATURES, most=32, most_held_out=16),
)
EMBEDDED = Tasks(dict.fromkeys(TARGETS, _TINY))
_GPT2 = LanguageSizes(
    model=language.GPT2,
    seeds=3,
    settings=language.paper_settings(batch_size=512, learning_rate=1.41e-5, warmup_steps=100),
    targets={
        "pointwise": TargetSettings(constrain=("contains:amazing",), floor=FLOOR),
        "distributional": TargetSettings(match={"regex:(?i)\\b(she|her)\\b": 0.5}),
        "reward": TargetSettings(tilt={"contains:amazing": 1.0}, beta=0.1),
    },
    measure_size=10_240,
    fit_size=10_240,
)
PAPER = Tasks(
    {
        **dict.fromkeys(TARGETS[:3], _GPT2),
        "conditional": replace(
            _TINY,
            model=language.GPT_NEO,
            settings=language.paper_settings(
                batch_size=2048, learning_rate=1.41e-6, warmup_steps=100
            ),
            measure_size=10_240,
            prompts=language.SIGNATURES,
        ),
    }
)


def quick(sizes: ExactSizes = QUICK) -> Study:
    """Exact tabular languages, all rows, all kinds of target."""
    return Study(
        summary=(
            "Sentences over three letters, at most four long, with random bases. Pointwise: a and "
            "b balanced like brackets, floor 0.01. Distributional: half begins with a, a quarter "
            "with b. Reward: the number of c, β = 1. Conditional: the letter of the prompt occurs, "
            "floor 0.01. On policy, the analytic baseline."
        ),
        seeds=sizes.seeds,
        conditions=_conditions(TARGETS, ("base", *ROWS)),
        run=partial(_run_quick, sizes),
        claims=_claims(TARGETS, ROWS, distance="total_variation", rate=exact.balanced.name),
        columns=(
            exact.balanced.name,
            "begins_with_a",
            "counted",
            "mentioned",
            "total_variation",
            "forward_kl",
            "reverse_kl",
            "kl_policy_base",
            "entropy",
            "distinct",
        ),
        sizes=sizes.to_json(),
    )


def on_language(tasks: Tasks) -> Study:
    """A language model for each kind of target, and three rows."""
    (rate,) = tasks["pointwise"].targets["pointwise"].constrain
    aims = [sizes.targets[kind] for kind, sizes in tasks.items()]
    each = (
        f"{kind}: {sizes.model.base}, {sizes.settings.max_steps} steps of "
        f"{sizes.settings.batch_size} samples."
        for kind, sizes in tasks.items()
    )
    return Study(
        summary=(
            f"{' '.join(each)} On policy, the analytic baseline, hard constraints with the floor "
            f"{FLOOR:g}."
        ),
        seeds=tasks.seeds,
        conditions=_conditions(tuple(tasks), ("base", *FEW_ROWS)),
        run=partial(_run_language, tasks),
        claims=_claims(tuple(tasks), FEW_ROWS, distance="jensen_shannon", rate=rate),
        columns=(
            *dict.fromkeys(spec for t in aims for spec in (*t.constrain, *t.match, *t.tilt)),
            "jensen_shannon",
            "forward_kl",
            "kl_policy_base",
            "entropy",
            "distinct",
        ),
        sizes=tasks.to_json(),
        needs_gpu=tasks.needs_gpu,
        prepare=tasks.prepare,
    )


def _conditions(kinds: Sequence[str], rows: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{kind}/{row}" for kind, row in product(kinds, rows))


def _claims(
    kinds: Sequence[str], rows: Sequence[str], distance: str, rate: str
) -> tuple[Claim, ...]:
    """The paper's claims.

    Args:
        kinds: The targets.
        rows: The divergences.
        distance: The figure that is the distance to the target for all rows.
        rate: The share that satisfies the pointwise constraint.
    """
    forward, reverse = "pointwise/forward_kl", "pointwise/reverse_kl"
    return (
        *(_all_rows_tune(kind, rows, distance) for kind in kinds),
        Claim(
            sentence="Jensen-Shannon comes nearer to the distributional target than forward KL",
            quantity=f"log of the {distance} left, forward KL less Jensen-Shannon",
            side=Side.ABOVE,
            smallest_effect=math.log(1.1),
            differences=per_seed(
                lambda seed: log_ratio(
                    seed["distributional/forward_kl"][distance],
                    seed["distributional/jensen_shannon"][distance],
                )
            ),
            shown=(
                ("distributional/forward_kl", distance),
                ("distributional/jensen_shannon", distance),
            ),
        ),
        Claim(
            sentence="Reverse KL aligns more than forward KL on the pointwise target",
            quantity="share that satisfies the constraint, reverse less forward KL",
            side=Side.ABOVE,
            smallest_effect=0.02,
            differences=per_seed(lambda seed: seed[reverse][rate] - seed[forward][rate]),
            shown=((forward, rate), (reverse, rate)),
        ),
        Claim(
            sentence="Forward KL keeps more diversity than reverse KL on the pointwise target",
            quantity="entropy in nats, forward less reverse KL",
            side=Side.ABOVE,
            smallest_effect=0.05,
            differences=per_seed(lambda seed: seed[forward]["entropy"] - seed[reverse]["entropy"]),
            shown=((forward, "entropy"), (reverse, "entropy")),
        ),
        Claim(
            sentence="No single divergence is best: the one best in rank is beaten somewhere",
            quantity=f"log of the {distance} left, best in rank less its rival, on fresh seeds",
            side=Side.ABOVE,
            smallest_effect=math.log(1.1),
            differences=partial(best_against_rival, kinds=kinds, rows=rows, distance=distance),
            unit="seeds that the two weren't picked on",
        ),
    )


def _all_rows_tune(kind: str, rows: Sequence[str], distance: str) -> Claim:
    def least_gain(seed: Replication) -> float:
        start = seed[f"{kind}/base"][distance]
        gains = [share_lost(seed[f"{kind}/{row}"][distance], start) for row in rows]
        return float(torch.tensor(gains, dtype=torch.float64).min())  # NaN if one is

    return Claim(
        sentence=f"Every divergence tunes to the {kind} target",
        quantity=f"share of the base's {distance} that the worst row takes away",
        side=Side.ABOVE,
        smallest_effect=0.1,
        differences=per_seed(least_gain),
        shown=((f"{kind}/base", distance),),
        unit="seeds",
    )


def best_against_rival(
    seeds: Sequence[Replication], kinds: Sequence[str], rows: Sequence[str], distance: str
) -> list[float]:
    """On the second half of the seeds: the log-distance of the best row less that of its rival.

    On the first half, the best row is the one with the lowest mean rank over targets; its rival is
    the row that beats it by most on some target. Where no row does, the rival is the best itself
    and every difference is 0.
    """
    half = len(seeds) // 2

    def mean(kind: str, row: str) -> float:
        left = (seed[f"{kind}/{row}"][distance] for seed in seeds[:half])
        return sum(log_ratio(x, 1.0) for x in left) / max(1, half)

    means = {(kind, row): mean(kind, row) for kind, row in product(kinds, rows)}
    ranks = {
        row: sum(means[kind, other] < means[kind, row] for kind in kinds for other in rows)
        for row in rows
    }
    best = min(rows, key=lambda row: ranks[row])
    kind, rival = max(product(kinds, rows), key=lambda pair: means[pair[0], best] - means[pair])
    return [
        log_ratio(seed[f"{kind}/{best}"][distance], seed[f"{kind}/{rival}"][distance])
        for seed in seeds[half:]
    ]


def _run_quick(sizes: ExactSizes, condition: str, seed: int) -> Figures:
    kind, _, row = condition.partition("/")
    contexts = exact.PROMPTS[:3] if kind == "conditional" else None
    base = sizes.base(seed, contexts or ("",))
    target = _quick_target(base, kind, seed)
    if row == "base":
        return Figures(exact.stand(target, base, contexts))
    settings = Method(divergence=row).settings(sizes.settings, seed)
    _, path = exact.follow(target, settings, contexts)
    return Figures(path[-1])


def _quick_target(base: Tabular, kind: str, seed: int) -> Target:
    match kind:
        case "pointwise":
            return Target(base).constrain(exact.balanced, floor=FLOOR)
        case "distributional":
            return exact.proportions(base, seed)
        case "reward":
            return Target(base).tilt(exact.counted, beta=1.0)
        case _:
            return Target(base).constrain(exact.mentioned, floor=FLOOR)


def _run_language(tasks: Tasks, condition: str, seed: int) -> Figures:
    kind, _, row = condition.partition("/")
    sizes = tasks[kind]
    target = sizes.target(kind, seed)
    contexts, held_out = sizes.contexts() if kind == "conditional" else (None, None)
    method = None if row == "base" else Method(divergence=row)
    policy = language.reached(target, method, sizes, seed, contexts)
    standing = sizes.measured(target, policy, seed, held_out)
    if kind == "conditional":
        return Figures(standing)
    return Figures({**standing, **language.spread(policy, seed, sizes.measure_size // 2)})
