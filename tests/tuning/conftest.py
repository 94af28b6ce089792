"""A small exact language and targets on it, for every test of tuning."""

import pytest
import torch

from attunement.distributions.tabular import Tabular
from attunement.targets import Target


def has_a(texts: list[str]) -> list[bool]:
    return ["a" in text for text in texts]


@pytest.fixture
def base() -> Tabular:
    return Tabular.random(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hard(base: Tabular) -> Target:
    return Target(base).constrain(has_a)


@pytest.fixture
def conditional() -> Target:
    generator = torch.Generator().manual_seed(1)
    prompts = ("p", "q", "r")
    return Target(Tabular.random(3, 3, generator=generator, prompts=prompts)).constrain(has_a)
