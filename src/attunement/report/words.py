"""What a report says in words and formulas: what was asked, how it ended, what not to trust.

A warning stands where a figure's error bar can't be believed: what the measurement itself said,
k̂ above 0.7 (Vehtari et al. 2024), too few effective samples, an infinite value, a moment that
wasn't reached, and what went on in training that biases or starves it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attunement.core import Estimate
from attunement.estimators import LEAST_ESS
from attunement.evidence import KHAT_LIMIT
from attunement.measuring import Measurement
from attunement.report.contents import Factor, Kind, Reading, Shown

MEANINGS = {
    "forward_kl": ("KL(p‖π)", "the distance left; large where the policy misses part of it"),
    "reverse_kl": ("KL(π‖p)", "infinite once the policy can produce what is forbidden"),
    "reverse_kl_allowed": ("KL(π(·|P>0)‖p)", "the same for the part of the policy that is allowed"),
    "jensen_shannon": ("JS(π, p)", "between 0 and log 2 = 0.693"),
    "total_variation": ("TV(π, p)", "between 0 and 1; no unit"),
    "kl_policy_base": ("KL(π‖a)", "how far the policy has moved from the base"),
    "log_z": ("log Z", "the log of the target's partition function"),
    "forbidden": ("π(P = 0)", "share of the policy's completions that the target forbids"),
    "distinct_1": ("distinct-1", "different tokens per token, in sets of completions"),
    "distinct_2": ("distinct-2", "different pairs of tokens per pair, in sets of completions"),
    "self_bleu": ("self-BLEU", "how alike completions are; lower is more diverse"),
    "length": ("length", "tokens in a completion, the end token included"),
}
"""Estimate to its formula and what it means."""


@dataclass(frozen=True)
class Term:
    """One term of log P(x), to be set as a formula over a caption.

    Attributes:
        formula: The term.
        caption: What it is, in a few words.
        sentence: What was asked for by it, in a sentence.
    """

    formula: str
    caption: str
    sentence: str


def number(value: float, like: float | None = None) -> str:
    """A value with three decimals or four significant figures, with a typographic minus.

    Args:
        value: What to write.
        like: Another value whose size decides the decimals, as for the ends of an interval.
    """
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value if like is None or not math.isfinite(like) else like)
    if 1e-12 < size < 5e-4:
        text = f"{value:.1e}"
    else:
        decimals = 3 if size < 10 else 2 if size < 100 else 1
        text = f"{0.0 if abs(value) <= 1e-12 else value:.{decimals}f}"
    return text.replace("-", "−")


def interval(estimate: Estimate) -> str:
    """The 95 % interval, or nothing where there is none."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    return f"[{number(estimate.low, estimate.value)}, {number(estimate.high, estimate.value)}]"


def with_interval(estimate: Estimate) -> str:
    """The value and its 95 % interval in one line."""
    return f"{number(estimate.value)} {interval(estimate)}".rstrip()


def terms(reading: Reading) -> tuple[Term, ...]:
    """log P(x) term by term: the base first, then every factor."""
    argument = "x | c" if reading.recipe.conditional else "x"
    base = Term(
        f"log a({argument})",
        f"the base, {reading.recipe.base}",
        f"Start from {reading.recipe.base} and change it no more than is needed.",
    )
    return (base, *(_term(factor, argument) for factor in reading.recipe.factors))


def _term(factor: Factor, argument: str) -> Term:
    feature = f"{factor.spec}({argument})"
    if factor.kind is Kind.CONSTRAIN:
        return _constraint(factor, feature)
    if factor.kind is Kind.TILT:
        weight, beta = number(factor.weight), f"{factor.beta:g}"
        verb = "Favour" if factor.weight > 0 else "Hold down"
        return Term(
            f"{factor.weight:g} · {feature} / {beta}".replace("-", "−"),
            f"tilt, weight {weight}, β = {beta}",
            f"{verb} {factor.spec}: a reward of {weight} for each unit at temperature β = {beta}.",
        )
    if factor.kind is Kind.MATCH_EACH:
        return _held_in_each(factor, feature)
    mean = number(math.nan if factor.mean is None else factor.mean)
    sentence = f"Let {factor.spec} have the mean {mean}."
    if factor.reached is not None:
        sentence += f" The fitted target has {with_interval(factor.reached)} on fresh samples."
    if factor.lambda_ is None:
        return Term(f"λ · {feature}", f"match, mean {mean}; λ isn't fitted yet", sentence)
    return Term(
        f"{factor.lambda_:.4g} · {feature}".replace("-", "−"),
        f"match, mean {mean}; λ = {number(factor.lambda_)}",
        sentence,
    )


