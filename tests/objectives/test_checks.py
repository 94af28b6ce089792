import math

import pytest
import torch

from attunement.core import AttunementError
from attunement.divergences import jensen_shannon, reverse_kl
from attunement.objectives.checks import require_allowed, require_finite_signal


def test_an_infinite_price_counts_where_a_sample_is_forbidden():
    with pytest.raises(AttunementError, match=r"reverse_kl is infinite.*--floor 0\.01"):
        require_allowed(reverse_kl, torch.tensor([False, True]))
    assert require_allowed(reverse_kl, torch.tensor([False, False])) is None
    assert require_allowed(jensen_shannon, torch.tensor([True])) is None


def test_the_first_signal_that_is_not_finite_is_named():
    signal = torch.tensor([1.0, math.nan, math.inf])
    logs = torch.tensor([-1.0, -2.0, -3.0])
    with pytest.raises(AttunementError, match=r"sample 1 isn't finite: log π -2, log P -2"):
        require_finite_signal(signal, logs, logs, "P")
    assert require_finite_signal(signal[:1], logs, logs, "P") is None
