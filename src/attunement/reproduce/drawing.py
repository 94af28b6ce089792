"""Claims as a picture: where each interval lies, beside the side on which it had to lie.

A claim is a row with a scale of its own, for claims have different units. The shaded part is the
claimed side of δ; the line is the 95 % interval over seeds, the dot its mean. An identity is a
number and has no scale. The picture is one SVG of a few shapes that follows a dark page by itself,
so that a page of documents shows it as it does a page of HTML; text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from attunement.reproduce.claims import Judged, Side, Verdict, shown

WIDTH, ROW = 760, 62
"""Of the picture, and the height of a claim, in pixels."""
_LEFT, _RIGHT = 10, 750
_MARGIN = 0.08
_MARKS = {Verdict.HOLDS: "yes", Verdict.FAILS: "no", Verdict.UNDECIDED: "open"}
_STYLE = (
    ".claims text{font:13px system-ui,sans-serif;fill:#1c2127}"
    ".claims .small{font-size:11px;fill:#5d6670}"
    ".claims .side{fill:#d9ebe9}.claims .axis{stroke:#b9b5ac}.claims .bound{stroke:#5d6670}"
    ".claims .yes{stroke:#1a7f4b;fill:#1a7f4b}.claims .no{stroke:#b4322b;fill:#b4322b}"
    ".claims .open{stroke:#8a5a00;fill:#8a5a00}"
    "@media(prefers-color-scheme:dark){.claims text{fill:#e6e4df}.claims .small{fill:#a5adb5}"
    ".claims .side{fill:#1d3b39}.claims .axis{stroke:#555}.claims .bound{stroke:#a5adb5}"
    ".claims .yes{stroke:#5cc48d;fill:#5cc48d}.claims .no{stroke:#ef8079;fill:#ef8079}"
    ".claims .open{stroke:#e2b64f;fill:#e2b64f}}"
)


def draw_claims(claims: Sequence[Judged]) -> Markup:
    """The picture, as one `<svg>` element that may also be a file.

    Args:
        claims: Claims with their verdicts.
    """
    rows = Markup("").join(_row(claim, ROW * number) for number, claim in enumerate(claims))
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="claims" role="img" '
        'viewBox="0 0 {width} {height}"><title>{title}</title><style>{style}</style>{rows}</svg>'
    ).format(
        width=WIDTH,
        height=ROW * len(claims),
        title="Each claim's interval over seeds and the side on which it had to lie",
        style=Markup(_STYLE),
        rows=rows,
    )


def _row(claim: Judged, top: int) -> Markup:
    verdict = claim.verdict
    parts = [
        Markup('<text x="{x}" y="{y}">{sentence}</text>').format(
            x=_LEFT, y=top + 16, sentence=f"{claim.claim}: {verdict.value}"
        ),
        *_strip(claim, top + 36),
        Markup('<text class="small" x="{x}" y="{y}">{words}</text>').format(
            x=_LEFT,
            y=top + 54,
            words=f"{claim.quantity}: {shown(claim.difference)}, to be {claim.side.value} "
            f"{claim.smallest_effect:.3g}",
        ),
    ]
    return Markup("").join(parts)


def _strip(claim: Judged, middle: int) -> Iterator[Markup]:
    """The scale of a claim, where it has one: an identity or what isn't finite has none."""
    estimate, effect = claim.difference, claim.smallest_effect
    if estimate.stderr is None or not math.isfinite(estimate.low + estimate.high):
        return
    bounds = [-effect, effect] if claim.side is Side.WITHIN else [effect]
    ends = [estimate.low, estimate.high, 0.0, *bounds]
    spare = _MARGIN * (max(ends) - min(ends) or 1.0)
    low, high = min(ends) - spare, max(ends) + spare

    def x(value: float) -> str:
        return f"{_LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low):.1f}"

    def line(kind: str, first: str, second: str, half: int) -> Markup:
        return Markup(
            '<line class="{}" stroke-width="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        ).format(kind, 1 if half else 3, first, second, middle - half, middle + half)

    sides = {
        Side.ABOVE: (effect, high),
        Side.BELOW: (low, effect),
        Side.WITHIN: (-effect, effect),
    }
    start, end = map(x, sides[claim.side])
    yield Markup('<rect class="side" x="{}" y="{}" width="{:.1f}" height="16"/>').format(
        start, middle - 8, float(end) - float(start)
    )
    for value in bounds:
        yield line("bound", x(value), x(value), 8)
    yield line("axis", x(0.0), x(0.0), 4)
    mark = _MARKS[claim.verdict]
    yield line(mark, x(estimate.low), x(estimate.high), 0)
    yield Markup('<circle class="{}" cx="{}" cy="{}" r="4.5"/>').format(
        mark, x(estimate.value), middle
    )


def as_file(claims: Sequence[Judged]) -> str:
    """The picture as the text of an SVG file."""
    return f"{draw_claims(claims)}\n"
