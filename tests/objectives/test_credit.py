"""Per-token credit against the exact gradient of KL(π‖p) on an enumerated model."""

import math

import pytest
import torch

from attunement.distributions.tabular import Tabular
from attunement.objectives import (
    closed_form_kl,
    sampled_kl,
    token_advantages,
    token_surrogate,
)


@pytest.fixture(scope="module")
def models():
    generator = torch.Generator().manual_seed(11)
    base = Tabular.random(3, 3, generator=generator)
    policy = Tabular.random(3, 3, generator=generator)
    support = policy.enumerate()
    potential = torch.randn(len(support), generator=generator, dtype=torch.float64)
    return base, policy, support, potential


def gradient(value, policy):
    return torch.autograd.grad(value, policy.logits, retain_graph=True)[0]


@pytest.mark.parametrize("reward_to_go", [False, True])
@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_the_expected_gradient_is_that_of_reverse_kl(models, reward_to_go, closed_form, baseline):
    base, policy, support, potential = models
    log_policy, log_base = policy.log_prob(support), base.log_prob(support).detach()
    log_partition = torch.logsumexp(log_base + potential, 0)
    log_target = log_base + potential - log_partition
    exact = gradient((log_policy.exp() * (log_policy - log_target)).sum(), policy)

    tokens, mask = policy.token_log_probs(support), support.mask
    if closed_form:
        rows = policy.next_token_log_probs(support), base.next_token_log_probs(support).detach()
        kl = closed_form_kl(*rows) * mask
    else:
        kl = sampled_kl(tokens, base.token_log_probs(support)) * mask
    advantages = token_advantages(
        kl,
        potential - log_partition - baseline,
        reward_to_go=reward_to_go,
        closed_form=closed_form,
    )
    expected = token_surrogate(
        log_policy.detach().exp(), advantages, tokens, kl if closed_form else None, 1
    )
    torch.testing.assert_close(gradient(expected, policy), exact, rtol=1e-10, atol=1e-13)


def test_off_policy_weights_leave_the_expectation(models):
    base, policy, support, potential = models
    generator = torch.Generator().manual_seed(12)
    proposal = Tabular.random(3, 3, generator=generator).log_prob(support).detach()
    log_policy, log_base = policy.log_prob(support), base.log_prob(support).detach()
    exact = gradient((log_policy.exp() * (log_policy - log_base - potential)).sum(), policy)
    tokens = policy.token_log_probs(support)
    kl = sampled_kl(tokens, base.token_log_probs(support)) * support.mask
    advantages = token_advantages(kl, potential, reward_to_go=True, closed_form=False)
    weights = (log_policy.detach() - proposal).exp() * proposal.exp()
    expected = token_surrogate(weights, advantages, tokens, None, 1)
    torch.testing.assert_close(gradient(expected, policy), exact, rtol=1e-10, atol=1e-13)


def test_the_whole_sample_is_log_ratio_and_the_last_token_answers_for_itself():
    kl = torch.tensor([[1.0, 2.0, 4.0]])
    whole = token_advantages(kl, torch.tensor([10.0]), reward_to_go=False, closed_form=False)
    assert whole.tolist() == [[3.0, 3.0, 3.0]]
    to_go = token_advantages(kl, torch.tensor([10.0]), reward_to_go=True, closed_form=False)
    assert to_go.tolist() == [[3.0, 4.0, 6.0]]
    behind = token_advantages(kl, torch.tensor([10.0]), reward_to_go=True, closed_form=True)
    assert behind.tolist() == [[4.0, 6.0, 10.0]]


def test_a_forbidden_token_adds_nothing_to_the_closed_form():
    log_policy = torch.tensor([-math.inf, math.log(0.25), math.log(0.75)], requires_grad=True)
    log_base = torch.tensor([-math.inf, math.log(0.5), math.log(0.5)])
    found = closed_form_kl(log_policy, log_base)
    assert float(found.detach()) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    (slope,) = torch.autograd.grad(found, log_policy)
    assert bool(slope.isfinite().all())
