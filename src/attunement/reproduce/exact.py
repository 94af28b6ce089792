"""The quick scale: languages so small that every figure is a sum over all sentences.

A seed draws a base (random logits), and every distance, share and entropy is exact; chance is in
the base and in the samples of the training alone. The targets stand for those of the papers:

- `balanced`, a program that compiles: `a` opens, `b` closes, as brackets do;
- `begins`, proportions as of a person's gender in biographies: half of the sentences begin with
  `a`, a quarter with `b`;
- `counted`, a reward: how often `c` occurs;
- `mentioned`, a text that keeps to its source: the prompt is a letter, which must occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from attunement.core import Context, Samples
from attunement.distributions.tabular import Tabular
from attunement.divergences import forward_kl, jensen_shannon, reverse_kl, total_variation
from attunement.reproduce.claims import Row
from attunement.runs import generator_for
from attunement.scorers import as_scorer
from attunement.targets import Feature, Target
from attunement.tuning import Keep, TuningSettings, adapt_proposal, init, step

SET_SIZE = 50
"""Completions in the set whose share of different ones is figured."""
PROMPTS = ("a", "b", "c", "d")
"""What a conditional language is asked to mention."""
_BASE, _FIT = 200, 201


COMMON = TuningSettings(
    batch_size=256,
    samples_per_context=64,
    micro_batch_size=256,
    learning_rate=0.05,
    bank_size=1024,
    averaging=0.0,
    keep=Keep.LAST,
)
"""What every run of the quick scale has in common: plain Adam, the last weights.

