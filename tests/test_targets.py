import math
import re
from dataclasses import replace

import pytest
import torch

from attunement.core import AttunementError, Context
from attunement.distributions.tabular import Tabular
from attunement.dual import solve_dual
from attunement.factors import Constraint, ContextLambdas, Moment, Tilt
from attunement.scorers import as_scorer, length
from attunement.targets import Target

FLOAT64 = torch.float64


def has_a(texts):
    return ["a" in text for text in texts]


def has_b(texts):
    return ["b" in text for text in texts]


def starts_with_b(texts):
    return [text.startswith("b") for text in texts]


def count_a(texts):
    return [text.count("a") for text in texts]


def always(texts):
    return [1.0 for _ in texts]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def language(prompts=("",), seed=0, vocabulary=3, longest=3):
    return Tabular.random(vocabulary, longest, generator=seeded(seed), prompts=prompts)


def without_a(base, row):
    """The language in which the prompt of a row is never answered with an a."""
    logits = base.logits.detach().clone()
    logits[row, :, 1] = -1e4
    return Tabular(logits, base.outcomes.max_new_tokens, base.prompts)


def exact_log_target(target, contexts=None):
    """Every outcome and its normalised log-probability under a target."""
    support = target.base.enumerate(contexts)
    log_score = support.log_prob + target.log_potential(support)
    for index in support.context_index.unique():
        rows = support.context_index == index
        log_score[rows] -= torch.logsumexp(log_score[rows], 0)
    return support, log_score


def exact_mean(target, feature, contexts=None):
    support, log_target = exact_log_target(target, contexts)
    values = target.features(support)[as_scorer(feature).name].values
    return float((log_target.exp() * values).sum()) / len(support.contexts)


def test_the_log_potential_is_the_sum_of_the_factors():
    base = language()
    support = base.enumerate()
    target = (
        Target(base)
        .constrain(has_a)
        .constrain(has_b, floor=0.25)
        .tilt(length, beta=2.0, weight=-3.0)
        .match({count_a: 1.1})
        .with_lambdas({"count_a": 0.7})
    )
    expected = [
        -math.inf
        if "a" not in text
        else (0.0 if "b" in text else math.log(0.25)) - 1.5 * n + 0.7 * text.count("a")
        for text, n in zip(support.texts, support.lengths.tolist(), strict=True)
    ]
    torch.testing.assert_close(target.log_potential(support), torch.tensor(expected, dtype=FLOAT64))
    known = target.features(support)
    assert torch.equal(target.log_potential(support, known), target.log_potential(support))


def test_a_target_without_factors_is_its_base():
    target = Target(language())
    assert torch.equal(target.log_potential(target.base.enumerate()), torch.zeros(15).double())
    assert target.is_fitted
    assert target.is_dominated
    assert not target.has_forbidden
    assert target.fit(generator=seeded()) is target


def test_every_method_returns_a_new_target():
    target = Target(language())
    constrained = target.constrain(has_a)
    matched = constrained.match({count_a: 1.2})
    fitted = matched.fit(n=500, generator=seeded())
    assert target.factors == ()
    assert constrained.factors == (Constraint(as_scorer(has_a)),)
    assert matched.factors[1:] == (Moment(as_scorer(count_a), 1.2),)
    assert (matched.is_fitted, matched.lambdas_, matched.moments_) == (False, {}, {})
    assert fitted.is_fitted
    with pytest.raises(AttributeError):
        fitted.factors = ()  # type: ignore[misc]


def test_what_is_composed_after_fitting_has_to_be_fitted_again():
    fitted = Target(language()).match({count_a: 0.9}).fit(n=500, generator=seeded())
    extended = fitted.tilt(length, beta=1.0)
    assert not extended.is_fitted
    assert (extended.moments_, extended.ess_, extended.khat_) == ({}, None, None)


def test_dominated_and_forbidden_are_told_apart():
    target = Target(language())
    assert target.constrain(has_a, floor=0.1).is_dominated
    assert not target.constrain(has_a, floor=0.1).has_forbidden
    assert target.constrain(has_a).has_forbidden
    assert not target.constrain(has_a).tilt(length, beta=1.0).is_dominated


