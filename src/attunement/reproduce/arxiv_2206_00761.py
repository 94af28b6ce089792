"""On reinforcement learning and distribution matching (arXiv 2206.00761).

The paper's claims: the gradient of KL-control is one of distribution matching,

    ∇ (E_π[r] - β KL(π‖a)) = -β ∇KL(π‖p),  p ∝ a·exp(r/β),

and a baseline, which policy gradients have had for long, serves distributional policy gradients as
well: it leaves the expected gradient as it is, lowers its variance, and so reaches a given KL(p‖π)
with fewer samples, on pointwise and on distributional targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from attunement.core import Samples
from attunement.distributions.tabular import Tabular
from attunement.divergences import Divergence, forward_kl, reverse_kl
from attunement.objectives import Baseline, policy_gradient_signal
from attunement.recipes import ModelSettings, TargetSettings
from attunement.reproduce import exact, language
from attunement.reproduce.claims import (
    Claim,
    ExactClaim,
    Figures,
    Replication,
    Row,
    Side,
    log_ratio,
    per_seed,
)
from attunement.reproduce.exact import ExactSizes
from attunement.reproduce.language import LanguageSizes
from attunement.reproduce.methods import DPG, Method
from attunement.reproduce.paths import at_level
from attunement.reproduce.studies import Study
from attunement.targets import Target

BETA = 0.5
"""The reward's temperature where the identity is checked."""
_POLICY = 500

QUICK = ExactSizes(
    seeds=8,
    settings=exact.COMMON.model_copy(update={"max_steps": 200, "evaluate_every": 2}),
    vocabulary=4,
    max_new_tokens=4,
)
EMBEDDED = LanguageSizes(
    model=ModelSettings(base="tiny-python"),
    seeds=3,
    settings=language.embedded_settings(max_steps=20, evaluate_every=5).model_copy(
        update={"gradient_variance": True}
    ),
    targets={
        "pointwise": TargetSettings(constrain=("compiles",)),
        "distributional": TargetSettings(match={"has_docstring": 0.5}),
    },
    measure_size=1024,
    fit_size=2048,
)
PAPER = LanguageSizes(
    model=language.GPT2,
    seeds=3,
    settings=language.paper_settings(
        batch_size=512, learning_rate=1.41e-5, warmup_steps=100
    ).model_copy(update={"gradient_variance": True}),
    targets={
        "pointwise": TargetSettings(constrain=("contains:amazing",)),
        "distributional": TargetSettings(match={"regex:(?i)\\b(she|her)\\b": 0.5}),
    },
    measure_size=10_240,
    fit_size=10_240,
)
_METHODS = {"none": DPG, "baseline": Method(baseline=Baseline.ANALYTIC)}
_KINDS = ("pointwise", "distributional")
FEW = 16
"""Samples in a step where noise shall be what limits a run, and not the number of steps.

These runs were added after the first run of the quick study, whose 256 samples a step left little
noise; the claims on those stand as they were.
"""
_FEW_KINDS = tuple(f"{kind}, {FEW} samples a step" for kind in _KINDS)


def quick(sizes: ExactSizes = QUICK) -> Study:
    """Exact tabular languages, a hard constraint and proportions."""
    exactly = {
        "reward": "The gradient of KL-control is -β times that of KL(π‖p)",
        "matching": "The gradient of DPG, with reward P/(Zπ), is that of KL(p‖π)",
        "baseline": "The baseline leaves DPG's expected gradient as it is",
    }
    return Study(
        summary=(
            "Sentences over three letters, at most four long, with random bases. Pointwise: a and "
            "b balanced like brackets. Distributional: half begins with a, a quarter with b. On "
            "policy; the variance is that of one sample's gradient, a sum over all sentences."
        ),
        seeds=sizes.seeds,
        conditions=("identities", *_conditions(_KINDS), *_conditions(_FEW_KINDS)),
        run=partial(_run_quick, sizes),
        claims=(
            *(
                ExactClaim(
                    sentence=sentence,
                    quantity="largest difference of the two gradients, as a share of the largest",
                    tolerance=1e-10,
                    deviations=per_seed(lambda seed, name=name: seed["identities"][name]),
                )
                for name, sentence in exactly.items()
            ),
            *_of_each(_KINDS, _variance_claims),
            *_of_each((*_KINDS, *_FEW_KINDS), partial(_speed_claims, level=0.25, nearer=0.01)),
        ),
        columns=(
            exact.balanced.name,
            "begins_with_a",
            "begins_with_b",
            "forward_kl",
            "kl_policy_base",
        ),
        sizes=sizes.to_json(),
    )


def on_language(sizes: LanguageSizes) -> Study:
    """A language model, a hard constraint and a proportion."""
    return Study(
        summary=(
            f"{sizes.model.base}, on policy, with and without the baseline. "
            "The variance is that of a step's gradient, estimated at every evaluation."
        ),
        seeds=sizes.seeds,
        conditions=_conditions(_KINDS),
        run=partial(_run_language, sizes),
        claims=(
            *_of_each(_KINDS, _variance_claims),
            *_of_each(_KINDS, partial(_speed_claims, level=0.8, nearer=0.02)),
        ),
        columns=(
            *(spec for t in sizes.targets.values() for spec in (*t.constrain, *t.match)),
            "forward_kl",
            "kl_policy_base",
        ),
        sizes=sizes.to_json(),
        needs_gpu=sizes.needs_gpu,
        prepare=sizes.prepare,
    )


