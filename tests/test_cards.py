import torch

from attunement.cards import card
from attunement.distributions.tabular import Tabular
from attunement.measuring import measure
from attunement.recipes import ModelSettings, TargetSettings, TuneRecipe
from attunement.targets import Target
from attunement.tuning import TuningSettings


def has_a(texts: list[str]) -> list[bool]:
    return ["a" in text for text in texts]


def test_a_card_says_what_was_asked_and_how_far_it_came():
    base = Tabular.random(3, 3, generator=torch.Generator().manual_seed(0))
    policy = Tabular.random(3, 3, generator=torch.Generator().manual_seed(1))
    target = Target(base).constrain(has_a, floor=0.1)
    recipe = TuneRecipe(
        model=ModelSettings(base="somebody/something", max_new_tokens=7),
        target=TargetSettings(
            constrain=("has_a",), floor=0.1, match={"length": 2.5}, tilt={"x": -1.0}, beta=0.5
        ),
        settings=TuningSettings(divergence="alpha:0.5", max_steps=11, batch_size=13),
        policy="runs/first",
        lambdas={"length": -0.25},
        command="attune tune --constrain has_a",
    )
    before, after = (
        measure(target, model, n=64, generator=torch.Generator().manual_seed(2))
        for model in (base, policy)
    )
    text = card(recipe, 7, before, after)
    for line in (
        "# somebody/something, tuned towards a target",
        "- constrain `has_a`: with factor 0.1 where it isn't 1",
        "- match `length` = 2.5 (λ = -0.2500)",
        "- tilt `x` × -1 / β, β = 0.5",
        "Run again: `attune tune --constrain has_a`",
    ):
        assert line in text.splitlines()
    assert "alpha:0.5 for 11 steps of 13" in text
    assert "starting from `runs/first`, completions cut at 7 tokens" in text
    for name in before.divergences:
        assert f"| {name} | {before.divergences[name]} | {after.divergences[name]} |" in text
    assert str(after.policy["has_a"]) in text
