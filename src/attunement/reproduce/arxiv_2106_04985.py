"""Energy-based models for code generation under compilability constraints (arXiv 2106.04985).

The target is p(x) ∝ a(x)·1[x compiles]. The paper's claims: KL-adaptive DPG raises the share that
compiles and lowers KL(p‖π), and its samples stay as diverse and as complex; REINFORCE on the
reward alone raises the share too, and its samples collapse.

Diversity, length and complexity are held against exact samples of the target, the base's samples
that compile, where the paper holds them against all of the base's: programs that end and compile
are shorter than those that don't, and a policy that reaches its target shares that.
"""

from __future__ import annotations

from functools import partial

from attunement.recipes import ModelSettings, TargetSettings
from attunement.reproduce import exact, language
from attunement.reproduce.claims import Claim, Figures, Replication, Side, per_seed, share_lost
from attunement.reproduce.exact import ExactSizes
from attunement.reproduce.language import LanguageSizes
from attunement.reproduce.methods import KL_ADAPTIVE_DPG
from attunement.reproduce.methods import REINFORCE as REWARD_ALONE
from attunement.reproduce.studies import Study
from attunement.targets import Target

QUICK = exact.sizes(seeds=8, steps=300, every=20)
EMBEDDED = LanguageSizes(
    model=ModelSettings(base="tiny-python"),
    seeds=6,
    settings=language.embedded_settings(max_steps=60, evaluate_every=10),
    targets={"code": TargetSettings(constrain=("compiles",))},
    measure_size=3072,
)
PAPER = LanguageSizes(
    model=language.GPT_NEO,
    seeds=3,
    settings=language.paper_settings(batch_size=2048, learning_rate=1.41e-6, warmup_steps=100),
    targets={"code": TargetSettings(constrain=("compiles",))},
    measure_size=10_240,
)
DPG, REINFORCE = "KL-adaptive DPG", "REINFORCE"
_METHODS = {DPG: KL_ADAPTIVE_DPG, REINFORCE: REWARD_ALONE}


def quick(sizes: ExactSizes = QUICK) -> Study:
    """Exact tabular languages, in which balanced brackets stand for programs that compile."""
    return Study(
        summary=(
            "Sentences over four letters, at most five long, with random bases; a program compiles "
            "where a and b are balanced like brackets. Every figure is a sum over all sentences."
        ),
        seeds=sizes.seeds,
        conditions=("base", "target", *_METHODS),
        run=partial(_run_quick, sizes),
        claims=(
            *_reach(exact.balanced.name, distance=0.1, farther=0.5),
            Claim(
                sentence="KL-adaptive DPG keeps the diversity of the target",
                quantity="different samples among 50 lost, as a share of the target's",
                side=Side.BELOW,
                smallest_effect=0.1,
                differences=per_seed(
                    lambda seed: share_lost(seed[DPG]["distinct"], seed["target"]["distinct"])
                ),
                shown=(("target", "distinct"), (DPG, "distinct")),
            ),
            Claim(
                sentence="REINFORCE loses diversity that KL-adaptive DPG keeps",
                quantity="different samples among 50 lacking, as a share of DPG's",
                side=Side.ABOVE,
                smallest_effect=0.1,
                differences=per_seed(lambda seed: _lacking(seed, "distinct")),
                shown=((REINFORCE, "distinct"),),
            ),
        ),
        columns=(exact.balanced.name, "forward_kl", "kl_policy_base", "entropy", "distinct"),
        sizes=sizes.to_json(),
    )


def on_language(sizes: LanguageSizes) -> Study:
    """A language model whose programs shall end and compile."""
    length = sizes.model.max_new_tokens or 64
    return Study(
        summary=(
            f"{sizes.model.base}, completions cut at {length} tokens; a completion compiles where "
            "it has ended by itself and Python's compiler takes it."
        ),
        seeds=sizes.seeds,
        conditions=("base", *_METHODS),
        run=partial(_run_language, sizes),
        claims=(
            *_reach("compiles", distance=0.1, farther=0.5),
            _kept("distinct_1", Side.BELOW, "share of different tokens lost"),
            Claim(
                sentence="KL-adaptive DPG keeps the self-BLEU of the target",
                quantity="self-BLEU, policy less target",
                side=Side.BELOW,
                smallest_effect=0.05,
                differences=per_seed(
                    lambda seed: seed[DPG]["self_bleu"] - seed["base"]["target_self_bleu"]
                ),
                shown=(("base", "target_self_bleu"), (DPG, "self_bleu"), (REINFORCE, "self_bleu")),
            ),
            _kept("length", Side.WITHIN, "length lost"),
            _kept("ast_nodes", Side.WITHIN, "nodes of the syntax tree lost"),
            Claim(
                sentence="REINFORCE loses diversity that KL-adaptive DPG keeps",
                quantity="distinct-1 lacking, as a share of DPG's",
                side=Side.ABOVE,
                smallest_effect=0.1,
                differences=per_seed(lambda seed: _lacking(seed, "distinct_1")),
                shown=((REINFORCE, "distinct_1"),),
            ),
        ),
        columns=(
            "compiles",
            "forward_kl",
            "kl_policy_base",
            "distinct_1",
            "self_bleu",
            "length",
            "ast_nodes",
            "pep8_per_line",
        ),
        sizes=sizes.to_json(),
        needs_gpu=sizes.needs_gpu,
        prepare=sizes.prepare,
    )