def _conditions(kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{kind}/{way}" for kind in kinds for way in _METHODS)


def _of_each(kinds: Sequence[str], claims: Callable[[str], tuple[Claim, ...]]) -> tuple[Claim, ...]:
    return tuple(claim for kind in kinds for claim in claims(kind))


def _variance_claims(kind: str) -> tuple[Claim, ...]:
    """What the baseline does to the gradient's noise on one kind of target."""
    return (
        Claim(
            sentence=f"{kind}: the baseline lowers the gradient's variance at the base",
            quantity="log of the variance without it over that with it",
            side=Side.ABOVE,
            smallest_effect=math.log(1.1),
            differences=per_seed(lambda seed: _log_factor(seed, kind, 0)),
        ),
        Claim(
            sentence=f"{kind}: the baseline more than halves the variance at the end",
            quantity="log of the variance without it over that with it, each where its run ended",
            side=Side.ABOVE,
            smallest_effect=math.log(2.0),
            differences=per_seed(lambda seed: _log_factor(seed, kind, -1)),
        ),
    )


def _speed_claims(kind: str, level: float, nearer: float) -> tuple[Claim, ...]:
    """What that is good for.

    Args:
        kind: Which target.
        level: The share of the base's KL(p‖π) that shall be reached.
        nearer: δ of KL(p‖π) in nats.
    """
    none, baseline = f"{kind}/none", f"{kind}/baseline"
    return (
        Claim(
            sentence=(
                f"{kind}: with the baseline {level:.0%} of the base's KL(p‖π) is reached with "
                "fewer samples"
            ),
            quantity="log of the samples without it over those with it",
            side=Side.ABOVE,
            smallest_effect=math.log(1.1),
            differences=per_seed(
                lambda seed: log_ratio(
                    _samples_to(seed[none], level), _samples_to(seed[baseline], level)
                )
            ),
        ),
        Claim(
            sentence=f"{kind}: with the baseline a run ends nearer to the target",
            quantity="KL(p‖π) in nats, without it less with it",
            side=Side.ABOVE,
            smallest_effect=nearer,
            differences=per_seed(
                lambda seed: seed[none]["forward_kl"] - seed[baseline]["forward_kl"]
            ),
            shown=((none, "forward_kl"), (baseline, "forward_kl")),
        ),
    )


def _log_factor(seed: Replication, kind: str, at: int) -> float:
    without, having = (seed[f"{kind}/{way}"].path[at]["gradient_variance"] for way in _METHODS)
    return log_ratio(without, having)


def _samples_to(figures: Figures, level: float) -> float:
    start = figures.path[0]["forward_kl"]
    return at_level(figures.path, "forward_kl", level * start, "samples")


def _run_quick(sizes: ExactSizes, condition: str, seed: int) -> Figures:
    base = sizes.base(seed)
    if condition == "identities":
        return Figures(identities(Target(base).tilt(exact.counted, beta=BETA), sizes, seed))
    kind, _, way = condition.partition("/")
    hard = kind.startswith("pointwise")
    target = Target(base).constrain(exact.balanced) if hard else exact.proportions(base, seed)
    method = _METHODS[way]
    settings = method.settings(sizes.settings, seed)
    if kind in _FEW_KINDS:
        settings = settings.model_copy(update={"batch_size": FEW})
    policy, path = exact.follow(target, settings)
    outcomes = exact.every_outcome(target)
    log_score = outcomes.log_prob + target.log_potential(outcomes)
    for at, model in ((0, base), (-1, policy)):
        _, variance = gradient_of(model, outcomes, forward_kl, method.baseline, log_score)
        path[at] = {**path[at], "gradient_variance": variance}
    return Figures(path[-1], path)


def identities(target: Target, sizes: ExactSizes, seed: int) -> Row:
    """How far the gradients that are equal differ, at a random policy.

    Args:
        target: Base times exp(r/β).
        sizes: Its shape.
        seed: What the policy is drawn by.
    """
    policy = sizes.random(seed, _POLICY)
    outcomes = exact.every_outcome(target)
    log_score = outcomes.log_prob + target.log_potential(outcomes)
    log_target = log_score - log_score.logsumexp(0)
    reward = target.features(outcomes)[exact.counted.name].values
    log_pi = policy.log_prob(outcomes)
    objective = log_pi.exp() @ (reward - BETA * (log_pi - outcomes.log_prob))
    (control,) = torch.autograd.grad(objective, policy.logits, retain_graph=True)
    (forward,) = torch.autograd.grad(forward_kl.exact(log_pi, log_target), policy.logits)
    matching, _ = gradient_of(policy, outcomes, reverse_kl, Baseline.NONE, log_score)
    dpg, _ = gradient_of(policy, outcomes, forward_kl, Baseline.NONE, log_score)
    eased, _ = gradient_of(policy, outcomes, forward_kl, Baseline.ANALYTIC, log_score)
    return {
        "reward": _deviation(control.flatten(), BETA * matching),
        "matching": _deviation(-forward.flatten(), dpg),
        "baseline": _deviation(dpg, eased),
    }


def gradient_of(
    policy: Tabular,
    outcomes: Samples,
    divergence: Divergence,
    baseline: Baseline,
    log_score: Tensor,
) -> tuple[Tensor, float]:
    """Where one on-policy sample of a step pulls: the mean [D] and the total variance, exact."""
    log_pi = policy.log_prob(outcomes).detach()
    signal = policy_gradient_signal(
        divergence,
        baseline,
        log_policy=log_pi,
        log_score=log_score,
        log_partition=log_score.logsumexp(0).expand(len(log_score)),
        log_proposal=log_pi,
        context=outcomes.context_index,
    )
    return exact.gradient(policy, outcomes, signal)


def _deviation(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / first.abs().max())


def _run_language(sizes: LanguageSizes, condition: str, seed: int) -> Figures:
    kind, _, way = condition.partition("/")
    target = sizes.target(kind, seed)
    policy, path = language.follow(target, _METHODS[way].settings(sizes.settings, seed))
    return Figures(sizes.measured(target, policy, seed), path)
