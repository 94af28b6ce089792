"""What a report draws: curves with 95 % bands, the weights' histogram, and the plane.

The plane is what the project is about in one picture: how much of what was asked for is there,
against how far the policy moved from the base, KL(π‖a). The target stands where that distance is
KL(p‖a) = E_p[log-potential] - log Z, the least that any distribution with the target's moments can
have (arXiv 2012.11635); for a hard constraint it is -log Z.

Infinite values aren't drawn: the line has a gap there and the page says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from attunement.core import Estimate
from attunement.report.svg import DASHES, INK, MARKERS, MUTED, SERIES, new_axes, to_markup

MOST_POINTS = 400
"""Points of a curve; a longer series is drawn as means of blocks with their range."""


@dataclass(frozen=True)
class Curve:
    """A series of one run.

    Attributes:
        run: The run's position on the page, from 0: it decides colour, dash and mark.
        x: [N] steps.
        y: [N] values; infinite or NaN ones are left out.
        low: [N] lower ends of the band.
        high: [N] upper ends of the band.
    """

    run: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def is_drawable(self) -> bool:
        """Whether there is a finite value in it."""
        return any(math.isfinite(value) for value in self.y)


@dataclass(frozen=True)
class Level:
    """A horizontal line that a curve is to be held against."""

    run: int
    value: float


@dataclass(frozen=True)
class Place:
    """A run on the plane.

    Attributes:
        run: The run's position on the page.
        path: KL(π‖a) and feature at every evaluation.
        base: The feature under the base.
        policy_kl: KL(π‖a).
        policy: The feature under the policy.
        target_kl: KL(p‖a), or None where it isn't known.
        target: The feature under the target.
        free_energy: -log Z.
    """

    run: int
    path: tuple[tuple[float, float], ...]
    base: Estimate
    policy_kl: Estimate
    policy: Estimate
    target_kl: Estimate | None
    target: Estimate
    free_energy: float


def draw_curves(
    key: str,
    description: str,
    curves: Sequence[Curve],
    levels: Sequence[Level] = (),
    *,
    logarithmic: bool = False,
) -> Markup:
    """Curves against the step, each with its band.

    Args:
        key: A name that no other figure of the page has.
        description: What it shows, in words.
        curves: One for each run.
        levels: Horizontal lines for comparison.
        logarithmic: Whether the vertical axis is; then only positive values are drawn.
    """
    figure, axes = new_axes(3.7, 2.15)
    if logarithmic and any(value > 0 for curve in curves for value in curve.y):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0), numticks=6))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for level in levels:
        if math.isfinite(level.value):
            axes.axhline(level.value, color=_colour(level.run), linewidth=0.9, linestyle=":")
    for curve in curves:
        _draw_curve(axes, _thinned(curve))
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    if not any(curve.is_drawable for curve in curves):
        _say(axes, "no finite value")
    return to_markup(figure, key, description)


def draw_histogram(
    key: str,
    description: str,
    series: Sequence[tuple[int, Sequence[float]]],
    across: str,
    upwards: str,
) -> Markup:
    """Histogram of a number of nats for each run, with a line at 0.

    Args:
        key: A name that no other figure of the page has.
        description: What it shows, in words.
        series: A run's position on the page and its [N] numbers, in nats.
        across: What they are.
        upwards: What there are shares of.
    """
    figure, axes = new_axes(6.6, 2.7)
    finite = [(run, [v for v in values if math.isfinite(v)]) for run, values in series]
    everything = [value for _, values in finite for value in values]
    if everything:
        edges = _edges(everything)
        for run, values in (pair for pair in finite if pair[1]):
            share = [1 / len(values)] * len(values)
            axes.hist(values, edges, weights=share, color=_colour(run), alpha=0.22)
            axes.hist(
                values,
                edges,
                weights=share,
                histtype="step",
                color=_colour(run),
                linewidth=1.2,
                linestyle=DASHES[run % len(DASHES)],
            )
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=":")
    else:
        _say(axes, "no finite value")
    axes.set_xlabel(f"{across}, nats")
    axes.set_ylabel(f"share of {upwards}")
    return to_markup(figure, key, description)


def draw_plane(key: str, description: str, places: Sequence[Place]) -> Markup:
    """Feature against KL(π‖a) with intervals in both directions.

    Args:
        key: A name that no other figure of the page has.
        description: What it shows, in words.
        places: One for each run.
    """
    figure, axes = new_axes(6.8, 3.9)
    for place in places:
        colour = _colour(place.run)
        path = [p for p in place.path if all(math.isfinite(v) for v in p)]
        axes.plot(
            [x for x, _ in path],
            [y for _, y in path],
            color=colour,
            alpha=0.45,
            linewidth=1.1,
            marker=".",
            markersize=3,
            linestyle=DASHES[place.run % len(DASHES)],
        )
        axes.axvline(place.free_energy, color=colour, linewidth=0.9, linestyle=":")
        _draw_point(axes, 0.0, None, place.base, INK, "o", hollow=True)
        mark = MARKERS[place.run % len(MARKERS)]
        _draw_point(axes, place.policy_kl.value, place.policy_kl, place.policy, colour, mark)
        if place.target_kl is not None:
            _draw_point(axes, place.target_kl.value, place.target_kl, place.target, colour, "*")
        if len(places) > 1 and math.isfinite(place.policy_kl.value):
            axes.annotate(
                str(place.run + 1),
                (place.policy_kl.value, place.policy.value),
                xytext=(6, -11),
                textcoords="offset points",
                color=colour,
                weight="bold",
            )
    axes.set_xlabel("KL(π‖a) from the base, nats")
    axes.set_ylabel("mean of the feature")
    axes.margins(0.06)
    return to_markup(figure, key, description)


def _draw_point(
    axes: Axes,
    x: float,
    across: Estimate | None,
    up: Estimate,
    colour: str,
    mark: str,
    *,
    hollow: bool = False,
) -> None:
    if not (math.isfinite(x) and math.isfinite(up.value)):
        return
    axes.errorbar(
        x,
        up.value,
        xerr=None if across is None else _reach(across),
        yerr=_reach(up),
        color=colour,
        marker=mark,
        markersize=11 if mark == "*" else 7,
        capsize=2.5,
        elinewidth=1.1,
        markerfacecolor="none" if hollow else colour,
        zorder=5,
    )


def _reach(estimate: Estimate) -> list[list[float]] | None:
    """[2, 1] distances to the ends of the interval, or None where it isn't finite."""
    ends = [estimate.value - estimate.low, estimate.high - estimate.value]
    return [[max(0.0, end)] for end in ends] if all(map(math.isfinite, ends)) else None


