"""Where the models lie that a recipe names: folders are said by their absolute paths.

A run is gone on with, measured and repeated from any working directory, so a path that was given
relative to one is made absolute before anything is loaded. Hub ids and `tiny-python` stay as they
are, and so do the files that scorers read, of which a run has copies.
"""

from __future__ import annotations

from collections.abc import Mapping

from attunement.core import AttunementError
from attunement.distributions.tiny import TINY_PYTHON
from attunement.hub import located
from attunement.recipes import TargetSettings, TuneRecipe
from attunement.scorers import located_spec


def with_absolute_paths(recipe: TuneRecipe) -> TuneRecipe:
    """The same recipe, every folder of a model said by its absolute path.

    Raises:
        AttunementError: Two features differ in how they name a folder and in nothing else.
    """
    model = recipe.model.model_copy(update={"base": _model(recipe.model.base)})
    others = {
        name: None if given is None else _model(given)
        for name, given in (
            ("policy", recipe.policy),
            ("proposal_model", recipe.proposal_model),
        )
    }
    target = _target(recipe.target)
    return recipe.model_copy(update={"model": model, "target": target, **others})


def _model(name: str) -> str:
    """`tiny-python` is the embedded model, whatever folders there are."""
    return name if name == TINY_PYTHON else located(name)


def _target(target: TargetSettings) -> TargetSettings:
    return target.model_copy(
        update={
            "constrain": tuple(located_spec(spec) for spec in target.constrain),
            "match": _by_spec(target.match),
            "match_each": _by_spec(target.match_each),
            "tilt": _by_spec(target.tilt),
        }
    )


def _by_spec(numbers: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for spec, number in numbers.items():
        place = located_spec(spec)
        if place in found:
            raise AttunementError(f"{place} is named twice, in different words: name it once")
        found[place] = number
    return found
