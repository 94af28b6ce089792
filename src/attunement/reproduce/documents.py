"""The tables of `docs/papers`, written from the results that lie beside the pages.

A page says what was claimed, what was run and what differs from the paper; what came out stands
between two markers,

    <!-- result: 2106.04985 quick -->
    <!-- end of result -->

and is written by this module from `results/2106.04985-quick.json`, with the picture of its claims
in `figures`, so that text and figures can't differ. `make papers` writes all of them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from attunement.reproduce.claims import Judged, shown
from attunement.reproduce.drawing import as_file
from attunement.reproduce.results import Result
from attunement.runs import read_json

FIGURES = "figures"
"""The folder of the pictures."""

_BLOCK = re.compile(r"(<!-- result: (\S+) (\S+) -->\n).*?(<!-- end of result -->)", re.DOTALL)


def filled(text: str, results: Path) -> str:
    """A page with what stands between its markers written anew.

    Args:
        text: The page.
        results: The folder of results.
    """

    def block(match: re.Match[str]) -> str:
        path = results / f"{match[2]}-{match[3]}.json"
        inside = (
            as_markdown(Result.from_json(read_json(path)))
            if path.exists()
            else f"The scale {match[3]} has not been run yet.\n"
        )
        return f"{match[1]}\n{inside}\n{match[4]}"

    return _BLOCK.sub(block, text)


def as_markdown(result: Result) -> str:
    """What came out, as a sentence and two tables."""
    claims = "".join(_claim_row(claim) for claim in result.claims)
    head = "".join(f" {column} |" for column in result.columns)
    rows = "".join(
        f"| {condition} |" + "".join(f" {row.get(c, '')} |" for c in result.columns) + "\n"
        for condition, row in result.table.items()
    )
    return (
        f"{result.summary} {result.extent}: {result.tally}.\n\n"
        f"![The claims' intervals]({FIGURES}/{picture_of(result)})\n\n"
        "| claim | measured, with 95 % interval over seeds | to be | verdict |\n|---|---|---|---|\n"
        f"{claims}\n| mean over seeds |{head}\n|---|{'---|' * len(result.columns)}\n{rows}"
    )


def picture_of(result: Result) -> str:
    """The file name of the picture of a result's claims."""
    return f"{result.paper}-{result.scale.value}.svg"


def _claim_row(claim: Judged) -> str:
    bound = f"{claim.side.value} {claim.smallest_effect:.3g}"
    measured = f"{claim.quantity}: {shown(claim.difference)}"
    verdict = f"**{claim.verdict.value}** ({claim.decided_by})"
    return f"| {claim.claim} | {measured} | {bound} | {verdict} |\n"


def write_documents(folder: Path) -> None:
    """Write the tables of every page of a folder anew, and the pictures of all results."""
    for path in sorted((folder / "results").glob("*.json")):
        result = Result.from_json(read_json(path))
        picture = folder / FIGURES / picture_of(result)
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(as_file(result.claims), encoding="utf-8")
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text, folder / "results"), encoding="utf-8")


if __name__ == "__main__":
    write_documents(Path(sys.argv[1]))
