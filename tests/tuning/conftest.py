"""A small exact language and targets on it, for every test of tuning."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attunement.core import Context, Outcomes, Samples
from attunement.distributions.drawing import Warp
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


class Counted:
    """A tabular base that counts the samples that it is asked the log-probability of."""

    def __init__(self, inner: Tabular):
        self.inner = inner
        self.scored = 0
        self.outcomes: Outcomes = inner.outcomes
        self.full_support = inner.full_support
        self.module = inner

    def sample(
        self, contexts: list[Context] | None, n: int, *, generator: torch.Generator
    ) -> Samples:
        return self.inner.sample(contexts, n, generator=generator)

    def log_prob(self, samples: Samples) -> Tensor:
        self.scored += len(samples)
        return self.inner.log_prob(samples)

    def token_log_probs(self, samples: Samples) -> Tensor:
        self.scored += len(samples)
        return self.inner.token_log_probs(samples)

    def next_token_log_probs(self, samples: Samples) -> Tensor:
        self.scored += len(samples)
        return self.inner.next_token_log_probs(samples)

    def warped(self, warp: Warp) -> Tabular:
        return self.inner.warped(warp)

    def copy(self) -> Tabular:
        return self.inner.copy()

    def save(self, folder: str) -> None:
        self.inner.save(folder)


@pytest.fixture
def counted() -> Callable[[Tabular], Counted]:
    return Counted
