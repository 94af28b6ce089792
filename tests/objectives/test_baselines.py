import pytest
import torch

from attunement.core import AttunementError
from attunement.objectives import leave_one_out


def test_leave_one_out_stays_within_its_context():
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    rewards = torch.tensor([1.0, 4.0, 2.0, -5.0, 7.0], dtype=torch.float64)
    found = leave_one_out(weights, rewards, torch.tensor([4, 4, 4, 9, 9]))
    torch.testing.assert_close(
        found, torch.tensor([14 / 5, 7 / 4, 9 / 3, 7.0, -5.0], dtype=torch.float64)
    )


def test_leave_one_out_needs_two_samples():
    with pytest.raises(AttunementError, match="two or more samples for each context"):
        leave_one_out(torch.ones(3), torch.ones(3), torch.tensor([0, 0, 1]))
