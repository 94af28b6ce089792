"""`attune reproduce`: whether a paper's claims hold here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attunement.cli.options import Json, Threads, begin, print_json, usage

if TYPE_CHECKING:
    from attunement.reproduce.results import Result

_CONTRADICTED = 3


def reproduce(
    paper: Annotated[
        str | None, typer.Argument(help="The arXiv number; without it, the papers are listed.")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(help="quick (two minutes), embedded (an hour) or paper (needs a GPU)."),
    ] = "quick",
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where cells, result and page go.",
            show_default="runs/reproduce-PAPER-SCALE-SEED",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which seeds.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Cells at once, each in a process of its own.",
            show_default="one a thread, at most 4; 1 on a GPU",
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run the claims of a paper and say of each whether it holds.

    The status is 0 where no claim is contradicted, 3 where some claim does not hold. The same
    command goes on with what was interrupted: a finished cell is not run again.
    """
    from attunement.reproduce.papers import find_paper
    from attunement.reproduce.papers import reproduce as run
    from attunement.runs import REPORT

    begin(threads)
    if paper is None:
        _list(as_json)
        return
    with usage():
        wanted, at = find_paper(paper), _scale(scale)
    folder = output_dir or Path("runs") / f"reproduce-{paper}-{at.value}-{seed}"

    def on_cell(sentence: str) -> None:
        typer.echo(sentence, err=True)

    result = run(wanted, at, folder, seed=seed, on_cell=on_cell, jobs=jobs)
    report = (folder / REPORT).resolve()
    if as_json:
        print_json(result.to_json() | {"report": str(report)})
    else:
        _print(result)
        typer.echo(f"report: {report}")
    if result.contradicted:
        raise typer.Exit(_CONTRADICTED)


def _scale(name: str):
    from attunement.core import AttunementError
    from attunement.reproduce.studies import Scale

    try:
        return Scale(name)
    except ValueError as error:
        known = ", ".join(scale.value for scale in Scale)
        raise AttunementError(f"there is no scale {name!r}; there are {known}") from error


def _list(as_json: bool) -> None:
    from attunement.reproduce.papers import PAPERS

    rows = [
        {"paper": p.number, "title": p.title, "scales": [s.value for s in p.studies]}
        for p in PAPERS
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        scales = ", ".join(row["scales"]) or "not yet"
        typer.echo(f"{row['paper']}  {scales:<24} {row['title']}")


def _print(result: Result) -> None:
    typer.echo(f"arXiv {result.paper}, {result.title}")
    typer.echo(result.summary)
    for claim in result.claims:
        typer.echo(f"- {claim.sentence}")
    typer.echo(f"{result.tally}; {result.extent}")
