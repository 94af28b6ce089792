"""Training signals as pure functions of log-probabilities.

The algorithms of the papers differ only in what multiplies ∇log π of a sample, so an algorithm here
is a function from log-probabilities to that number, the *signal*, and `surrogate` is what is
differentiated. In reading order:

- `baselines`: what may be subtracted without changing any expectation;
- `policy_gradient`: the gradient of any f-divergence from samples of any proposal;
- `trajectory_balance`: the same minimum without importance weights where the target allows a
  sample;
- `reward`: reward maximisation, which has no target distribution and is what the others are held
  against;
- `credit`: reverse KL token by token.
"""

from enum import StrEnum

from attunement.objectives.baselines import Baseline, leave_one_out
from attunement.objectives.credit import (
    closed_form_kl,
    sampled_kl,
    token_advantages,
    token_surrogate,
)
from attunement.objectives.policy_gradient import has_signal, policy_gradient_signal, surrogate
from attunement.objectives.reward import reward_signal
from attunement.objectives.trajectory_balance import (
    profiled_log_partition,
    trajectory_balance_signal,
)

__all__ = [
    "Baseline",
    "Objective",
    "closed_form_kl",
    "has_signal",
    "leave_one_out",
    "policy_gradient_signal",
    "profiled_log_partition",
    "reward_signal",
    "sampled_kl",
    "surrogate",
    "token_advantages",
    "token_surrogate",
    "trajectory_balance_signal",
]


class Objective(StrEnum):
    """What a step goes down, or up."""

    POLICY_GRADIENT = "policy_gradient"
    TRAJECTORY_BALANCE = "trajectory_balance"
    REWARD = "reward"
