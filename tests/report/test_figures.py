import math
import re

import pytest

from attunement.core import Estimate
from attunement.report.figures import (
    MOST_POINTS,
    Curve,
    Level,
    Place,
    draw_curves,
    draw_histogram,
    draw_plane,
)


def points_drawn(svg, colour):
    """Points of the longest line in a colour."""
    lines = re.findall(rf'<path d="([^"]+)"[^>]*stroke: var\(--{colour}\)', svg)
    return max((len(re.findall(r"[ML] ", line)) for line in lines), default=0)


def test_a_gap_is_left_where_a_value_is_infinite():
    x = tuple(map(float, range(7)))
    whole = (1.0, 3.0, 2.0, 4.0, 3.0, 5.0, 4.0)
    broken = (*whole[:3], math.inf, *whole[4:])
    svg = draw_curves("k", "d", [Curve(0, x, broken, broken, broken)])
    line = max(
        re.findall(r'<path d="(M[^"]+)"[^>]*fill: none; stroke: var\(--series-1\)', svg), key=len
    )
    assert line.count("M ") == 2
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_curve_without_a_finite_value_says_so():
    svg = draw_curves("k", "d", [Curve(0, (0.0,), (math.nan,), (math.nan,), (math.nan,))])
    assert ">no finite value<" in svg


def test_a_long_series_is_thinned_and_keeps_its_range():
    x = tuple(map(float, range(20_000)))
    y = tuple(float((-1) ** int(v)) * v for v in x)
    svg = draw_curves("k", "d", [Curve(0, x, y)], [Level(0, 3.0)])
    assert points_drawn(svg, "series-1") <= MOST_POINTS
    assert len(svg) < 100_000
    assert "var(--series-1)" in svg


@pytest.mark.parametrize("values", [(), (0.5,), (1.0, 1.0), (math.inf,), (0.0, 1e9, 1e-3)])
def test_a_histogram_of_anything(values):
    svg = draw_histogram("k", "d", [(0, values)], "log w", "samples")
    finite = [value for value in values if math.isfinite(value)]
    assert (">no finite value<" in svg) == (not finite)


def test_a_logarithmic_axis_survives_zeros():
    assert "<svg" in draw_curves("k", "d", [Curve(0, (1.0, 2.0), (0.0, 0.0))], logarithmic=True)


def test_the_plane_shows_base_policy_and_target_with_bars():
    sound = Estimate(0.5, 0.1, 0.3, 0.7, 100, 100.0)
    infinite = Estimate(math.inf, None, math.inf, math.inf, 100, 100.0)
    place = Place(0, ((0.0, 0.4), (math.inf, 0.5)), sound, sound, sound, sound, sound, 0.86)
    with_target = draw_plane("k", "d", [place])
    without = draw_plane("k", "d", [Place(0, (), sound, sound, sound, None, sound, 0.86)])
    lost = draw_plane("k", "d", [Place(0, (), sound, infinite, sound, None, sound, 0.86)])
    assert with_target.count("<use") > without.count("<use") > lost.count("<use")
