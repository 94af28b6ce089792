"""One self-contained HTML page for a reproduction, in the style of the reports on runs."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from attunement import report
from attunement.reproduce.claims import Verdict, shown
from attunement.reproduce.drawing import draw_claims
from attunement.reproduce.results import Result

_MARKS = {Verdict.HOLDS: "yes", Verdict.FAILS: "no", Verdict.UNDECIDED: "plain"}


def write_page(result: Result, path: Path) -> None:
    """Write the page, as the report of a run is written.

    Args:
        result: What it is about.
        path: The file; it is replaced at once.
    """
    report.write_page(render(result), path)


def render(result: Result) -> str:
    """The page as text; it shares the style sheet of `report`."""
    rooms = {room: PackageLoader("attunement", room) for room in ("report", "reproduce")}
    loader = PrefixLoader(rooms)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = loader.get_source(environment, "report/page.css")[0]
    return environment.get_template("reproduce/page.html.jinja").render(
        result=result,
        picture=draw_claims(result.claims),
        marks=_MARKS,
        shown=shown,
        style=Markup(style),
    )
