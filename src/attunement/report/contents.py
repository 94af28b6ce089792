"""What a report knows of a run, as types.

The values are those of the run's files (see `reading`), with the words of the project: factors of
the target, steps and evaluations on the way, samples, and base and policy measured at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from attunement.core import Estimate, Message
from attunement.measuring import MeasuredOn, Measurement

Row = Mapping[str, object]
"""A JSON object."""


class Kind(StrEnum):
    """The kinds of factors of a target."""

    CONSTRAIN = "constrain"
    MATCH = "match"
    MATCH_EACH = "match_each"
    TILT = "tilt"


@dataclass(frozen=True)
class Held:
    """A moment in one of the contexts that it is held in: its λ, and the mean that is reached."""

    lambda_: float
    reached: Estimate


@dataclass(frozen=True)
class Factor:
    """One factor of the target.

    Attributes:
        kind: What it does.
        spec: The feature, as on the command line.
        floor: Of a constraint: the factor of what violates it; None where it is hard.
        mean: Of a match: the mean that was asked for.
        lambda_: Of a match on average over contexts: λ, or None before it is fitted.
        reached: Of a match: the mean under the fitted target, on fresh samples.
        held: Of a match in every context: λ and the mean reached, for each.
        weight: Of a tilt.
        beta: Of a tilt: the temperature.
    """

    kind: Kind
    spec: str
    floor: float | None = None
    mean: float | None = None
    lambda_: float | None = None
    reached: Estimate | None = None
    held: tuple[Held, ...] = ()
    weight: float = 1.0
    beta: float = 1.0

    @property
    def held_within(self) -> int:
        """In how many contexts the interval of what is reached holds the mean asked for."""
        mean = math.nan if self.mean is None else self.mean
        return sum(entry.reached.low <= mean <= entry.reached.high for entry in self.held)


@dataclass(frozen=True)
class Recipe:
    """What was asked.

    Attributes:
        base: The base model.
        start: What the policy started from, or None for the base.
        max_new_tokens: Where completions are cut; None where the recipe leaves it to the model.
        stop: Texts that end a completion.
        stop_preset: The name of a stop function, or None.
        conditional: Whether there are prompts.
        factors: The target's factors: constraints, moments, tilts.
        settings: Of the optimisation, by name.
        versions: Of the software, by name.
        command: What was typed.
        fit_ess: Effective sample size of the weights that λ was solved on; None without a fit.
        fit_khat: Their Pareto k̂; None where there is none.
    """

    base: str
    start: str | None
    max_new_tokens: int | None
    stop: tuple[str, ...]
    stop_preset: str | None
    conditional: bool
    factors: tuple[Factor, ...]
    settings: Row
    versions: Row
    command: str
    fit_ess: float | None = None
    fit_khat: float | None = None


@dataclass(frozen=True)
class Step:
    """One step of the optimisation; the fields are those of `tuning.StepInfo`, NaN for None."""

    step: int
    gradient_norm: float
    learning_rate: float
    satisfied: float
    signal_variance: float
    clipped: bool
    in_batch_partition: int
    empty_contexts: int


@dataclass(frozen=True)
class Evaluation:
    """The estimates after some step, by name."""

    step: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class Shown:
    """A sample to show.

    Attributes:
        when: `before`, `during`, `after` or `target`.
        step: Steps made when it was drawn.
        context: The number of its context in the run.
        prompt: What it goes on from or answers, a text or a conversation; not to be trusted. None
            where the log doesn't say it.
        text: The completion; not to be trusted.
        finished: False where it was cut at `max_new_tokens`.
        allowed: Whether the target gives it any probability.
        log_base: log a(x), in nats.
        log_policy: log π(x), in nats, of the policy at that step.
        features: Feature to value; None where not applicable.
    """

    when: str
    step: int
    context: int
    prompt: str | tuple[Message, ...] | None
    text: str
    finished: bool
    allowed: bool
    log_base: float
    log_policy: float
    features: Mapping[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """How a finished run ended.

    Attributes:
        before: The base, measured.
        after: The delivered policy, measured.
        log_weights: log(p/π) of policy samples that the target allows, in nats.
        khat: Pareto k̂ of those weights; None where there is none.
        measured_on: Which contexts all of this is averaged over.
        on_tuning: Where those are held out: base and policy on the contexts of tuning.
    """

    before: Measurement
    after: Measurement
    log_weights: tuple[float, ...]
    khat: float | None
    measured_on: MeasuredOn
    on_tuning: tuple[Measurement, Measurement] | None = None


@dataclass(frozen=True)
class Reading:
    """Everything that a report knows of one run.

    Attributes:
        name: The folder's name, made unique among the runs of the page.
        recipe: What was asked.
        steps: The steps, in order.
        evaluations: The evaluations, in order.
        samples: The samples to show.
        outcome: The final measurement; None while the run isn't finished.
    """

    name: str
    recipe: Recipe
    steps: tuple[Step, ...]
    evaluations: tuple[Evaluation, ...]
    samples: tuple[Shown, ...]
    outcome: Outcome | None

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the target, in the order of its factors."""
        return tuple(dict.fromkeys(factor.spec for factor in self.recipe.factors))

    @property
    def last_step(self) -> int:
        """Steps made."""
        return max([0, *(s.step for s in self.steps), *(e.step for e in self.evaluations)])

    @property
    def limit(self) -> str:
        """The length limit, to be said beside every rate."""
        tokens = self.recipe.max_new_tokens
        return f"max_new_tokens {'left to the model' if tokens is None else tokens}"

    @property
    def hard_only(self) -> bool:
        """Whether every factor is a hard constraint, so that KL(p‖a) = -log Z."""
        return all(f.kind is Kind.CONSTRAIN and f.floor is None for f in self.recipe.factors)


def target_kl_base(reading: Reading) -> Estimate | None:
    """KL(p‖a), the KL from the base of a policy that has become the target, in nats.

    KL(p‖a) = Σ_i E_p[log factor_i] - log Z. The terms are estimated from the same samples, so their
    half-widths are added: the interval is wide enough whatever their correlation.

    Args:
        reading: A run.

    Returns:
        The estimate, or None while the run isn't finished or where a factor wasn't measured.
    """
    if reading.outcome is None:
        return None
    after = reading.outcome.after
    if len(after.factors) < len(reading.recipe.factors):
        return None
    log_z = after.log_z
    value, low, high, stderr = -log_z.value, -log_z.high, -log_z.low, log_z.stderr
    for contribution in after.factors:
        found = contribution.target
        value, low, high = value + found.value, low + found.low, high + found.high
        if stderr is not None and found.stderr is not None:
            stderr += found.stderr
    return Estimate(value, stderr, low, high, log_z.n, log_z.ess, log_z.khat)
