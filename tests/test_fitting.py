"""Fits are held against exact ones: on a tabular model every outcome can be enumerated."""

import math

import pytest
import torch

from attunement.core import AttunementError, Context
from attunement.distributions.tabular import Tabular
from attunement.dual import solve_dual
from attunement.factors import ContextLambdas
from attunement.fitting import fit
from attunement.scorers import as_scorer
from attunement.targets import Target
from attunement.tuning import Keep, Proposal, TuningSettings, tune

FLOAT64 = torch.float64
PROMPTS = ("x", "y", "z")


def has_a(texts):
    return ["a" in text for text in texts]


def count_a(texts):
    return [text.count("a") for text in texts]


def count_b(texts):
    return [text.count("b") for text in texts]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def language(prompts=("",), seed=0):
    return Tabular.random(3, 3, generator=seeded(seed), prompts=prompts)


def rare(prompts=("",), shift=-7.5):
    """A language in which a feature, an a in the text, has a chance of about one in a thousand."""
    base = language(prompts, seed=2)
    with torch.no_grad():
        base.logits[..., 1] += shift
    return base


def exact_lambdas(target, contexts=None):
    """[C, K] λ on the enumerated outcomes, everything but the moments being known."""
    support = target.base.enumerate(contexts)
    matched = [f for f in target.factors if f.describe()["kind"].startswith("match")]
    rest = Target(target.base, tuple(f for f in target.factors if f not in matched))
    scores = target.features(support)
    return solve_dual(
        torch.stack([scores[f.scorer.name].values for f in matched], 1),
        support.log_prob + rest.log_potential(support),
        support.context_index,
        torch.tensor([f.mean for f in matched], dtype=FLOAT64),
        torch.tensor([f.describe()["kind"] == "match_each" for f in matched]),
    )


def test_each_context_has_its_mean_and_the_others_have_it_together():
    base = language(PROMPTS, seed=4)
    target = Target(base).tilt(has_a, beta=2.0).match_each({count_a: 1.0}).match({count_b: 0.9})
    fitted = target.fit(PROMPTS, n=20_000, generator=seeded())
    exact = exact_lambdas(target, PROMPTS)
    found = fitted.lambdas_["count_a"]
    assert isinstance(found, ContextLambdas)
    assert found.contexts == tuple(map(Context, PROMPTS))
    torch.testing.assert_close(torch.tensor(found.values), exact[:, 0].float(), rtol=0, atol=0.06)
    assert fitted.lambdas_["count_b"] == pytest.approx(float(exact[0, 1]), abs=0.06)
    for reached in fitted.moments_each_["count_a"]:
        assert reached.n == 20_000
        assert reached.value == pytest.approx(1.0, abs=0.03)
    assert fitted.moments_["count_a"].n == 3
    assert set(fitted.moments_each_) == {"count_a"}


def test_on_the_exact_lambdas_the_moments_are_exact():
    base = language(PROMPTS, seed=5)
    target = Target(base).constrain(has_a).match_each({count_b: 0.5}).match({count_a: 1.4})
    target = target.tilt(count_b, beta=3.0)
    exact = exact_lambdas(target, PROMPTS)
    known = ContextLambdas(tuple(map(Context, PROMPTS)), tuple(exact[:, 0].tolist()))
    fitted = target.with_lambdas({"count_b": known, "count_a": float(exact[0, 1])})
    support = base.enumerate(PROMPTS)
    log_score = (support.log_prob + fitted.log_potential(support)).reshape(3, -1)
    probabilities = log_score.softmax(1)
    scores = fitted.features(support)
    b, a = (scores[name].values.reshape(3, -1) for name in ("count_b", "count_a"))
    torch.testing.assert_close((probabilities * b).sum(1), torch.full((3,), 0.5, dtype=FLOAT64))
    assert float((probabilities * a).sum(1).mean()) == pytest.approx(1.4, abs=1e-8)