def _held_in_each(factor: Factor, feature: str) -> Term:
    mean = number(math.nan if factor.mean is None else factor.mean)
    sentence = f"Let {factor.spec} have the mean {mean} in every context."
    if not factor.held:
        caption = f"match in every context, mean {mean}; λ isn't fitted yet"
        return Term(f"λ(c) · {feature}", caption, sentence)
    lambdas = [entry.lambda_ for entry in factor.held]
    furthest = max(
        (entry.reached for entry in factor.held),
        key=lambda reached: abs(reached.value - (factor.mean or 0.0)),
    )
    return Term(
        f"λ(c) · {feature}",
        f"match in every context, mean {mean}; λ from {number(min(lambdas))} to "
        f"{number(max(lambdas))}",
        f"{sentence} On fresh samples the interval of what the fitted target has holds it in "
        f"{factor.held_within} of {len(factor.held)} contexts; the furthest off is "
        f"{with_interval(furthest)}.",
    )


def parameters(factor: Factor) -> str:
    """A factor's kind and parameters in a few words."""
    mean = number(math.nan if factor.mean is None else factor.mean)
    match factor.kind:
        case Kind.CONSTRAIN:
            return f"constraint, {'hard' if factor.floor is None else f'floor {factor.floor:g}'}"
        case Kind.TILT:
            return f"tilt, weight {number(factor.weight)}, β = {factor.beta:g}"
        case Kind.MATCH:
            found = "not fitted" if factor.lambda_ is None else number(factor.lambda_)
            return f"match, mean {mean}, λ = {found}"
        case Kind.MATCH_EACH:
            lambdas = [entry.lambda_ for entry in factor.held]
            span = f"λ from {number(min(lambdas))} to {number(max(lambdas))}" if lambdas else ""
            return f"match in each of {len(lambdas)} contexts, mean {mean}, {span}"


def _constraint(factor: Factor, feature: str) -> Term:
    if factor.floor is None:
        return Term(
            f"log 1[{feature} = 1]",
            "constraint, hard: −∞ where violated",
            f"Every completion must satisfy {factor.spec}; what doesn't is forbidden.",
        )
    return Term(
        f"log {factor.floor:g} · 1[{feature} = 0]",
        f"constraint with floor {factor.floor:g}: {number(math.log(factor.floor))} where violated",
        f"Completions should satisfy {factor.spec}; one that doesn't keeps {factor.floor:g} of its "
        "weight. The floor is part of the target, and all distances are to that target.",
    )


def how_moved(settings: Mapping[str, object]) -> str:
    """By what the policy was moved, as the end of a sentence about it."""
    divergence = settings.get("divergence", "its divergence")
    match settings.get("objective"):
        case "reward":
            return "was moved up the plain reward of these factors, without regard to the base"
        case "trajectory_balance":
            return f"was moved towards it by the trajectory balance of {divergence}"
        case _:
            return f"was moved towards it by the gradient of {divergence}"


def verdict(reading: Reading) -> str:
    """How it ended, in two sentences."""
    planned = reading.recipe.settings.get("max_steps")
    if reading.outcome is None:
        of = "" if planned is None else f" of {planned}"
        return (
            f"This run is not finished: {reading.last_step}{of} steps are made and there is no "
            "final measurement yet. The page shows what there is."
        )
    after = reading.outcome.after
    sentences = []
    for name in reading.features[:1]:
        found = [
            (where, table[name])
            for where, table in (("the base", after.base), ("the target", after.target))
            if name in table
        ]
        if name in after.policy:
            beside = ", ".join(f"{number(e.value)} for {where}" for where, e in found)
            sentences.append(
                f"{name} is {with_interval(after.policy[name])} for the policy"
                f"{f' ({beside}; {reading.limit})' if beside else ''}."
            )
    distance = after.divergences.get("forward_kl")
    first = reading.outcome.before.divergences.get("forward_kl")
    if distance is not None and first is not None:
        start = reading.recipe.start
        sentences.append(
            f"The distance left, KL(p‖π), is {with_interval(distance)} nats after "
            f"{reading.last_step} steps of training{f' from {start}' if start else ''}; for the "
            f"base it is {number(first.value)}."
        )
    return " ".join(sentences)


def satisfies(reading: Reading, sample: Shown) -> bool | None:
    """Whether a sample has what was asked for, or None where that is no yes or no.

    With constraints: whether all of them hold. Else by the first feature, if it is 0 or 1.
    """
    constrained = [f.spec for f in reading.recipe.factors if f.kind is Kind.CONSTRAIN]
    if constrained:
        return sample.allowed and all(
            sample.features.get(name) in (None, 1.0) for name in constrained
        )
    value = sample.features.get(reading.features[0]) if reading.features else None
    return None if value not in (0.0, 1.0) else value == 1.0


def doubt(estimate: Estimate) -> str | None:
    """Why an estimate's interval isn't to be trusted, or None."""
    if math.isinf(estimate.value):
        return "is infinite: there is no interval"
    if math.isnan(estimate.value):
        return "could not be estimated"
    if estimate.khat is not None and estimate.khat > KHAT_LIMIT:
        return (
            f"has k̂ = {estimate.khat:.2f} > {KHAT_LIMIT}: the weights' tail is too heavy for its "
            "interval to be trusted"
        )
    if estimate.ess < LEAST_ESS:
        return f"rests on {estimate.ess:.1f} effective samples: its interval is not to be trusted"
    return None


