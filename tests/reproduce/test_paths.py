from hypothesis import given
from hypothesis import strategies as st

from attunement.reproduce.paths import at_level


@given(st.floats(0.01, 0.99))
def test_on_a_straight_way_the_cost_is_that_of_the_level(level):
    path = [{"share": n / 10, "cost": n} for n in range(11)]
    assert abs(at_level(path, "share", level, "cost") - 10 * level) < 1e-9
    falling = [{"share": 1 - n / 10, "cost": n} for n in range(11)]
    assert abs(at_level(falling, "share", level, "cost") - 10 * (1 - level)) < 1e-9


def test_the_first_crossing_counts():
    path = [{"x": x, "cost": n} for n, x in enumerate([0.0, 1.0, 0.0, 2.0])]
    assert at_level(path, "x", 0.5, "cost") == 0.5


def test_a_level_that_is_never_reached_has_cost_all():
    path = [{"x": 0.0, "cost": 0.0}, {"x": 0.5, "cost": 9.0}]
    assert at_level(path, "x", 0.9, "cost") == 9.0
