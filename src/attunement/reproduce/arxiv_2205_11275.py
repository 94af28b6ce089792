"""RL with KL penalties is better viewed as Bayesian inference (arXiv 2205.11275).

The paper's claims: maximising a reward alone makes a language model collapse; with a KL penalty the
optimum is the posterior p ∝ a·exp(r/β), and

    E_π[r] - β KL(π‖a) = -β (KL(π‖p) - log Z),

so that KL-regularised RL is variational inference of that posterior.
"""

from __future__ import annotations

from functools import partial

from attunement.divergences import reverse_kl
from attunement.recipes import ModelSettings, TargetSettings
from attunement.reproduce import exact, language
from attunement.reproduce.claims import (
    Claim,
    ExactClaim,
    Figures,
    Replication,
    Side,
    per_seed,
    share_lost,
)
from attunement.reproduce.exact import ExactSizes
from attunement.reproduce.language import LanguageSizes
from attunement.reproduce.methods import KL_CONTROL, REINFORCE
from attunement.reproduce.studies import Study
from attunement.targets import Target

BETA = 1.0
"""The reward's temperature at the quick scale, where the reward counts a letter."""
_POLICY = 400

QUICK = exact.sizes(seeds=8, steps=300, every=300)
EMBEDDED = LanguageSizes(
    model=ModelSettings(base="tiny-python"),
    seeds=4,
    settings=language.embedded_settings(max_steps=60, evaluate_every=12),
    targets={"reward": TargetSettings(tilt={"pep8_per_line": -1.0}, beta=0.1)},
    measure_size=2048,
)
PAPER = LanguageSizes(
    model=language.GPT2,
    seeds=3,
    settings=language.paper_settings(batch_size=512, learning_rate=1.41e-5, warmup_steps=100),
    targets={"reward": TargetSettings(tilt={"contains:amazing": 1.0}, beta=0.1)},
    measure_size=10_240,
)
_METHODS = {"KL-regularised RL": KL_CONTROL, "plain RL": REINFORCE}


def quick(sizes: ExactSizes = QUICK) -> Study:
    """Exact tabular languages, the reward counting a letter."""
    return Study(
        summary=(
            "Sentences over four letters, at most five long, with random bases; the reward is the "
            f"number of c, β = {BETA:g}. Every figure is a sum over all sentences."
        ),
        seeds=sizes.seeds,
        conditions=("identity", "base", "posterior", *_METHODS),
        run=partial(_run_quick, sizes),
        claims=(
            ExactClaim(
                sentence="The objective of KL-regularised RL is -β(KL(π‖p) - log Z)",
                quantity="objective + β(KL(π‖p) - log Z) at a random policy",
                tolerance=1e-6,
                deviations=per_seed(lambda seed: seed["identity"]["deviation"]),
            ),
            Claim(
                sentence="KL-regularised RL converges to the posterior a·exp(r/β)",
                quantity="KL(π‖p) in nats, exact",
                side=Side.BELOW,
                smallest_effect=0.01,
                differences=per_seed(lambda seed: seed["KL-regularised RL"]["reverse_kl"]),
                shown=(("base", "reverse_kl"), ("KL-regularised RL", "reverse_kl")),
                unit="seeds",
            ),
            Claim(
                sentence="Plain RL on the same reward ends far from the posterior",
                quantity="KL(π‖p) in nats, plain less KL-regularised",
                side=Side.ABOVE,
                smallest_effect=0.5,
                differences=per_seed(_farther),
                shown=(("plain RL", "reverse_kl"),),
            ),
            Claim(
                sentence="Plain RL loses at least half of the posterior's entropy",
                quantity="entropy lost, as a share of the posterior's",
                side=Side.ABOVE,
                smallest_effect=0.5,
                differences=per_seed(lambda seed: _lost(seed, "plain RL", "entropy")),
                shown=(("posterior", "entropy"), ("plain RL", "entropy")),
            ),
            Claim(
                sentence="KL-regularised RL keeps the posterior's entropy",
                quantity="entropy lost, as a share of the posterior's",
                side=Side.WITHIN,
                smallest_effect=0.05,
                differences=per_seed(lambda seed: _lost(seed, "KL-regularised RL", "entropy")),
                shown=(("KL-regularised RL", "entropy"),),
            ),
            Claim(
                sentence="Plain RL loses at least a fifth of the different samples among 50",
                quantity="different samples lost, as a share of the posterior's",
                side=Side.ABOVE,
                smallest_effect=0.2,
                differences=per_seed(lambda seed: _lost(seed, "plain RL", "distinct")),
                shown=(("posterior", "distinct"), ("plain RL", "distinct")),
            ),
        ),
        columns=(exact.counted.name, "reverse_kl", "kl_policy_base", "entropy", "distinct"),
        sizes=sizes.to_json(),
    )


