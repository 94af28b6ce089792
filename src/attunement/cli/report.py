"""`attune report`: the page of a run, or one that compares several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attunement.cli.options import usage


def report(
    run: Annotated[list[Path], typer.Argument(help="One run, or several to compare.")],
    output: Annotated[
        Path | None, typer.Option(help="The page.", show_default="report.html in the run")
    ] = None,
) -> None:
    """Write one self-contained page about a run, or comparing several."""
    from attunement.report import write_report
    from attunement.runs import REPORT, Run

    with usage():
        runs = [Run.open(folder) for folder in run]
        if output is None and len(runs) > 1:
            raise typer.BadParameter("several runs need --output, e.g. --output compare.html")
    path = runs[0].folder / REPORT if output is None else output
    write_report(runs, path)
    typer.echo(str(path.resolve()))
