"""The card of a delivered policy: what was asked, how it was approached, how far it came."""

from __future__ import annotations

from pathlib import Path

from attunement.measuring import Measurement
from attunement.recipes import TuneRecipe


def card(
    recipe: TuneRecipe,
    length: int,
    before: Measurement,
    after: Measurement,
    below: str | None = None,
) -> str:
    """The `README.md` of a delivered folder, as the hub shows it.

    Args:
        recipe: The run's, with λ.
        length: Tokens at which completions were cut.
        before: Of the base.
        after: Of the policy.
        below: The model that the policy is an adapter over; None where it is a model of its own.
    """
    factors = "\n".join(f"- {row}" for row in _sentences(recipe))
    rows = "\n".join(
        f"| {name} | {before.divergences[name]} | {after.divergences[name]} |"
        for name in after.divergences
    )
    rates = "\n".join(
        f"| {name} | {before.base.get(name, '')} | {estimate} |"
        for name, estimate in after.policy.items()
    )
    settings = recipe.settings
    start = "" if recipe.policy is None else f", starting from `{recipe.policy}`"
    where = "" if recipe.evaluation_prompts is None else " on prompts that tuning never saw"
    library = "transformers" if below is None else f"peft\nbase_model: {below}"
    form = "" if below is None else f"\n\nThis is a LoRA adapter, to be loaded over `{below}`."
    return f"""---
library_name: {library}
tags: [attunement, {settings.objective}]
---
# {_called(recipe.model.base)}, tuned towards a target

The target is the base times

{factors}

Tuned with {settings.method} for {settings.max_steps} steps of {settings.batch_size}
samples{start}, completions cut at {length} tokens. Distances in nats from
{after.n} fresh samples{where}, with 95 % intervals:

| | base | this model |
|---|---|---|
{rates}
{rows}

Run again: `{recipe.command}`{form}
"""


def _called(base: str) -> str:
    """A hub id, or what the folder of a model is called."""
    path = Path(base)
    return path.name if path.is_absolute() else base


def _sentences(recipe: TuneRecipe) -> list[str]:
    target = recipe.target
    where = "never" if target.floor is None else f"with factor {target.floor:g}"
    return [
        *(f"constrain `{spec}`: {where} where it isn't 1" for spec in target.constrain),
        *(
            f"match `{spec}` = {mean:g} (λ = {recipe.lambdas[spec]:.4f})"
            for spec, mean in target.match.items()
        ),
        *(
            f"match `{spec}` = {mean:g} in each of {len(recipe.context_fits)} contexts"
            for spec, mean in target.match_each.items()
        ),
        *(f"tilt `{spec}` × {w:g} / β, β = {target.beta:g}" for spec, w in target.tilt.items()),
    ]