def on_language(sizes: LanguageSizes) -> Study:
    """A language model and a soft reward."""
    target = sizes.targets["reward"]
    reward = ", ".join(f"{weight:g}·{spec}" for spec, weight in target.tilt.items())
    return Study(
        summary=f"{sizes.model.base}, reward {reward}, β = {target.beta:g}.",
        seeds=sizes.seeds,
        conditions=("base", *_METHODS),
        run=partial(_run_language, sizes),
        claims=(
            Claim(
                sentence="KL-regularised RL comes nearer to the posterior a·exp(r/β)",
                quantity="KL(π‖p) in nats, base less policy",
                side=Side.ABOVE,
                smallest_effect=0.02,
                differences=per_seed(
                    lambda seed: (
                        seed["base"]["reverse_kl"] - seed["KL-regularised RL"]["reverse_kl"]
                    )
                ),
                shown=(("base", "reverse_kl"), ("KL-regularised RL", "reverse_kl")),
            ),
            Claim(
                sentence="Plain RL on the same reward ends farther from the posterior",
                quantity="KL(π‖p) in nats, plain less KL-regularised",
                side=Side.ABOVE,
                smallest_effect=0.5,
                differences=per_seed(_farther),
                shown=(("plain RL", "reverse_kl"),),
            ),
            Claim(
                sentence="Plain RL loses entropy that KL-regularised RL keeps",
                quantity="share of the KL-regularised policy's entropy that plain RL lacks",
                side=Side.ABOVE,
                smallest_effect=0.2,
                differences=per_seed(lambda seed: _lacks(seed, "entropy")),
                shown=(
                    ("base", "entropy"),
                    ("KL-regularised RL", "entropy"),
                    ("plain RL", "entropy"),
                ),
            ),
            Claim(
                sentence="Plain RL says the same things over: different samples are lost",
                quantity="different samples lacking, as a share of those of KL-regularised RL",
                side=Side.ABOVE,
                smallest_effect=0.1,
                differences=per_seed(lambda seed: _lacks(seed, "distinct")),
                shown=(("KL-regularised RL", "distinct"), ("plain RL", "distinct")),
            ),
        ),
        columns=(*target.tilt, "reverse_kl", "kl_policy_base", "entropy", "distinct"),
        sizes=sizes.to_json(),
        needs_gpu=sizes.needs_gpu,
        prepare=sizes.prepare,
    )


def _farther(seed: Replication) -> float:
    return seed["plain RL"]["reverse_kl"] - seed["KL-regularised RL"]["reverse_kl"]


def _lost(seed: Replication, condition: str, figure: str) -> float:
    return share_lost(seed[condition][figure], seed["posterior"][figure])


def _lacks(seed: Replication, figure: str) -> float:
    return share_lost(seed["plain RL"][figure], seed["KL-regularised RL"][figure])


def _run_quick(sizes: ExactSizes, condition: str, seed: int) -> Figures:
    base = sizes.base(seed)
    target = Target(base).tilt(exact.counted, beta=BETA)
    match condition:
        case "identity":
            return Figures({"deviation": identity_deviation(target, sizes, seed)})
        case "base":
            return Figures(exact.stand(target, base))
        case "posterior":
            return Figures(exact.stand_of_target(target))
        case _:
            settings = _METHODS[condition].settings(sizes.settings, seed)
            _, path = exact.follow(target, settings)
            return Figures(path[-1])


def identity_deviation(target: Target, sizes: ExactSizes, seed: int) -> float:
    """E_π[r] - β KL(π‖a) + β (KL(π‖p) - log Z) at a random policy, which must be 0.

    Args:
        target: Base times exp(r/β).
        sizes: Its shape.
        seed: What the policy is drawn by.
    """
    policy = sizes.random(seed, _POLICY)
    outcomes = exact.every_outcome(target)
    log_pi = policy.log_prob(outcomes).detach()
    reward = target.features(outcomes)[exact.counted.name].values
    log_score = outcomes.log_prob + target.log_potential(outcomes)
    log_z = log_score.logsumexp(0)
    pi = log_pi.exp()
    objective = pi @ reward - BETA * (pi @ (log_pi - outcomes.log_prob))
    distance = reverse_kl.exact(log_pi, log_score - log_z)
    return float(objective + BETA * (distance - log_z))


def _run_language(sizes: LanguageSizes, condition: str, seed: int) -> Figures:
    target = sizes.target("reward", seed)
    method = None if condition == "base" else _METHODS[condition]
    policy = language.reached(target, method, sizes, seed)
    standing = sizes.measured(target, policy, seed)
    spread = language.spread(policy, seed, sizes.measure_size // 2)
    return Figures({**standing, **spread})
