from dataclasses import replace

import pytest
import torch

from attunement.core import AttunementError, Stop, require_proposal, require_same_outcomes
from attunement.distributions.drawing import Warp
from attunement.distributions.tabular import Tabular
from attunement.targets import Target


def test_outcomes_that_differ_are_shown():
    short = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    longer = Tabular.random(3, 3, generator=torch.Generator().manual_seed(0))
    require_same_outcomes(short, short.copy())
    with pytest.raises(AttunementError, match="max_new_tokens 2 against 3"):
        require_same_outcomes(short, longer)


def test_outcomes_that_differ_in_the_function_alone():
    first = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    second = first.copy()
    first._outcomes = replace(first.outcomes, stop=Stop(function=lambda _: 1))
    second._outcomes = replace(first.outcomes, stop=Stop(function=lambda _: 2))
    with pytest.raises(AttunementError, match="stop functions differ"):
        require_same_outcomes(first, second)


def test_a_proposal_that_cuts_something_off_can_not_be_weighed():
    base = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    target = Target(base)
    require_proposal(target, base.warped(Warp(temperature=2.0)))
    with pytest.raises(AttunementError, match="top-p cut it off"):
        require_proposal(target, base.warped(Warp(top_p=0.5)))
    longer = Tabular.random(3, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AttunementError, match="max_new_tokens 2 against 3"):
        require_proposal(target, longer)
