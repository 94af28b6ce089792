"""Controlling conditional language models without catastrophic forgetting (arXiv 2112.00791).

The target is p_c(x) ∝ a(x|c)·b(x, c), for every context c. The paper's claim: CDPG, which minimises
E_c KL(p_c‖π(·|c)), raises the share that satisfies b, and stays near to the base, where reward
maximisation forgets what the base knew.

Distances from the base are compared at an equal share: that of reward maximisation is read off
its own path where it first came to the share at which CDPG ended (`paths`).
"""

from __future__ import annotations

from functools import partial

from attunement.recipes import ModelSettings, TargetSettings
from attunement.reproduce import exact, language
from attunement.reproduce.claims import Claim, Figures, Side, per_seed
from attunement.reproduce.exact import ExactSizes
from attunement.reproduce.language import LanguageSizes
from attunement.reproduce.methods import DPG, REINFORCE
from attunement.reproduce.paths import at_level
from attunement.reproduce.studies import Study
from attunement.targets import Target

QUICK = exact.sizes(seeds=8, steps=300, every=10)
EMBEDDED = LanguageSizes(
    model=ModelSettings(base="tiny-python"),
    seeds=4,
    settings=language.embedded_settings(max_steps=24, evaluate_every=4),
    targets={
        "compiles": TargetSettings(constrain=("compiles",)),
        "keeps_pep8": TargetSettings(constrain=(language.keeps_pep8.name,)),
    },
    measure_size=1536,
    contexts=48,
    held_out=24,
)
PAPER = LanguageSizes(
    model=language.GPT_NEO,
    seeds=3,
    settings=language.paper_settings(batch_size=2048, learning_rate=1.41e-6, warmup_steps=100),
    targets=EMBEDDED.targets,
    measure_size=10_240,
    contexts=512,
    held_out=128,
)


def quick(sizes: ExactSizes = QUICK) -> Study:
    """Exact tabular languages of four contexts."""
    share = exact.mentioned.name
    return Study(
        summary=(
            "Sentences over four letters, at most five long, with random bases and four contexts; "
            "the context is a letter, which must occur. Every figure is a sum over all sentences, "
            "averaged over contexts."
        ),
        seeds=sizes.seeds,
        conditions=("base", "CDPG", "reward"),
        run=partial(_run_quick, sizes),
        claims=_claims("mention their letter", share, "base", "CDPG", "reward", dearer=0.1),
        columns=(share, "forward_kl", "kl_policy_base", "entropy"),
        sizes=sizes.to_json(),
    )


def on_language(sizes: LanguageSizes) -> Study:
    """Functions from their signature, measured on signatures that weren't tuned on."""
    claims = [
        claim
        for name, words in (("compiles", "compile"), ("keeps_pep8", "keep to PEP8"))
        for claim in _claims(
            words, name, f"{name}/base", f"{name}/CDPG", f"{name}/reward", dearer=0.1
        )
    ]
    return Study(
        summary=(
            f"{sizes.model.base}, given the signature of a function: {sizes.contexts} signatures "
            f"to tune on and {sizes.held_out} others to measure on, written by tiny-python."
        ),
        seeds=sizes.seeds,
        conditions=tuple(
            f"{name}/{way}" for name in sizes.targets for way in ("base", "CDPG", "reward")
        ),
        run=partial(_run_language, sizes),
        claims=tuple(claims),
        columns=(*sizes.targets, "forward_kl", "kl_policy_base"),
        sizes=sizes.to_json(),
        needs_gpu=sizes.needs_gpu,
    )


def _claims(
    words: str, share: str, base: str, cdpg: str, reward: str, dearer: float
) -> tuple[Claim, ...]:
    """The paper's claims for one constraint.

    Args:
        words: What the completions shall do.
        share: The figure that is the share of those that do.
        base: The condition of the base.
        cdpg: The condition of CDPG.
        reward: The condition of reward maximisation.
        dearer: δ of KL(π‖a) in nats.
    """
    return (
        Claim(
            sentence=f"CDPG raises the share of completions that {words}",
            quantity="share, policy less base",
            side=Side.ABOVE,
            smallest_effect=0.1,
            differences=per_seed(lambda seed: seed[cdpg][share] - seed[base][share]),
            shown=((base, share), (cdpg, share), (reward, share)),
        ),
        Claim(
            sentence=f"CDPG comes nearer to the target of completions that {words}",
            quantity="mean over contexts of KL(p‖π) in nats, base less policy",
            side=Side.ABOVE,
            smallest_effect=0.05,
            differences=per_seed(lambda seed: seed[base]["forward_kl"] - seed[cdpg]["forward_kl"]),
            shown=((base, "forward_kl"), (cdpg, "forward_kl"), (reward, "forward_kl")),
        ),
        Claim(
            sentence=(
                "Reward maximisation is farther from the base when its completions "
                f"{words} as often"
            ),
            quantity="KL(π‖a) in nats at CDPG's last share, reward less CDPG",
            side=Side.ABOVE,
            smallest_effect=dearer,
            differences=per_seed(
                lambda seed: (
                    at_level(seed[reward].path, share, seed[cdpg].path[-1][share], "kl_policy_base")
                    - seed[cdpg].path[-1]["kl_policy_base"]
                )
            ),
        ),
        Claim(
            sentence=f"Reward maximisation towards completions that {words} ends farther away",
            quantity="KL(π‖a) in nats after the last step, reward less CDPG",
            side=Side.ABOVE,
            smallest_effect=0.5,
            differences=per_seed(
                lambda seed: seed[reward]["kl_policy_base"] - seed[cdpg]["kl_policy_base"]
            ),
            shown=((cdpg, "kl_policy_base"), (reward, "kl_policy_base")),
        ),
    )


def _run_quick(sizes: ExactSizes, condition: str, seed: int) -> Figures:
    base = sizes.base(seed, exact.PROMPTS)
    target = Target(base).constrain(exact.mentioned)
    if condition == "base":
        return Figures(exact.stand(target, base, exact.PROMPTS))
    method = DPG if condition == "CDPG" else REINFORCE
    _, path = exact.follow(target, method.settings(sizes.settings, seed), exact.PROMPTS)
    return Figures(path[-1], path)


def _run_language(sizes: LanguageSizes, condition: str, seed: int) -> Figures:
    name, _, way = condition.partition("/")
    target = sizes.target(name, seed)
    contexts, held_out = sizes.prompts()
    if way == "base":
        return Figures(sizes.measured(target, target.base, seed, held_out))
    method = DPG if way == "CDPG" else REINFORCE
    policy, path = language.follow(target, method.settings(sizes.settings, seed), contexts)
    return Figures(sizes.measured(target, policy, seed, held_out), path)