def warnings(reading: Reading) -> tuple[str, ...]:
    """Everything to know before trusting the run's figures, in sentences; no line twice."""
    return tuple(dict.fromkeys(_warnings(reading)))


def _warnings(reading: Reading) -> Iterator[str]:
    if reading.recipe.max_new_tokens is None:
        yield (
            "The recipe doesn't say max_new_tokens; rates depend on it, so compare them only with "
            "runs of the same model."
        )
    for factor in reading.recipe.factors:
        reached = factor.reached
        if factor.mean is not None and reached is not None:
            if not reached.low <= factor.mean <= reached.high:
                yield (
                    f"The target was asked for {factor.spec} = {number(factor.mean)} and has "
                    f"{with_interval(reached)}: fit λ on more samples."
                )
            if (reason := doubt(reached)) is not None:
                yield f"The reached moment {factor.spec} {reason}."
        doubtful = [entry for entry in factor.held if doubt(entry.reached) is not None]
        if doubtful:
            yield (
                f"In {len(doubtful)} of {len(factor.held)} contexts the reached moment "
                f"{factor.spec} isn't to be trusted; in the first it {doubt(doubtful[0].reached)}."
            )
    yield from _fit_warnings(reading)
    yield from _training_warnings(reading)
    if reading.outcome is None:
        yield from _doubts(
            "Last evaluation", reading.evaluations[-1].estimates if reading.evaluations else {}
        )
        return
    yield from _measured_warnings("Base", reading.outcome.before)
    yield from _measured_warnings("Policy", reading.outcome.after)
    khat = reading.outcome.khat
    if khat is not None and khat > KHAT_LIMIT:
        yield (
            f"The weights p/π have k̂ = {khat:.2f} > {KHAT_LIMIT}: the policy covers the target's "
            "tail too thinly to correct it by importance weights."
        )


def _fit_warnings(reading: Reading) -> Iterator[str]:
    ess, khat = reading.recipe.fit_ess, reading.recipe.fit_khat
    mend = "fit it on more samples, or start from a policy tuned towards this target (--policy)"
    if ess is not None and ess < LEAST_ESS:
        yield f"λ rests on {ess:.1f} effective samples: {mend}."
    if khat is not None and khat > KHAT_LIMIT:
        yield f"λ was solved on weights with k̂ = {khat:.2f} > {KHAT_LIMIT}: {mend}."


def _training_warnings(reading: Reading) -> Iterator[str]:
    steps = reading.steps
    if (biased := sum(step.in_batch_partition > 0 for step in steps)) > 0:
        yield (
            f"In {biased} of {len(steps)} steps Z of some context was known from the same batch "
            "only, which biases those steps."
        )
    if (empty := sum(step.empty_contexts > 0 for step in steps)) > 0:
        yield (
            f"In {empty} of {len(steps)} steps some context had no sample that satisfies the "
            "constraint; it added nothing to the gradient."
        )
    doubtful: dict[str, list[int]] = {}
    for evaluation in reading.evaluations:
        for name, estimate in evaluation.estimates.items():
            if doubt(estimate) is not None:
                doubtful.setdefault(name, []).append(evaluation.step)
    for name, at in doubtful.items():
        where = ", ".join(map(str, at[:8])) + (" …" if len(at) > 8 else "")
        yield f"On the way, {name} isn't to be trusted at {len(at)} evaluations (step {where})."


def _measured_warnings(who: str, measured: Measurement) -> Iterator[str]:
    yield from (f"{who}: {_sentence(text)}" for text in measured.warnings)
    estimates = {**measured.divergences, "log_z": measured.log_z, "forbidden": measured.forbidden}
    estimates |= {f"{name} under the target": e for name, e in measured.target.items()}
    estimates |= {
        f"{name} of the {owner}": estimate
        for owner, table in measured.diversity.items()
        for name, estimate in table.items()
    }
    told = {text.partition(":")[0] for text in measured.warnings}
    yield from _doubts(who, {name: e for name, e in estimates.items() if name not in told})


def _doubts(who: str, estimates: Mapping[str, Estimate]) -> Iterator[str]:
    for name, estimate in estimates.items():
        if (reason := doubt(estimate)) is not None:
            yield f"{who}: {name} {reason}."


def comparison_warnings(readings: Sequence[Reading]) -> tuple[str, ...]:
    """What makes runs hard to compare."""
    found = []
    if len({reading.recipe.max_new_tokens for reading in readings}) > 1:
        found.append(
            "The runs differ in max_new_tokens: their rates and distances are of "
            "different languages and not to be compared."
        )
    if len({reading.recipe.base for reading in readings}) > 1:
        found.append("The runs have different bases: KL(π‖a) is from a different place in each.")
    if (
        len(
            {
                tuple(
                    (f.kind, f.spec, f.floor, f.mean, f.weight, f.beta)
                    for f in reading.recipe.factors
                )
                for reading in readings
            }
        )
        > 1
    ):
        found.append("The runs have different targets: distances to them are to different places.")
    return tuple(found)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