def _draw_curve(axes: Axes, curve: Curve) -> None:
    colour = _colour(curve.run)
    y = np.where(np.isfinite(curve.y), curve.y, np.nan)
    if curve.low:
        low = np.where(np.isfinite(curve.low), curve.low, np.nan)
        high = np.where(np.isfinite(curve.high), curve.high, np.nan)
        axes.fill_between(np.array(curve.x), low, high, color=colour, alpha=0.2, linewidth=0)
    marker = MARKERS[curve.run % len(MARKERS)] if len(curve.x) <= 30 else ""
    axes.plot(
        np.array(curve.x),
        y,
        color=colour,
        marker=marker,
        markersize=3.2,
        linestyle=DASHES[curve.run % len(DASHES)],
    )


def _thinned(curve: Curve) -> Curve:
    """A long series as means of blocks of steps, its band the range within each block."""
    if len(curve.x) <= MOST_POINTS or curve.low:
        return curve
    blocks = np.array_split(np.arange(len(curve.x)), MOST_POINTS)
    x, y = np.array(curve.x), np.array(curve.y)
    return Curve(
        curve.run,
        x=tuple(float(x[rows].mean()) for rows in blocks),
        y=tuple(float(y[rows].mean()) for rows in blocks),
        low=tuple(float(y[rows].min()) for rows in blocks),
        high=tuple(float(y[rows].max()) for rows in blocks),
    )


def _edges(values: Sequence[float]) -> list[float]:
    """Edges of 8 to 60 bins, their width after Freedman and Diaconis (1981)."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        return np.linspace(low - 0.5, high + 0.5, 12).tolist()
    first, third = np.quantile(values, [0.25, 0.75])
    width = max(2 * (third - first) / len(values) ** (1 / 3), (high - low) / 60)
    return np.linspace(low, high, max(8, math.ceil((high - low) / width)) + 1).tolist()


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def _colour(run: int) -> str:
    return SERIES[run % len(SERIES)]
