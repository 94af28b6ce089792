import re
from xml.etree import ElementTree

import pytest

from attunement.report.svg import GRID, INK, MUTED, SERIES, new_axes, to_markup


@pytest.fixture
def markup():
    figure, axes = new_axes(3, 2)
    axes.plot([0, 1, 2], [1, 3, 2], color=SERIES[0], marker="o")
    axes.set_xlabel("step")
    return to_markup(figure, "some-key", 'What <it> shows, "plainly"')


def test_it_is_one_labelled_element(markup):
    root = ElementTree.fromstring(markup)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'What <it> shows, "plainly"'
    assert root.find("title").text == root.get("aria-label")
    assert root.get("viewBox")


def test_identifiers_are_its_own_and_all_of_them_used(markup):
    identifiers = re.findall(r'\bid="([^"]+)"', markup)
    used = set(re.findall(r'#([\w-]+)[)"]', markup))
    assert len(identifiers) == len(set(identifiers))
    assert set(identifiers) == used
    assert identifiers
    assert all(name.startswith("some-key-") for name in identifiers)


def test_colours_are_variables_and_nothing_is_fetched_or_dated(markup):
    assert "var(--series-1)" in markup
    assert "var(--muted)" in markup
    assert "var(--rule)" in markup
    assert not any(colour in markup for colour in (INK, MUTED, GRID, *SERIES))
    assert "http" not in markup
    assert "metadata" not in markup
    assert ">step<" in markup


def test_the_same_drawing_has_the_same_bytes():
    def draw():
        figure, axes = new_axes(3, 2)
        axes.fill_between([0, 1], [0, 1], [1, 2], color=SERIES[1])
        return to_markup(figure, "k", "d")

    assert draw() == draw()
