"""Figures as SVG elements that can stand inside an HTML page.

Matplotlib draws; what it writes is then made fit for a page with many figures: identifiers are
unique, unused ones and metadata are gone, text stays text, and colours are CSS variables, so that
a figure follows the page into dark mode and onto paper. A figure says what it shows to a screen
reader (`role="img"`, `aria-label`, `<title>`). The bytes depend on nothing but the data.

No text that comes from a run is ever drawn: names stand in the HTML around a figure, so a `$` or a
rare character in them can't break it.
"""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID = "#0a0a01", "#0a0a02", "#0a0a03"
"""Stand-ins for the page's colours; no other drawing uses them."""
SERIES = tuple(f"#0a0b{number:02x}" for number in range(1, 9))
"""Stand-ins for the colours of runs; they come round after eight."""
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)), (0, (6, 1.4, 1.2, 1.4)))
"""Line styles of runs, so that colour is never alone in telling them apart."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
"""Marks of runs."""

_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "rule"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "attunement",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.useoffset": False,
}
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure in the page's style with one pair of axes; sizes in inches.

    The margins are fixed, which costs half the time of measuring the labels first.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        left, bottom, right, top = 0.62 / width, 0.47 / height, 0.12 / width, 0.2 / height
        axes = figure.add_axes((left, bottom, 1 - left - right, 1 - bottom - top))
        axes.locator_params(nbins=6)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def to_markup(figure: Figure, key: str, description: str) -> Markup:
    """The figure as one `<svg>` element.

    Args:
        figure: What `new_axes` made.
        key: A name that no other figure of the page has; letters, digits and hyphens.
        description: What the figure shows, for those who can't see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    root = ElementTree.fromstring(text[text.index("<svg") :])
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    _rename_identifiers(root, key)
    _without_namespaces(root)
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.attrib |= {"role": "img", "aria-label": description}
    title = ElementTree.Element("title")
    title.text = description
    root.insert(0, title)
    return Markup(_with_variables(ElementTree.tostring(root, encoding="unicode")))


def _rename_identifiers(root: ElementTree.Element, key: str) -> None:
    """Give what is referred to a name of this figure's own, and drop all other names."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text))
    names = {name for pair in used for name in pair if name}
    order = [e.get("id") for e in root.iter() if e.get("id") in names]
    new = {old: f"{key}-{number}" for number, old in enumerate(dict.fromkeys(order))}
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in new:
            element.set("id", new[old])
        for attribute, value in element.attrib.items():
            for name in re.findall(r"#([\w-]+)", value):
                if name in new:
                    element.set(attribute, value.replace(f"#{name}", f"#{new[name]}"))


def _without_namespaces(root: ElementTree.Element) -> None:
    """HTML puts an `<svg>` element into its namespace by itself."""
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))


def _with_variables(text: str) -> str:
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
