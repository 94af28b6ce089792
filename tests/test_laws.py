import dataclasses

import pytest
import torch
from scipy.stats import kstest

from attunement.core import AttunementError, Context, Outcomes, Samples, Scores, Stop
from attunement.distributions.tabular import Tabular
from attunement.laws import (
    LawError,
    check_distribution,
    check_goodness_of_fit,
    check_scorer,
    check_target,
    goodness_of_fit,
)
from attunement.scorers import NamedScorer, length
from attunement.targets import Target


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def language(prompts=("",), seed=0):
    return Tabular.random(3, 3, generator=seeded(seed), prompts=prompts)


@dataclasses.dataclass(frozen=True)
class Changed:
    """A distribution whose samples or log-probabilities have been tampered with."""

    base: Tabular
    change_samples: object = staticmethod(lambda samples: samples)
    change_log_prob: object = staticmethod(lambda log_prob: log_prob)

    @property
    def outcomes(self):
        return self.base.outcomes

    def sample(self, contexts, n, *, generator):
        return self.change_samples(self.base.sample(contexts, n, generator=generator))

    def log_prob(self, samples):
        return self.change_log_prob(self.base.log_prob(samples))


def replaced(**changes):
    """A change of some fields of samples, each by a function of the samples."""
    return lambda s: dataclasses.replace(s, **{key: make(s) for key, make in changes.items()})


def without_end(samples):
    return samples.mask & (samples.tokens != 0)


def test_the_tabular_language_obeys_the_laws():
    check_distribution(language())
    prompts = ("x", "y")
    check_distribution(language(prompts), [Context("y"), Context("x")], n=200, seed=3)
    check_goodness_of_fit(language(), language().enumerate())
    base = language(prompts)
    for prompt in prompts:
        check_goodness_of_fit(base, base.enumerate([prompt]), seed=1)


SAMPLE_FAULTS = {
    "asked for, 63 came": lambda s: s[:-1],
    "tokens and mask differ in shape": replaced(tokens=lambda s: s.tokens[:, :2]),
    r"log_prob has the shape \(64, 1\), not \(64,\)": replaced(
        log_prob=lambda s: s.log_prob[:, None]
    ),
    r"finished has the shape \(63,\)": replaced(finished=lambda s: s.finished[1:]),
    "next to each other, in order of contexts": replaced(
        context_index=lambda s: s.context_index.flip(0)
    ),
    "log_prob must be summed in float64": replaced(log_prob=lambda s: s.log_prob.float()),
    "must be finite": replaced(log_prob=lambda s: s.log_prob / 0 * 0),
    "a log-probability is above 0": replaced(log_prob=lambda s: -s.log_prob),
    "true on the first tokens and false after": replaced(mask=lambda s: s.mask.flip(1)),
    "other outcomes than the distribution": replaced(outcomes=lambda _: Outcomes(None, Stop(), 3)),
    "the mask must include it": replaced(mask=without_end, log_prob=lambda s: s.log_prob),
    "shorter than the limit": replaced(finished=lambda s: torch.zeros_like(s.finished)),
    "an end token stands inside a completion": replaced(mask=lambda s: torch.ones_like(s.mask)),
    "with an end token isn't finished": replaced(finished=lambda s: s.finished & (s.lengths < 3)),
    r"log-probabilities differ by 0\.01 nats": replaced(log_prob=lambda s: s.log_prob - 0.01),
}


@pytest.mark.parametrize("sentence", SAMPLE_FAULTS)
def test_faulty_samples_are_named(sentence):
    broken = Changed(language(("x", "y")), SAMPLE_FAULTS[sentence])
    with pytest.raises(LawError, match=sentence):
        check_distribution(broken, ["x", "y"], n=32)


LOG_PROB_FAULTS = {
    r"log-probabilities differ by 0\.01 nats, beyond 0\.0001": lambda p: p - 0.01,
    r"log_prob gives the shape \(64, 1\), not \(64,\)": lambda p: p[:, None],
    "log_prob must be summed in float64": lambda p: p.float(),
    "log-probabilities differ by nan": lambda p: p * float("nan"),
}