The learning rate was chosen before any study was run, by one look at DPG on `balanced` with seed
999, which no study has; 100 steps come near to the target with it.
"""


@dataclass(frozen=True)
class ExactSizes:
    """What was chosen for a study of the quick scale.

    Attributes:
        seeds: Units of replication.
        settings: What the runs of all conditions have in common.
        vocabulary: Symbols, the end token included.
        max_new_tokens: Where sentences are cut.
    """

    seeds: int
    settings: TuningSettings
    vocabulary: int = 5
    max_new_tokens: int = 5

    def base(self, seed: int, prompts: Sequence[str] = ("",)) -> Tabular:
        """The language of a seed."""
        return self.random(seed, _BASE, prompts)

    def random(self, seed: int, purpose: int, prompts: Sequence[str] = ("",)) -> Tabular:
        """A language of the same shape, drawn for some purpose."""
        generator = generator_for(seed, purpose)
        return Tabular.random(
            self.vocabulary, self.max_new_tokens, generator=generator, prompts=prompts
        )

    def to_json(self) -> dict[str, object]:
        """For the recipe."""
        return {**vars(self), "settings": self.settings.model_dump(mode="json")}


def sizes(seeds: int, steps: int, every: int) -> ExactSizes:
    """The usual sizes with so many seeds, steps, and steps between two exact looks."""
    length = {"max_steps": steps, "evaluate_every": every}
    return ExactSizes(seeds, COMMON.model_copy(update=length))


def is_balanced(text: str) -> bool:
    """Whether `a` and `b` are opened and closed in order."""
    depth = 0
    for letter in text:
        depth += (letter == "a") - (letter == "b")
        if depth < 0:
            return False
    return depth == 0


def _balanced(texts: list[str]) -> list[bool]:
    return [is_balanced(text) for text in texts]


def _begins(texts: list[str], letter: str) -> list[bool]:
    return [text.startswith(letter) for text in texts]


def _counted(texts: list[str]) -> list[int]:
    return [text.count("c") for text in texts]


def _mentioned(contexts: list[Context], texts: list[str]) -> list[bool]:
    return [str(c.prompt) in text for c, text in zip(contexts, texts, strict=True)]


balanced = as_scorer(_balanced, name="balanced")
"""1 where every `a` is closed by a `b`."""
begins_with_a = as_scorer(partial(_begins, letter="a"), name="begins_with_a")
"""1 where a sentence begins with `a`."""
begins_with_b = as_scorer(partial(_begins, letter="b"), name="begins_with_b")
"""1 where a sentence begins with `b`."""
counted = as_scorer(_counted, name="counted")
"""How often `c` occurs."""
mentioned = as_scorer(_mentioned, name="mentioned")
"""1 where the letter of the prompt occurs."""


def proportions(base: Tabular, seed: int) -> Target:
    """The distributional target: 50 % begin with `a`, 25 % with `b`."""
    wanted: dict[Feature, float] = {begins_with_a: 0.5, begins_with_b: 0.25}
    return Target(base).match(wanted).fit(generator=generator_for(seed, _FIT))


@torch.no_grad()
def stand(target: Target, policy: Tabular, contexts: Sequence[str] | None = None) -> Row:
    """Where a policy stands, exactly; means over contexts where there are several.

    Returns:
        Each feature's mean, `forward_kl`, `reverse_kl`, `total_variation`, `jensen_shannon` and
        `kl_policy_base` in nats, `entropy` in nats, and `distinct`: the expected share of different
        completions among `SET_SIZE`.
    """
    outcomes = every_outcome(target, contexts)
    scores = target.features(outcomes)
    log_potential = target.log_potential(outcomes, scores)
    log_policy = policy.log_prob(outcomes)
    rows = []
    for index in range(len(outcomes.contexts)):
        inside = outcomes.context_index == index
        log_pi, log_base = log_policy[inside], outcomes.log_prob[inside]
        log_score = log_base + log_potential[inside]
        log_target = log_score - log_score.logsumexp(0)
        pi = log_pi.exp()
        row = {name: float(pi @ column.values[inside]) for name, column in scores.items()}
        for divergence in (forward_kl, reverse_kl, total_variation, jensen_shannon):
            row[divergence.name] = float(divergence.exact(log_pi, log_target))
        row["kl_policy_base"] = float(pi @ (log_pi - log_base))
        row["entropy"] = -float(pi @ log_pi)
        row["distinct"] = float((1 - (1 - pi) ** SET_SIZE).sum()) / SET_SIZE
        rows.append(row)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def stand_of_target(target: Target) -> Row:
    """Entropy and `distinct` of an unconditional target itself."""
    outcomes = every_outcome(target)
    log_score = outcomes.log_prob + target.log_potential(outcomes)
    log_p = log_score - log_score.logsumexp(0)
    p = log_p.exp()
    return {
        "entropy": -float((p * torch.where(p > 0, log_p, 0.0)).sum()),
        "distinct": float((1 - (1 - p) ** SET_SIZE).sum()) / SET_SIZE,
    }


def follow(
    target: Target, settings: TuningSettings, contexts: Sequence[str] | None = None
) -> tuple[Tabular, list[Row]]:
    """Tune a copy of the base and look exactly at every evaluation.

    Returns:
        The last policy, and what `stand` says on the way with `samples`, the samples drawn until
        then; the base comes first.
    """
    problem, state = init(target, contexts, settings)

    def look() -> Row:
        samples = float(state.step * settings.batch_size)
        return {**stand(target, cast(Tabular, state.policy), contexts), "samples": samples}

    path = [look()]
    while state.step < settings.max_steps:
        step(problem, state)
        if state.step == settings.max_steps or state.step % settings.evaluate_every == 0:
            adapt_proposal(problem, state)
            path.append(look())
    return cast(Tabular, state.policy), path


def every_outcome(target: Target, contexts: Sequence[str] | None = None) -> Samples:
    """All completions of the target's base, which must be tabular."""
    return cast(Tabular, target.base).enumerate(contexts)


def jacobian(policy: Tabular, outcomes: Samples) -> Tensor:
    """[K, D] ∇log π of each of the K outcomes, by the D logits."""
    log_prob = policy.log_prob(outcomes)
    rows = [
        torch.autograd.grad(value, policy.logits, retain_graph=True)[0].flatten()
        for value in log_prob
    ]
    return torch.stack(rows)


def gradient(policy: Tabular, outcomes: Samples, signal: Tensor) -> tuple[Tensor, float]:
    """The mean and the total variance of signal·∇log π over one sample drawn from the policy.

    Args:
        policy: π.
        outcomes: All K outcomes.
        signal: [K] what ∇log π is weighed by.

    Returns:
        [D] the mean, and tr Cov.
    """
    rows = jacobian(policy, outcomes) * signal.unsqueeze(1)
    pi = policy.log_prob(outcomes).detach().exp()
    mean = pi @ rows
    return mean, float(pi @ rows.square().sum(1) - mean @ mean)