def _reach(share: str, distance: float, farther: float) -> tuple[Claim, ...]:
    """The claims of both scales: what the two methods reach, and how far from the base.

    Args:
        share: The figure that is the share of programs that compile.
        distance: δ of KL(p‖π) in nats.
        farther: δ of KL(π‖a) in nats.
    """
    return (
        Claim(
            sentence="KL-adaptive DPG raises the share that compiles",
            quantity="share, policy less base",
            side=Side.ABOVE,
            smallest_effect=0.1,
            differences=per_seed(lambda seed: seed[DPG][share] - seed["base"][share]),
            shown=(("base", share), (DPG, share)),
        ),
        Claim(
            sentence="KL-adaptive DPG reaches a share of 0.9",
            quantity="share of the policy",
            side=Side.ABOVE,
            smallest_effect=0.9,
            differences=per_seed(lambda seed: seed[DPG][share]),
            unit="seeds",
        ),
        Claim(
            sentence="KL-adaptive DPG lowers KL(p‖π)",
            quantity="KL(p‖π) in nats, base less policy",
            side=Side.ABOVE,
            smallest_effect=distance,
            differences=per_seed(lambda seed: seed["base"]["forward_kl"] - seed[DPG]["forward_kl"]),
            shown=(("base", "forward_kl"), (DPG, "forward_kl"), (REINFORCE, "forward_kl")),
        ),
        Claim(
            sentence="REINFORCE reaches the share as well",
            quantity="share, DPG less REINFORCE",
            side=Side.BELOW,
            smallest_effect=0.02,
            differences=per_seed(lambda seed: seed[DPG][share] - seed[REINFORCE][share]),
            shown=((REINFORCE, share),),
        ),
        Claim(
            sentence="REINFORCE moves farther away from the base",
            quantity="KL(π‖a) in nats, REINFORCE less DPG",
            side=Side.ABOVE,
            smallest_effect=farther,
            differences=per_seed(
                lambda seed: seed[REINFORCE]["kl_policy_base"] - seed[DPG]["kl_policy_base"]
            ),
            shown=((DPG, "kl_policy_base"), (REINFORCE, "kl_policy_base")),
        ),
    )


def _kept(figure: str, side: Side, lost: str) -> Claim:
    """That a tenth of a figure of the target's samples isn't lost (nor, within, won)."""
    return Claim(
        sentence=f"KL-adaptive DPG keeps the {figure} of the target",
        quantity=f"{lost}, as a share of the target's",
        side=side,
        smallest_effect=0.1,
        differences=per_seed(
            lambda seed: share_lost(seed[DPG][figure], seed["base"][f"target_{figure}"])
        ),
        shown=(("base", figure), ("base", f"target_{figure}"), (DPG, figure), (REINFORCE, figure)),
    )


def _lacking(seed: Replication, figure: str) -> float:
    return share_lost(seed[REINFORCE][figure], seed[DPG][figure])


def _run_quick(sizes: ExactSizes, condition: str, seed: int) -> Figures:
    base = sizes.base(seed)
    target = Target(base).constrain(exact.balanced)
    match condition:
        case "base":
            return Figures(exact.stand(target, base))
        case "target":
            return Figures(exact.stand_of_target(target))
        case _:
            settings = _METHODS[condition].settings(sizes.settings, seed)
            _, path = exact.follow(target, settings)
            return Figures(path[-1])


def _run_language(sizes: LanguageSizes, condition: str, seed: int) -> Figures:
    target = sizes.target("code", seed)
    method = None if condition == "base" else _METHODS[condition]
    policy = language.reached(target, method, sizes, seed)
    return Figures(sizes.measured(target, policy, seed, features=language.WATCHED))