@pytest.mark.parametrize("sentence", LOG_PROB_FAULTS)
def test_faulty_log_probabilities_are_named(sentence):
    broken = Changed(language(), change_log_prob=LOG_PROB_FAULTS[sentence])
    with pytest.raises(LawError, match=sentence):
        check_distribution(broken)


def test_a_tolerance_is_granted():
    broken = Changed(language(), change_log_prob=lambda p: p - 0.01)
    check_distribution(broken, tolerance=0.02)


def test_a_log_prob_that_depends_on_the_order_is_named():
    class Drifting(Changed):
        def log_prob(self, samples):
            ordered = torch.equal(samples.context_index, samples.context_index.sort().values)
            return self.base.log_prob(samples) - (0.0 if ordered else 0.5)

    with pytest.raises(LawError, match=r"log_prob depends on the order of a batch, by 0.5 nats"):
        check_distribution(Drifting(language(("x", "y"))), ["x", "y"])


def test_a_sampler_that_ignores_its_generator_is_named():
    class Deaf(Changed):
        def sample(self, contexts, n, *, generator):  # noqa: ARG002
            return self.base.sample(contexts, n, generator=seeded(5))

    with pytest.raises(LawError, match="must draw its randomness from the generator"):
        check_distribution(Deaf(language()))


def test_a_sampler_with_a_state_of_its_own_is_named():
    private = seeded(5)

    class Wilful(Changed):
        def sample(self, contexts, n, *, generator):
            torch.rand(1, generator=generator)
            return self.base.sample(contexts, n, generator=private)

    with pytest.raises(LawError, match="the same seed must give the same samples again"):
        check_distribution(Wilful(language()))


def test_a_forbidden_token_is_named():
    class Strict(Changed):
        @property
        def outcomes(self):
            return dataclasses.replace(self.base.outcomes, forbidden=frozenset({2}))

        def sample(self, contexts, n, *, generator):
            drawn = self.base.sample(contexts, n, generator=generator)
            return dataclasses.replace(drawn, outcomes=self.outcomes)

    with pytest.raises(LawError, match="a forbidden token was drawn"):
        check_distribution(Strict(language()))


def test_a_completion_that_is_too_long_is_named():
    class Short(Changed):
        @property
        def outcomes(self):
            return dataclasses.replace(self.base.outcomes, max_new_tokens=2)

        def sample(self, contexts, n, *, generator):
            drawn = self.base.sample(contexts, n, generator=generator)
            return dataclasses.replace(drawn, outcomes=self.outcomes)

    with pytest.raises(LawError, match="a completion is longer than 2 tokens"):
        check_distribution(Short(language()))


def test_a_stop_in_the_text_finishes_without_an_end_token():
    stop = Stop(token=0, strings=("b",))
    outcomes = Outcomes(None, stop, 3)

    class Stopped(Changed):
        outcomes = Outcomes(None, stop, 3)

        def sample(self, contexts, n, *, generator):
            drawn = self.base.sample(contexts, n, generator=generator)
            before = (drawn.tokens == 2).cumsum(1) - (drawn.tokens == 2).long()
            mask = drawn.mask & (before == 0)
            finished = ((drawn.tokens == 2) & mask).any(1) | ((drawn.tokens == 0) & mask).any(1)
            drawn = dataclasses.replace(drawn, mask=mask, finished=finished, outcomes=outcomes)
            log_prob = self.base.log_prob(drawn).detach()
            return dataclasses.replace(drawn, log_prob=log_prob)

    check_distribution(Stopped(language()))


def test_a_sampler_at_another_temperature_does_not_fit():
    base = language()
    warm = Tabular(base.logits.detach() / 1.2, 3)

    class Warm(Changed):
        def sample(self, contexts, n, *, generator):
            return warm.sample(contexts, n, generator=generator)

    with pytest.raises(LawError, match="samples don't follow log_prob"):
        check_goodness_of_fit(Warm(base), base.enumerate())


