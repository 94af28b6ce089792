import itertools

import pytest
import torch

from attunement.distributions.tabular import Tabular
from attunement.divergences import DIVERGENCES, alpha, reverse_kl
from attunement.objectives import Baseline, Objective, has_signal
from attunement.targets import Target
from attunement.tuning import TuningSettings, init, step
from attunement.tuning.drawing import draw
from attunement.tuning.drawn import Drawn
from attunement.tuning.learning import lesson
from attunement.tuning.problem import SAMPLES

SMALL = TuningSettings(batch_size=64, bank_size=512, learning_rate=0.05, averaging=0.0)


def length(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def has_a(texts: list[str]) -> list[bool]:
    return ["a" in text for text in texts]


def exact_kl(target: Target, policy) -> float:
    support = target.base.enumerate()
    score = target.base.log_prob(support) + target.log_potential(support)
    return float(reverse_kl.exact(policy.log_prob(support), score.log_softmax(0)).detach())


@pytest.mark.parametrize("reward_to_go", [False, True])
@pytest.mark.parametrize("closed_form_kl", [False, True])
@pytest.mark.parametrize("proposal", ["policy", "mixture"])
def test_token_signals_lower_reverse_kl(base, reward_to_go, closed_form_kl, proposal):
    settings = TuningSettings(
        divergence="reverse_kl",
        reward_to_go=reward_to_go,
        closed_form_kl=closed_form_kl,
        proposal=proposal,
        batch_size=64,
        bank_size=512,
        learning_rate=0.05,
    )
    target = Target(base).tilt(length, beta=0.5)
    problem, state = init(target, None, settings)
    before = exact_kl(target, state.policy)
    infos = [step(problem, state) for _ in range(40)]
    assert exact_kl(target, state.policy) < 0.3 * before
    by_token = reward_to_go or closed_form_kl
    assert (infos[0].signal_variance is None) == by_token


def test_the_whole_sample_token_by_token_is_the_policy_gradient(base, monkeypatch):
    """Neither option: the same gradient, summed over tokens."""
    target = Target(base).tilt(length, beta=0.5)
    settings = SMALL.model_copy(update={"divergence": "reverse_kl"})
    problem, state = init(target, None, settings)
    step(problem, state)
    with monkeypatch.context() as patched:
        patched.setattr(TuningSettings, "by_token", True)
        drawn = draw(problem, state, SAMPLES)
        losses = [lesson(problem, state, drawn).loss_of]
    losses.append(lesson(problem, state, drawn).loss_of)
    first, second = (
        torch.autograd.grad(loss(torch.arange(64)), state.policy.module.logits)[0]
        for loss in losses
    )
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


def by_token_settings(proposal: str) -> TuningSettings:
    return SMALL.model_copy(
        update={
            "divergence": "reverse_kl",
            "reward_to_go": True,
            "proposal": proposal,
            "replay": 1,
            "micro_batch_size": 16,
        }
    )


@pytest.mark.parametrize("proposal", ["policy", "base", "mixture", "kl_adaptive"])
def test_signals_of_tokens_cost_one_pass_of_the_base(base, counted, proposal):
    asked = counted(base)
    problem, state = init(Target(asked).tilt(length, beta=0.5), None, by_token_settings(proposal))
    for steps in range(1, 4):
        step(problem, state)
        assert asked.scored == steps * 64


@pytest.mark.parametrize("proposal", ["policy", "base", "mixture", "kl_adaptive"])
def test_one_pass_says_what_two_would(base, proposal):
    target = Target(base).tilt(length, beta=0.5)
    problem, state = init(target, None, by_token_settings(proposal))
    step(problem, state)
    step(problem, state)
    drawn = draw(problem, state, SAMPLES)
    with torch.no_grad():
        by_token, summed = base.token_log_probs(drawn.samples), base.log_prob(drawn.samples)
    assert torch.equal(drawn.log_base_by_token, by_token)
    assert torch.equal(drawn.log_score, summed + drawn.log_potential)


@pytest.mark.parametrize("proposal", ["policy", "base", "mixture"])
@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon", "squared_hellinger"])
def test_trajectory_balance_comes_nearer_to_a_hard_target(hard, divergence, proposal):
    settings = TuningSettings(
        objective=Objective.TRAJECTORY_BALANCE,
        divergence=divergence,
        proposal=proposal,
        replay=2,
        batch_size=64,
        bank_size=512,
        learning_rate=0.1,
    )
    problem, state = init(hard, None, settings)
    support = hard.base.enumerate()
    score = hard.base.log_prob(support).detach() + hard.log_potential(support)

    def distance() -> float:
        log_policy = state.policy.log_prob(support).detach()
        return float((log_policy.exp() - score.softmax(0)).abs().sum() / 2)

    before = distance()
    for _ in range(60):
        step(problem, state)
    assert distance() < 0.5 * before


def test_the_plain_reward_forgets_the_base(base):
    target = Target(base).constrain(has_a)
    settings = TuningSettings(
        objective="reward", proposal="policy", batch_size=128, bank_size=256, learning_rate=0.3
    )
    problem, state = init(target, None, settings)
    infos = [step(problem, state) for _ in range(60)]
    assert infos[-1].reward > 0.99
    assert infos[-1].satisfied == infos[-1].reward


PROMPTS = ("p", "q", "r")
ROWS = [*(row for row in DIVERGENCES.values() if row.allows_forbidden), alpha(0.5)]


def never_in_r(contexts, texts):
    return [c.prompt != "r" and "a" in text for c, text in zip(contexts, texts, strict=True)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("proposal", ["base", "policy", "mixture"])
@pytest.mark.parametrize(
    ("baseline", "each"),
    [(Baseline.NONE, 1), (Baseline.ANALYTIC, 1), (Baseline.LEAVE_ONE_OUT, 2)],
)
def test_over_contexts_the_expected_gradient_is_that_of_the_mean_divergence(
    row, proposal, baseline, each
):
    """Every tuple of samples with its probability: Σ_c ∇D_f(π_c‖p_c)/C, to rounding.

    In r nothing is allowed; it adds nothing and counts in C.
    """
    generator = torch.Generator().manual_seed(3)
    base = Tabular.random(3, 2, generator=generator, prompts=PROMPTS)
    noise = torch.randn(base.logits.shape, generator=generator, dtype=torch.float64)
    policy = Tabular(base.logits + 0.5 * noise, 2, PROMPTS)
    target = Target(base).constrain(never_in_r)
    settings = SMALL.model_copy(update={"divergence": row.name, "baseline": baseline})
    problem, state = init(target, PROMPTS, settings, policy=policy)
    support = base.enumerate(PROMPTS)
    shape = (len(PROMPTS), -1)
    log_potential = target.log_potential(support)
    log_score, log_policy = support.log_prob + log_potential, policy.log_prob(support)
    state.pool.log_sums = log_score.reshape(shape).logsumexp(1)
    state.pool.counts = torch.ones(len(PROMPTS), dtype=torch.float64)
    known = log_policy.detach()
    log_proposal = {
        "base": support.log_prob,
        "policy": known,
        "mixture": (0.5 * (support.log_prob.exp() + known.exp())).log(),
    }[proposal]
    size = len(support) // len(PROMPTS)
    total = torch.zeros((), dtype=torch.float64)
    for chosen in itertools.product(range(size), repeat=each):
        rows = (torch.arange(len(PROMPTS))[:, None] * size + torch.tensor(chosen)).flatten()
        drawn = Drawn(
            samples=support[rows],
            context=support.context_index[rows],
            teaches=has_signal(row, baseline, log_potential[rows]),
            log_score=log_score[rows],
            log_policy=known[rows],
            log_proposal=log_proposal[rows],
            log_potential=log_potential[rows],
            reward=torch.zeros(len(rows), dtype=torch.float64),
        )
        taught = lesson(problem, state, drawn)
        assert (taught.empty_contexts, taught.in_batch_partition) == (1, 0)
        for own in torch.arange(len(rows)).split(each):
            probability = float(log_proposal[rows[own]].sum().exp())
            total = total + probability * taught.loss_of(own)
    (found,) = torch.autograd.grad(total, policy.logits)
    log_target = log_score.reshape(shape)[:2].log_softmax(1)
    mean = row.exact(policy.log_prob(support).reshape(shape)[:2], log_target) / len(PROMPTS)
    (exact,) = torch.autograd.grad(mean, policy.logits)
    assert bool((found[2] == 0).all())
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