def test_the_weights_of_a_mixture_stay_bounded():
    base = language()
    target = Target(base).match({count_a: 1.2})
    fitted = target.fit(n=4000, generator=seeded())
    assert fitted.khat_ is None or fitted.khat_ < 0.7
    policy = language(seed=9)
    refined = target.fit(n=4000, proposal=policy, generator=seeded())
    assert refined.lambdas_["count_a"] == pytest.approx(fitted.lambdas_["count_a"], abs=0.12)
    assert refined.lambdas_ != fitted.lambdas_


def test_a_policy_near_the_target_refines_lambda():
    """The chance of the feature is 0.1 % in the base and shall be 50 %."""
    base = rare()
    chance = float(
        base.enumerate().log_prob.exp()[torch.tensor(has_a(base.enumerate().texts))].sum()
    )
    assert 5e-4 < chance < 2e-3
    target = Target(base).match({has_a: 0.5})
    exact = float(exact_lambdas(target)[0, 0])
    assert exact == pytest.approx(math.log(1 / chance - 1), abs=1e-6)
    first = [target.fit(n=8192, generator=seeded(seed)) for seed in range(12)]
    settings = TuningSettings(
        max_steps=60, learning_rate=0.3, averaging=0.0, proposal=Proposal.POLICY, keep=Keep.LAST
    )
    policy = tune(first[0], settings=settings).policy
    then = [
        fit.fit(n=8192, proposal=policy, generator=seeded(seed)) for seed, fit in enumerate(first)
    ]

    def error(fits):
        off = torch.tensor([fitted.lambdas_["has_a"] - exact for fitted in fits])
        return float(off.square().mean().sqrt())

    assert error(first) > 0.2
    assert error(first) > 4 * error(then)
    assert sum(fitted.ess_ for fitted in then) > 10 * sum(fitted.ess_ for fitted in first)
    assert then[0].moments_["has_a"].stderr < first[0].moments_["has_a"].stderr / 3


def test_a_proposal_that_cuts_something_off_is_refused():
    class Cut(Tabular):
        full_support = False

    base = language()
    target = Target(base).match({count_a: 1.0})
    cut = Cut(base.logits, base.outcomes.max_new_tokens)
    with pytest.raises(AttunementError, match="cut it off"):
        target.fit(proposal=cut, generator=seeded())


def test_a_context_twice_is_an_error_where_it_has_its_own_lambda():
    base = language(PROMPTS)
    prompts = ("x", "y", "x")
    with pytest.raises(AttunementError, match=r"contexts 0 and 2 are the same \('x'\)"):
        Target(base).match_each({count_a: 1.0}).fit(prompts, n=100, generator=seeded())
    Target(base).match({count_a: 1.0}).fit(prompts, n=500, generator=seeded())


def test_what_a_context_cannot_reach_is_said_with_the_context():
    base = language(PROMPTS, seed=4)
    with torch.no_grad():
        base.logits[1, :, 1] = -1e4
    target = Target(base)
    with pytest.raises(
        AttunementError, match=r"in context 1 \('y'\): count_a = 1 can't .* always 0"
    ):
        target.match_each({count_a: 1.0}).fit(PROMPTS, n=500, generator=seeded())
    nothing = target.constrain(has_a).match_each({count_b: 1.0})
    with pytest.raises(AttunementError, match=r"in context 1 \('y'\): none of 500 samples"):
        nothing.fit(PROMPTS, n=500, generator=seeded())


def test_two_constraints_that_nothing_satisfies_are_named():
    def no_a(texts):
        return ["a" not in text for text in texts]

    target = Target(language()).constrain(has_a).constrain(no_a).match({count_b: 1.0})
    with pytest.raises(AttunementError, match=r"has_a \(0\.\d+ of them do\) and no_a \(0\.\d+ of"):
        target.fit(n=500, generator=seeded())


def test_a_fit_is_a_function_of_its_generator():
    factors = Target(language()).match({count_a: 1.0}).factors
    base, contexts = language(), (Context(),)
    first, again = (fit(base, factors, contexts, 400, None, seeded(1)) for _ in range(2))
    assert first == again
    assert first.factors[0].scorer == as_scorer(count_a)