def test_the_order_of_composition_does_not_matter_once_fitted():
    base = language(seed=3)
    first = Target(base).match({count_a: 1.2}).constrain(has_b, floor=0.2).match({length: 2.2})
    second = Target(base).match({length: 2.2}).match({count_a: 1.2}).constrain(has_b, floor=0.2)
    first, second = (target.fit(n=2000, generator=seeded(1)) for target in (first, second))
    assert first.lambdas_ == pytest.approx(second.lambdas_, abs=1e-8)
    support = base.enumerate()
    torch.testing.assert_close(first.log_potential(support), second.log_potential(support))


@pytest.mark.parametrize("seed", range(4))
def test_the_fitted_lambda_lies_within_its_sampling_error_of_the_exact_one(seed):
    base, mean, n = language(seed=seed), 1.0, 8000
    fitted = Target(base).constrain(has_b, floor=0.1).match({count_a: mean})
    fitted = fitted.fit(n=n, generator=seeded(seed))
    support = base.enumerate()
    feature = fitted.features(support)["count_a"].values
    rest = Target(base).constrain(has_b, floor=0.1).log_potential(support)
    wanted = torch.tensor([mean], dtype=FLOAT64)
    log_weights = support.log_prob + rest
    exact = solve_dual(feature[:, None], log_weights, support.context_index, wanted)[0]
    weights = (log_weights + float(exact) * feature).softmax(0)
    ratios = weights / support.log_prob.exp()
    deviation = (feature - mean) ** 2
    stderr = float((weights * ratios) @ deviation / n).__pow__(0.5) / float(weights @ deviation)
    assert stderr < 0.1
    assert abs(fitted.lambdas_["count_a"] - float(exact)) < 4 * stderr


def test_several_moments_are_reached_at_once():
    base = language(seed=5)
    wanted = {"count_a": 1.3, "starts_with_b": 0.4, "length": 2.5}
    target = Target(base).match({count_a: 1.3, starts_with_b: 0.4, length: 2.5})
    fitted = target.fit(n=8000, generator=seeded(6))
    for name, feature in (("count_a", count_a), ("starts_with_b", starts_with_b)):
        reached = fitted.moments_[name]
        exact = exact_mean(fitted, feature)
        assert reached.stderr is not None
        assert reached.low <= exact <= reached.high
        assert reached.low <= wanted[name] <= reached.high
        assert abs(exact - wanted[name]) < 4 * reached.stderr
    assert list(fitted.moments_) == list(wanted) == list(fitted.lambdas_)
    assert fitted.ess_ is not None
    assert 100 < fitted.ess_ <= 8000


def test_moments_are_averaged_over_contexts():
    prompts = ("x", "y", "z")
    base = language(prompts, seed=4)
    fitted = Target(base).match({count_a: 1.1}).fit(prompts, n=4000, generator=seeded())
    each = [exact_mean(fitted, count_a, [prompt]) for prompt in prompts]
    assert max(each) - min(each) > 0.1
    assert sum(each) / 3 == pytest.approx(1.1, abs=0.03)
    reached = fitted.moments_["count_a"]
    assert reached.n == 3
    assert reached.low <= 1.1 <= reached.high


def test_contexts_that_nothing_satisfies_are_left_out_of_the_fit():
    base = without_a(language(("x", "y", "z"), seed=4), row=1)
    target = Target(base).constrain(has_a).match({length: 2.4})
    fitted = target.fit(("x", "y", "z"), n=4000, generator=seeded())
    assert exact_mean(fitted, length, ["x", "z"]) == pytest.approx(2.4, abs=0.05)
    assert any("left out" in warning for warning in fitted.moments_["length"].warnings)


def test_fitting_depends_on_the_seed_alone():
    target = Target(language()).match({count_a: 0.9})
    first, again, other = (target.fit(n=500, generator=seeded(s)) for s in (1, 1, 2))
    assert first == again
    assert first.lambdas_ != other.lambdas_


