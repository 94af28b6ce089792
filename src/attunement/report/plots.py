"""Which figures a page has, with their titles and what a reader should know beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from attunement.evidence import KHAT_LIMIT
from attunement.report.contents import Reading, Step, target_kl_base
from attunement.report.figures import (
    Curve,
    Level,
    Place,
    draw_curves,
    draw_histogram,
    draw_plane,
)
from attunement.report.svg import DASHES, SERIES
from attunement.report.words import MEANINGS, number

_STEP_CURVES: tuple[tuple[str, str, str, bool, Callable[[Step], float]], ...] = (
    (
        "satisfied",
        "samples that the target allows",
        "share of each step's samples; {limit}",
        False,
        lambda step: step.satisfied,
    ),
    (
        "gradient-norm",
        "gradient norm",
        "before clipping, which {clipped} steps saw; logarithmic",
        True,
        lambda step: step.gradient_norm,
    ),
    ("learning-rate", "learning rate", "as scheduled", False, lambda step: step.learning_rate),
    (
        "signal-variance",
        "variance of the signal",
        "of w·A over a step; logarithmic",
        True,
        lambda step: step.signal_variance,
    ),
)


@dataclass(frozen=True)
class Plot:
    """A figure with its words.

    Attributes:
        title: What it shows.
        formula: The quantity as a formula; nothing where the title says it all.
        note: What to know when reading it.
        svg: The drawing.
    """

    title: str
    formula: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class Swatch:
    """How a run is told from the others: number, name, colour and dashes."""

    number: int
    name: str
    colour: int
    dashes: str


def swatches(readings: Sequence[Reading]) -> tuple[Swatch, ...]:
    """The legend, which stands in the HTML because names are untrusted text."""
    found = []
    for index, reading in enumerate(readings):
        dash = DASHES[index % len(DASHES)]
        pattern = "" if isinstance(dash, str) else " ".join(f"{2 * part:g}" for part in dash[1])
        found.append(Swatch(index + 1, reading.name, index % len(SERIES) + 1, pattern))
    return tuple(found)


def estimate_plots(readings: Sequence[Reading]) -> tuple[Plot, ...]:
    """A curve for every estimate that any run has, features first."""
    features = dict.fromkeys(name for reading in readings for name in reading.features)
    known = dict.fromkeys(name for r in readings for e in r.evaluations for name in e.estimates)
    order = [name for name in features if name in known]
    order += [name for name in known if name not in features]
    return tuple(_estimate_plot(readings, name, at) for at, name in enumerate(order))


def training_plots(readings: Sequence[Reading]) -> tuple[Plot, ...]:
    """Curves of what every step says of itself."""
    if not any(reading.steps for reading in readings):
        return ()
    plots = []
    for key, title, note, logarithmic, value in _STEP_CURVES:
        curves = [
            Curve(
                run,
                x=tuple(float(step.step) for step in reading.steps),
                y=tuple(value(step) for step in reading.steps),
            )
            for run, reading in enumerate(readings)
            if reading.steps
        ]
        svg = draw_curves(f"step-{key}", f"{title} at every step", curves, logarithmic=logarithmic)
        words = note.format(limit=_limits(readings), clipped=_clipped(readings))
        plots.append(Plot(title, "", words, svg))
    return tuple(plots)


def _clipped(readings: Sequence[Reading]) -> str:
    """In how many steps the gradient was clipped, run by run."""
    return ", ".join(
        f"{sum(step.clipped for step in reading.steps)} of {len(reading.steps)}"
        for reading in readings
    )


def weights(readings: Sequence[Reading]) -> Plot | None:
    """The histogram of log p/π; None where no run is finished."""
    finished = [(i, r.outcome) for i, r in enumerate(readings) if r.outcome is not None]
    if not finished:
        return None
    khats = []
    for index, outcome in finished:
        of = f"{readings[index].name}: " if len(readings) > 1 else ""
        khat = "n/a (bounded, or too few weights)"
        if outcome.khat is not None:
            trust = f"at most {KHAT_LIMIT}, the weights can be used"
            if outcome.khat > KHAT_LIMIT:
                trust = f"above {KHAT_LIMIT}, not to be trusted"
            khat = f"{outcome.khat:.2f} ({trust})".replace("-", "−")
        khats.append(f"{of}k̂ = {khat}, n = {len(outcome.log_weights)}")
    svg = draw_histogram(
        "weights",
        f"Histogram of the log-weights log p/π of policy samples. {'; '.join(khats)}",
        [(index, outcome.log_weights) for index, outcome in finished],
        "log p(x) − log π(x)",
        "samples",
    )
    note = "; ".join(khats) + ". A policy that is the target has all of them at 0."
    title = "Weights of the policy's samples that the target allows"
    return Plot(title, "log p(x)/π(x)", note, svg)


def partitions(readings: Sequence[Reading]) -> Plot | None:
    """The histogram of log Z_c over contexts; None where no run has several."""
    found = [
        (index, reading.outcome.after.contexts)
        for index, reading in enumerate(readings)
        if reading.outcome is not None and reading.outcome.after.contexts
    ]
    if not found:
        return None
    notes = []
    for index, rows in found:
        of = f"{readings[index].name}: " if len(readings) > 1 else ""
        bounds = sum(row.log_z.stderr is None for row in rows)
        known = f", of which {bounds} stand at an upper bound" if bounds else ""
        notes.append(f"{of}{len(rows)} contexts{known}")
    svg = draw_histogram(
        "partitions",
        f"Histogram of log Z of each context. {'; '.join(notes)}",
        [(index, [row.log_z.value for row in rows]) for index, rows in found],
        "log Z_c",
        "contexts",
    )
    note = "; ".join(notes) + ". For a hard constraint Z_c is the share of the base that meets it."
    return Plot("Partition functions of the contexts", "log Z_c", note, svg)


def plane(readings: Sequence[Reading]) -> Plot | None:
    """Runs on the plane of the first run's first feature; None where none can be placed."""
    feature = readings[0].features[0] if readings[0].features else ""
    places = {i: _place(i, reading, feature) for i, reading in enumerate(readings)}
    placed = [place for place in places.values() if place is not None]
    if not placed:
        return None
    missing = [readings[i].name for i, place in places.items() if place is None]
    description = "; ".join(
        f"{readings[p.run].name}: {feature} {number(p.policy.value)} at KL(π‖a) "
        f"{number(p.policy_kl.value)} nats, base {number(p.base.value)}, "
        f"target {number(p.target.value)}"
        for p in placed
    )
    note = (
        f"Upwards: mean of {feature} ({_limits(readings)}). Hollow circle: base, at 0. "
        "Filled mark: delivered policy. Star: target, at KL(p‖a). Dotted line: −log Z. "
        "Thin line: the way there, by evaluations. Bars: 95 % intervals in both directions."
    )
    if missing:
        note += f" Not on the plane (not finished, or without this feature): {', '.join(missing)}."
    title = f"{feature} against distance from the base"
    return Plot(title, "", note, draw_plane("plane", description, placed))


