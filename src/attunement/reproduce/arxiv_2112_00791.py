"""Controlling conditional language models without catastrophic forgetting (arXiv 2112.00791).

The target is p_c(x) ∝ a(x|c)·b(x, c), for every context c. The paper's claim: CDPG, which minimises
E_c KL(p_c‖π(·|c)), raises the share that satisfies b, and stays near to the base, where reward
maximisation forgets what the base knew.

Distances from the base are compared at an equal share: that of reward maximisation is read off
its own path where it first came to the share at which CDPG ended (`paths`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from attunement.core import Scorer
from attunement.recipes import ModelSettings, TargetSettings
from attunement.reproduce import exact, language
from attunement.reproduce.claims import Claim, Figures, Side, per_seed
from attunement.reproduce.exact import ExactSizes
from attunement.reproduce.language import LanguageSizes, Prompts, Tasks
from attunement.reproduce.methods import DPG, REINFORCE
from attunement.reproduce.paths import at_level
from attunement.reproduce.studies import Study
from attunement.targets import Target

WAYS = ("base", "CDPG", "reward")
"""What is compared for each task."""

_QUOTES = '"""'
_ENTITIES = "entities_in_source:column=source,minimum=4"
_WORDS = {
    "compiles": "compile",
    "keeps_pep8": "keep to PEP8",
    "faithful": "name nothing that their function lacks",
    _ENTITIES: "name entities of their source, and no others",
}
"""What completions that have the feature do."""
_WATCHED: Mapping[str, tuple[Scorer, ...]] = {"faithful": (language.names_its_source,)}
"""What is measured beside it: a docstring that names nothing is faithful and says little."""

QUICK = exact.sizes(seeds=8, steps=300, every=10)
_SIGNATURES = replace(language.SIGNATURES, most=64, most_held_out=16)
_CODE = LanguageSizes(
    model=ModelSettings(base="tiny-python"),
    seeds=3,
    settings=language.embedded_settings(max_steps=16, evaluate_every=4),
    targets={"compiles": TargetSettings(constrain=("compiles",))},
    measure_size=1024,
    prompts=_SIGNATURES,
)
_GPT_NEO = replace(
    _CODE,
    model=language.GPT_NEO,
    settings=language.paper_settings(batch_size=2048, learning_rate=1.41e-6, warmup_steps=100),
    measure_size=10_240,
    prompts=language.SIGNATURES,
)
_PEP8 = {"keeps_pep8": TargetSettings(constrain=(language.keeps_pep8.name,))}
EMBEDDED = Tasks(
    {
        "compiles": _CODE,
        "keeps_pep8": replace(_CODE, targets=_PEP8),
        "faithful": replace(
            _CODE,
            model=ModelSettings(base="tiny-python", max_new_tokens=40, stop=(_QUOTES,)),
            targets={"faithful": TargetSettings(constrain=(language.faithful.name,))},
            prompts=replace(_SIGNATURES, after=f"\n    {_QUOTES}"),
        ),
    }
)
PAPER = Tasks(
    {
        "compiles": _GPT_NEO,
        "keeps_pep8": replace(_GPT_NEO, targets=_PEP8),
        _ENTITIES: replace(
            _GPT_NEO,
            model=ModelSettings(base="google-t5/t5-small", max_new_tokens=200),
            settings=language.paper_settings(
                batch_size=1024, learning_rate=1e-4, warmup_steps=100, samples_per_context=32
            ),
            targets={_ENTITIES: TargetSettings(constrain=(_ENTITIES,))},
            prompts=Prompts(
                "abisee/cnn_dailymail:3.0.0:train",
                "abisee/cnn_dailymail:3.0.0:validation",
                most=512,
                most_held_out=128,
                column="article",
                before="summarize: ",
            ),
        ),
    }
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
        conditions=WAYS,
        run=partial(_run_quick, sizes),
        claims=_claims("mention their letter", share, "base", "CDPG", "reward", dearer=0.1),
        columns=(share, "forward_kl", "kl_policy_base", "entropy"),
        sizes=sizes.to_json(),
    )


def on_language(tasks: Tasks) -> Study:
    """Functions from their signature and summaries, measured on contexts that weren't tuned on."""
    claims = [
        claim
        for name in tasks
        for claim in _claims(
            _WORDS[name], name, f"{name}/base", f"{name}/CDPG", f"{name}/reward", dearer=0.1
        )
    ]
    return Study(
        summary=" ".join(f"{name}: {_given(sizes)}." for name, sizes in tasks.items()),
        seeds=tasks.seeds,
        conditions=tuple(f"{name}/{way}" for name in tasks for way in WAYS),
        run=partial(_run_language, tasks),
        claims=tuple(claims),
        columns=(
            *tasks,
            *(scorer.name for name in tasks for scorer in _WATCHED.get(name, ())),
            "length",
            "forward_kl",
            "kl_policy_base",
        ),
        sizes=tasks.to_json(),
        needs_gpu=tasks.needs_gpu,
        prepare=tasks.prepare,
    )


def _given(sizes: LanguageSizes) -> str:
    """What a task's model is given."""
    prompts = sizes.prompts
    if prompts is None:
        return sizes.model.base
    around = f", with {prompts.before + prompts.after!r} around them" * bool(
        prompts.before + prompts.after
    )
    return (
        f"{sizes.model.base}, given at most {prompts.most} contexts of {prompts.tuning} to tune on "
        f"and {prompts.most_held_out} of {prompts.held_out} to measure on{around}"
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


def _run_language(tasks: Tasks, condition: str, seed: int) -> Figures:
    name, _, way = condition.partition("/")
    sizes = tasks[name]
    target = sizes.target(name, seed)
    contexts, held_out = sizes.contexts()
    features = _WATCHED.get(name, ())
    if way == "base":
        return Figures(sizes.measured(target, target.base, seed, held_out, features))
    method = DPG if way == "CDPG" else REINFORCE
    policy, path = language.follow(target, method.settings(sizes.settings, seed), contexts)
    return Figures(sizes.measured(target, policy, seed, held_out, features), path)