def test_the_support_must_be_whole_and_of_one_context():
    base = language()
    support = base.enumerate()
    likely = int(support.log_prob.argmax())
    rest = support[torch.arange(len(support)) != likely]
    with pytest.raises(LawError, match=r"probabilities of all outcomes sum to 0\.\d+"):
        check_goodness_of_fit(base, rest)
    halved = Changed(base, change_log_prob=lambda p: p - p.exp().sum().log())
    with pytest.raises(LawError, match="was drawn but isn't among the outcomes"):
        check_goodness_of_fit(halved, rest)
    two = language(("x", "y"))
    with pytest.raises(AttunementError, match="checked for one context, and there are 2"):
        check_goodness_of_fit(two, two.enumerate(["x", "y"]))


@pytest.mark.parametrize("count", [50, 2000])
def test_p_values_of_true_samples_are_uniform(count):
    probabilities = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.005, 0.005])
    generator = seeded()
    levels = []
    for _ in range(400):
        drawn = torch.multinomial(probabilities, count, replacement=True, generator=generator)
        levels.append(goodness_of_fit(drawn.bincount(minlength=8), probabilities))
    assert kstest(levels, "uniform").statistic < 0.12
    assert min(levels) > 1e-5


def test_an_impossible_outcome_settles_it():
    probabilities = torch.tensor([0.5, 0.499, 0.001, 0.0])
    assert goodness_of_fit(torch.tensor([500, 499, 0, 1]), probabilities) == 0.0
    assert goodness_of_fit(torch.tensor([500, 499, 1, 0]), probabilities) > 0.5


def test_a_rare_outcome_does_not_settle_it():
    probabilities = torch.tensor([0.5, 0.49999, 0.00001])
    assert goodness_of_fit(torch.tensor([500, 499, 1]), probabilities) > 0.5


def drawn_samples(n=40):
    return language().sample(None, n, generator=seeded())


def test_lawful_scorers_pass():
    def odd(samples):
        return Scores(samples.lengths.double(), samples.lengths % 2 == 1)

    check_scorer(length, drawn_samples())
    check_scorer(NamedScorer("odd", odd), drawn_samples())
    check_scorer(NamedScorer("rounded", lambda s: s.lengths + 1e-7 * len(s)), drawn_samples())


def alternating():
    calls = []

    def scorer(samples):
        calls.append(1)
        return samples.lengths.double() + len(calls)

    return scorer


SCORER_FAULTS = {
    "says different things twice": alternating(),
    "beside other samples": lambda s: s.lengths - s.lengths.double().mean(),
    "differently beside other": lambda s: torch.arange(len(s)).double(),
    "scores a sample differently": lambda s: Scores(s.lengths.double(), torch.arange(len(s)) < 30),
    r"returned the shape \[40, 1\]": lambda s: s.lengths[:, None],
    "gave nan for sample 0": lambda s: s.lengths * float("nan"),
    "returned a list": lambda s: s.lengths.tolist(),
}


@pytest.mark.parametrize("sentence", SCORER_FAULTS)
def test_faulty_scorers_are_named(sentence):
    with pytest.raises(AttunementError, match=sentence):
        check_scorer(NamedScorer("faulty", SCORER_FAULTS[sentence]), drawn_samples())


def test_a_scorer_needs_a_name():
    with pytest.raises(LawError, match="a scorer needs a name"):
        check_scorer(NamedScorer("", length), drawn_samples())


def test_lawful_targets_pass():
    target = Target(language())
    for lawful in (
        target,
        target.constrain(lambda texts: ["a" in text for text in texts]),
        target.tilt(length, beta=0.5),
    ):
        check_target(lawful, drawn_samples())
        check_target(lawful, drawn_samples(1))


@dataclasses.dataclass(frozen=True)
class Potential:
    base: Tabular
    function: object

    def log_potential(self, samples: Samples):
        return self.function(samples)


TARGET_FAULTS = {
    "must give one number a sample": lambda s: s.log_prob[:, None],
    "must be float64": lambda s: s.log_prob.float(),
    "must be finite or minus infinity": lambda s: s.log_prob / 0 * -1,
    "finite or minus": lambda s: s.log_prob * float("nan"),
    "depends on the batch": lambda s: s.log_prob - s.log_prob.mean(),
}


@pytest.mark.parametrize("sentence", TARGET_FAULTS)
def test_faulty_targets_are_named(sentence):
    with pytest.raises(LawError, match=sentence):
        check_target(Potential(language(), TARGET_FAULTS[sentence]), drawn_samples())