def test_a_sample_out_of_scope_adds_nothing():
    def first_is_a(texts):
        return [text.startswith("a") if text else None for text in texts]

    base = language()
    support = base.enumerate()
    empty = torch.tensor([not text for text in support.texts])
    target = Target(base)
    targets = [
        target.constrain(first_is_a),
        target.constrain(first_is_a, floor=0.1),
        target.tilt(first_is_a, beta=0.5),
        target.match({first_is_a: 0.4}).with_lambdas({"first_is_a": 2.0}),
    ]
    for composed in targets:
        potential = composed.log_potential(support)
        # A matched feature is λ·(φ - μ) times a constant: here exp(2.0 · 0.4).
        nothing = 0.8 if composed is targets[-1] else 0.0
        assert potential[empty].item() == pytest.approx(nothing)
        assert potential[~empty].unique().numel() == 2


def test_consistent_moments_of_dependent_features_are_matched():
    def has_no_a(texts):
        return [1 - ("a" in text) for text in texts]

    target = Target(language()).match({has_a: 0.3, has_no_a: 0.7})
    fitted = target.fit(n=2000, generator=seeded())
    assert exact_mean(fitted, has_a) == pytest.approx(0.3, abs=0.04)
    with pytest.raises(AttunementError, match=r"has_a = 0.3, has_no_a = 0.3 can't .* together"):
        Target(language()).match({has_a: 0.3, has_no_a: 0.3}).fit(n=500, generator=seeded())


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        ({count_a: 5.0}, r"count_a = 5 can't be reached: it lies between 0 and 3 in 500 samples"),
        ({count_a: -1.0}, r"count_a = -1 can't be reached: it lies between 0 and 3"),
        ({has_a: 0.0}, r"has_a = 0 is a constraint, not a proportion: use constrain"),
        ({has_a: 1.0}, r"has_a = 1 is a constraint, not a proportion: use constrain"),
        ({always: 0.5}, r"always = 0.5 can't be matched: it is always 1"),
        ({has_a: 0.1, count_a: 2.5}, r"has_a = 0.1, count_a = 2.5 can't be reached together"),
    ],
)
def test_what_cannot_be_reached_is_said(moments, message):
    with pytest.raises(AttunementError, match=message):
        Target(language()).match(moments).fit(n=500, generator=seeded())


def test_a_moment_that_a_constraint_fixes_is_said():
    def some_a(texts):
        return [float("a" in text) for text in texts]

    target = Target(language()).constrain(has_a)
    with pytest.raises(AttunementError, match=r"some_a = 0.5 .* always 1 .* a constraint fixes it"):
        target.match({some_a: 0.5}).fit(n=500, generator=seeded())
    for match in (target.match, target.match_each):
        with pytest.raises(AttunementError, match="has_a is constrained to be 1 and matched"):
            match({has_a: 0.5})


def test_what_can_be_reached_on_average_over_contexts_is_said():
    base = without_a(language(("x", "y"), seed=4), row=0)
    target = Target(base).match({has_a: 0.7})
    with pytest.raises(AttunementError, match=r"has_a = 0.7 can't .* between 0 and 0.5"):
        target.fit(("x", "y"), n=500, generator=seeded())


def test_no_base_sample_satisfies_the_constraint():
    def never(texts):
        return [0 for _ in texts]

    target = Target(language()).constrain(never).match({count_a: 1.0})
    with pytest.raises(AttunementError, match=r"none of 100 samples satisfies .* never, so no"):
        target.fit(n=100, generator=seeded())


def test_an_unfitted_target_cannot_be_used():
    target = Target(language()).match({count_a: 1.25})
    with pytest.raises(AttunementError, match=r"count_a = 1.25 but isn't fitted: call target.fit"):
        target.log_potential(target.base.enumerate())


