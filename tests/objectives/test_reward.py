import itertools

import pytest
import torch

from attunement.core import AttunementError
from attunement.objectives import Baseline, reward_signal, surrogate

SIZE = 5


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize(("baseline", "samples"), [(Baseline.NONE, 1), (Baseline.LEAVE_ONE_OUT, 2)])
def test_expected_gradient_is_that_of_the_mean_reward(on_policy, baseline, samples):
    generator = torch.Generator().manual_seed(3)
    parameters, other, rewards = torch.randn(3, SIZE, generator=generator, dtype=torch.float64)
    parameters.requires_grad_()
    log_policy = parameters.log_softmax(0)
    log_proposal = log_policy.detach() if on_policy else other.log_softmax(0)
    mean = (log_policy.exp() * rewards).sum()
    exact = torch.autograd.grad(mean, parameters, retain_graph=True)[0]
    total = torch.zeros((), dtype=torch.float64)
    for chosen in itertools.product(range(SIZE), repeat=samples):
        index = torch.tensor(chosen)
        signal = reward_signal(
            baseline,
            rewards[index],
            log_policy=log_policy[index],
            log_proposal=log_proposal[index],
            context=torch.zeros(samples, dtype=torch.long),
        )
        probability = float(log_proposal[index].sum().exp())
        total = total - probability * surrogate(signal, log_policy[index], samples)
    found = torch.autograd.grad(total, parameters)[0]
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


def test_an_analytic_baseline_belongs_to_a_divergence():
    numbers = torch.zeros(2)
    with pytest.raises(AttunementError, match="leave_one_out"):
        reward_signal(
            Baseline.ANALYTIC,
            numbers,
            log_policy=numbers,
            log_proposal=numbers,
            context=torch.zeros(2, dtype=torch.long),
        )
