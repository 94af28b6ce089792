import pytest
import torch

from attunement.core import AttunementError
from attunement.targets import Target
from attunement.tuning.plain_reward import plain_reward, require_reward


def has_a(texts: list[str]) -> list[bool]:
    return ["a" in text for text in texts]


def length_or_none(texts: list[str]) -> list[float | None]:
    return [len(text) or None for text in texts]


def test_it_is_the_constraints_values_and_the_tilts_rewards(base):
    target = Target(base).constrain(has_a, floor=0.3).tilt(length_or_none, beta=0.1, weight=-2.0)
    samples = base.enumerate()
    found = plain_reward(target, target.features(samples), len(samples))
    expected = [("a" in text) - 2.0 * len(text) for text in samples.texts]
    assert found.tolist() == expected
    assert found.dtype == torch.float64


def test_a_constraint_that_does_not_apply_is_not_violated(base):
    def begins_with_a(texts: list[str]) -> list[bool | None]:
        return [text.startswith("a") if text else None for text in texts]

    samples = base.enumerate()
    target = Target(base).constrain(begins_with_a)
    found = plain_reward(target, target.features(samples), len(samples))
    assert found[samples.texts.index("")] == 1.0


def test_a_proportion_is_no_reward(base):
    with pytest.raises(AttunementError, match="has_a is matched, and a proportion is no reward"):
        require_reward(Target(base).match({has_a: 0.4}).factors)
    require_reward(Target(base).constrain(has_a).factors)