@pytest.mark.parametrize("floor", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_floor_lies_between_0_and_1(floor):
    with pytest.raises(AttunementError, match="a floor lies between 0 and 1"):
        Target(language()).constrain(has_a, floor=floor)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_is_above_0(beta):
    with pytest.raises(AttunementError, match="beta must be above 0"):
        Target(language()).tilt(length, beta=beta)


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_weights_and_means_are_finite(number):
    with pytest.raises(AttunementError, match="weight of a tilt must be a finite number"):
        Target(language()).tilt(length, beta=1.0, weight=number)
    with pytest.raises(AttunementError, match="mean of length must be a finite number"):
        Target(language()).match({length: number})


def test_match_needs_a_moment():
    with pytest.raises(AttunementError, match="match needs at least one feature"):
        Target(language()).match({})


def test_match_each_needs_a_moment():
    with pytest.raises(AttunementError, match="match_each needs at least one feature"):
        Target(language()).match_each({})


def test_with_one_context_each_is_the_average():
    target = Target(language()).constrain(has_b, floor=0.2)
    averaged = target.match({count_a: 1.1}).fit(n=2000, generator=seeded())
    each = target.match_each({count_a: 1.1}).fit(n=2000, generator=seeded())
    support = target.base.enumerate()
    torch.testing.assert_close(
        each.log_potential(support), averaged.log_potential(support), rtol=0, atol=1e-9
    )
    assert each.moments_ == averaged.moments_
    assert each.ess_ == pytest.approx(averaged.ess_)


def test_the_order_of_moments_of_both_kinds_does_not_matter():
    prompts = ("x", "y")
    target = Target(language(prompts, seed=3)).tilt(starts_with_b, beta=1.5)
    first = target.match({count_a: 1.2}).match_each({length: 2.2}).match({has_b: 0.5})
    second = target.match_each({length: 2.2}).match({has_b: 0.5, count_a: 1.2})
    first, second = (t.fit(prompts, n=2000, generator=seeded(1)) for t in (first, second))
    support = target.base.enumerate(prompts)
    torch.testing.assert_close(
        first.log_potential(support), second.log_potential(support), rtol=0, atol=1e-7
    )


def test_a_lambda_of_the_wrong_kind_is_refused():
    each = ContextLambdas((Context(),), (0.5,))
    target = Target(language())
    assert target.match_each({count_a: 1.0}).with_lambdas({"count_a": each}).is_fitted
    with pytest.raises(AttunementError, match="no λ for count_a: one number for each context"):
        target.match_each({count_a: 1.0}).with_lambdas({"count_a": 0.5})
    with pytest.raises(AttunementError, match="no λ for count_a: one number is needed"):
        target.match({count_a: 1.0}).with_lambdas({"count_a": each})


def test_a_fit_tells_in_sentences_what_it_found():
    prompts = ("x", "y")
    target = Target(language(prompts)).match({count_a: 1.0}).match_each({has_b: 0.5})
    assert target.fit_sentences() == ()
    fitted = target.fit(prompts, n=1000, generator=seeded())
    averaged, each, worth = fitted.fit_sentences()
    assert re.match(r"count_a = 1: λ = -?\d.*, reached \d", averaged)
    assert re.match(r"has_b = 0.5 in 2 contexts: λ from .* in [012] of them, on \d+", each)
    assert re.match(r"λ rests on \d+\.\d effective samples", worth)
    assert "more samples" not in worth
    assert "more samples refine λ" in replace(fitted, ess_=3.0).fit_sentences()[-1]


def test_a_feature_is_matched_once():
    with pytest.raises(AttunementError, match="length is matched twice"):
        Target(language()).match({length: 2.0}).match({length: 2.5})


def test_two_scorers_of_one_name_are_told_apart():
    first = as_scorer(has_a, name="rule")
    second = as_scorer(has_b, name="rule")
    with pytest.raises(AttunementError, match=r"two different scorers are called rule"):
        Target(language()).constrain(first).tilt(second, beta=1.0)
    assert Target(language()).constrain(first, floor=0.5).tilt(first, beta=1.0).scorers == (first,)


def test_a_constraint_is_0_or_1():
    def half(texts):
        return [0.5 if "ab" in text else 1 for text in texts]

    target = Target(language()).constrain(half)
    with pytest.raises(AttunementError, match=r"half is 0.5 for sample \d+ \('aab'\)"):
        target.log_potential(target.base.enumerate())


def test_describe_says_everything_that_recipes_hold():
    target = (
        Target(language())
        .constrain(has_a, floor=0.01)
        .match({count_a: 1.1})
        .tilt(length, beta=2.0, weight=-1.0)
    )
    described = [
        {"kind": "constrain", "scorer": "has_a", "floor": 0.01},
        {"kind": "match", "scorer": "count_a", "mean": 1.1, "lambda": None},
        {"kind": "tilt", "scorer": "length", "beta": 2.0, "weight": -1.0},
    ]
    assert target.describe() == described
    known = target.with_lambdas({"count_a": 0.3})
    assert known.describe()[1]["lambda"] == 0.3
    assert known.factors[2] == Tilt(length, 2.0, -1.0)


def test_lambdas_of_an_earlier_fit_give_the_same_target():
    target = Target(language()).constrain(has_b, floor=0.3).match({count_a: 1.0, length: 2.3})
    fitted = target.fit(n=1000, generator=seeded())
    known = target.with_lambdas(fitted.lambdas_)
    support = target.base.enumerate()
    assert torch.equal(known.log_potential(support), fitted.log_potential(support))
    assert fitted.with_lambdas({"count_a": 0.0, "length": 0.0}).moments_ == {}
    with pytest.raises(AttunementError, match="there is no λ for length"):
        target.with_lambdas({"count_a": 1.0})


def test_a_reward_function_in_the_form_of_trl_serves():
    def right(prompts, completions, wanted):
        rows = zip(prompts, completions, wanted, strict=True)
        return [float(prompt == "x" and wish in text) for prompt, text, wish in rows]

    base = language(("x", "y"))
    contexts = [Context("x", {"wanted": "a"}), Context("y", {"wanted": "b"})]
    support = base.enumerate(contexts)
    potential = Target(base).tilt(right, beta=0.5).log_potential(support)
    expected = [
        2.0 * (context.prompt == "x" and "a" in text)
        for context, text in zip(support.sample_contexts, support.texts, strict=True)
    ]
    assert potential.tolist() == expected


def ends_in_a(texts):
    """Nothing to say of a text of fewer than two letters."""
    return [text.endswith("a") if len(text) > 1 else None for text in texts]


def test_a_moment_is_matched_where_its_feature_applies():
    base = language()
    target = Target(base).match({ends_in_a: 0.8}).fit(n=20_000, generator=seeded(1))
    support, log_target = exact_log_target(target)
    scores = target.features(support)["ends_in_a"]
    weights = log_target.exp()
    applies = float(weights[scores.applicable].sum())
    mean = float(weights @ scores.values) / applies
    assert 0.1 < applies < 0.9
    assert abs(mean - 0.8) < 0.02
    reached = target.moments_["ends_in_a"]
    assert abs(reached.value - mean) < 4 * reached.stderr

    # Of all that have this mean where the feature applies, it is the nearest to the base.
    def kl_base(share):
        log_shares = torch.where(scores.applicable, share / applies, (1 - share) / (1 - applies))
        return float((weights * log_shares) @ (log_target + log_shares.log() - support.log_prob))

    exact = Target(base).match({ends_in_a: mean}).with_lambdas(target.lambdas_)
    _, log_target = exact_log_target(exact)
    weights, applies = log_target.exp(), float(log_target.exp()[scores.applicable].sum())
    nearest = kl_base(applies)
    assert nearest < min(kl_base(applies - 0.01), kl_base(applies + 0.01))


def test_a_moment_whose_feature_never_applies_is_an_error():
    def nothing(texts):
        return [None] * len(texts)

    with pytest.raises(AttunementError, match="nothing applies to none of 50 samples"):
        Target(language()).match({nothing: 0.5}).fit(n=50, generator=seeded())
