"""A conditional target context by context: Z_c with its interval, and what holds in each.

Where P <= a, as for every constraint, Z_c is the share of the base's draws that rejection accepts.
Drawing until r are accepted makes digamma(r) - digamma(N) unbiased for log Z_c, which no fixed
number of draws can be. A context that doesn't get there within the budget bounds Z_c from above;
it is counted, never dropped. Other targets are estimated from the weights of each context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from attunement import estimators
from attunement.core import Context, Estimate, Scores
from attunement.evidence import BASE, POLICY, Evidence
from attunement.targets import Target

ACCEPTED = 8
"""Acceptances, r, after which no more is drawn for a context."""
BUDGET = 512
"""Draws of the base that a context gets at most."""
_BEGINNING = 80


@dataclass(frozen=True)
class ContextRow:
    """What holds in one context.

    Attributes:
        prompt: The beginning of its prompt.
        log_z: log Z_c, in nats.
        accepted: Draws of the base that rejection accepted, up to `ACCEPTED`; None where the
            target exceeds its base, so that there is no rejection.
        draws: Draws of the base that this took; else the samples that log Z_c rests on.
        base: Mean of each feature under the base.
        policy: The same under the policy.
    """

    prompt: str
    log_z: Estimate
    accepted: int | None
    draws: int
    base: Mapping[str, Estimate]
    policy: Mapping[str, Estimate]

    def to_json(self) -> dict[str, object]:
        """A row of `contexts` in `attune measure --json`."""
        return {
            "prompt": self.prompt,
            "log_z": self.log_z.to_json(),
            "accepted": self.accepted,
            "draws": self.draws,
            "base": {name: e.to_json() for name, e in self.base.items()},
            "policy": {name: e.to_json() for name, e in self.policy.items()},
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            prompt=row["prompt"],
            log_z=Estimate.from_json(row["log_z"]),
            accepted=row["accepted"],
            draws=row["draws"],
            base={name: Estimate.from_json(e) for name, e in row["base"].items()},
            policy={name: Estimate.from_json(e) for name, e in row["policy"].items()},
        )


def context_rows(
    target: Target,
    contexts: tuple[Context, ...],
    evidence: Evidence,
    scores: Mapping[str, Scores],
    generator: torch.Generator,
) -> tuple[ContextRow, ...]:
    """A row for each context, from a measurement's samples and, where it needs them, more draws.

    Args:
        target: A fitted target.
        contexts: C contexts.
        evidence: Of samples of base and policy, as many of each context as of every other.
        scores: Features of the evidence's samples.
        generator: Randomness.
    """
    draws = accepted = None
    if target.is_dominated:
        potential = evidence.log_potential[evidence.part == BASE]
        draws, accepted = acceptance(target, contexts, potential, generator)
    rows = []
    for index, context in enumerate(contexts):
        inside = evidence.context == index
        if draws is None or accepted is None:
            counts = (None, int(inside.sum()))
            log_z = estimators.log_partition_within(evidence[inside])
        else:
            counts = (int(accepted[index]), int(draws[index]))
            log_z = estimators.log_partition_of_draws(counts[1], counts[0], ACCEPTED)
        means = [
            estimators.applicable_means(scores, inside & (evidence.part == part), evidence.context)
            for part in (BASE, POLICY)
        ]
        rows.append(ContextRow(_beginning(context), log_z, *counts, *means))
    return tuple(rows)


def acceptance(
    target: Target,
    contexts: tuple[Context, ...],
    potential: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw from the base until every context has `ACCEPTED` acceptances or spent its `BUDGET`.

    Args:
        target: A target with P <= a.
        contexts: C contexts.
        potential: [C M] log-potential of the M draws of each context that there are already.
        generator: Randomness.

    Returns:
        [C] draws up to the last acceptance that counts, and [C] acceptances.
    """
    draws, accepted = torch.zeros(2, len(contexts), dtype=torch.long)
    lacking = torch.arange(len(contexts))
    while True:
        uniforms = torch.rand(len(potential), generator=generator, dtype=torch.float64)
        kept = (uniforms.log() < potential).reshape(len(lacking), -1)[:, :BUDGET]
        counts = accepted[lacking].unsqueeze(1) + kept.cumsum(1)
        used = (counts < ACCEPTED).sum(1) + (counts[:, -1] >= ACCEPTED)
        draws[lacking] += used
        accepted[lacking] = counts[:, -1].clamp(max=ACCEPTED)
        lacking = ((accepted < ACCEPTED) & (draws < BUDGET)).nonzero().squeeze(1)
        if len(lacking) == 0:
            return draws, accepted
        size = min(int(draws[lacking].max()), BUDGET - int(draws[lacking].max()))
        chosen = [contexts[index] for index in lacking.tolist()]
        potential = target.log_potential(target.base.sample(chosen, size, generator=generator))


def _beginning(context: Context) -> str:
    prompt = context.prompt
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return text if len(text) <= _BEGINNING else f"{text[:_BEGINNING]}…"