def _place(run: int, reading: Reading, feature: str) -> Place | None:
    if reading.outcome is None:
        return None
    after = reading.outcome.after
    if not all(feature in table for table in (after.base, after.policy, after.target)):
        return None
    path = tuple(
        (e.estimates["kl_policy_base"].value, e.estimates[feature].value)
        for e in reading.evaluations
        if "kl_policy_base" in e.estimates and feature in e.estimates
    )
    return Place(
        run=run,
        path=path,
        base=after.base[feature],
        policy_kl=after.divergences["kl_policy_base"],
        policy=after.policy[feature],
        target_kl=target_kl_base(reading),
        target=after.target[feature],
        free_energy=-after.log_z.value,
    )


def _estimate_plot(readings: Sequence[Reading], name: str, at: int) -> Plot:
    curves, levels, gaps = [], [], []
    for run, reading in enumerate(readings):
        rows = [(e.step, e.estimates[name]) for e in reading.evaluations if name in e.estimates]
        if not rows:
            continue
        curves.append(
            Curve(
                run,
                x=tuple(float(step) for step, _ in rows),
                y=tuple(e.value for _, e in rows),
                low=tuple(e.low for _, e in rows),
                high=tuple(e.high for _, e in rows),
            )
        )
        level = _level(reading, name)
        levels += [] if level is None else [Level(run, level)]
        gaps += [step for step, e in rows if not math.isfinite(e.value)]
    is_feature = name not in MEANINGS or any(name in reading.features for reading in readings)
    formula, meaning = ("", "") if is_feature else MEANINGS[name]
    note = f"mean over completions; {_limits(readings)}" if is_feature else meaning
    if levels:
        note += "; dotted: at the target"
    if gaps:
        where = ", ".join(map(str, gaps[:8])) + (" …" if len(gaps) > 8 else "")
        note += f"; infinite or not estimated at step {where}"
    description = f"{name} with its 95 % band at every evaluation"
    return Plot(name, formula, note, draw_curves(f"estimate-{at}", description, curves, levels))


def _level(reading: Reading, name: str) -> float | None:
    """What the quantity is at the target: asked for, or estimated."""
    asked = [f.mean for f in reading.recipe.factors if f.spec == name and f.mean is not None]
    if asked:
        return asked[0]
    if name == "kl_policy_base":
        found = target_kl_base(reading)
        return None if found is None else found.value
    if reading.outcome is None or name not in reading.outcome.after.target:
        return None
    return reading.outcome.after.target[name].value


def _limits(readings: Sequence[Reading]) -> str:
    return " / ".join(dict.fromkeys(reading.limit for reading in readings))
