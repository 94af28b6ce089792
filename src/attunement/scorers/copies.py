"""A run's own copies of the files that its scorers read, each known by its hash.

    scorers/a1b2c3d4e5f6_mine.py
    scorers/0123456789ab_terms.tsv

With them a run can be gone on with, measured and repeated where the user's files have gone or have
changed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from attunement import processes
from attunement.core import AttunementError, Scorer
from attunement.scorers.files import FileScorer
from attunement.scorers.specs import parse_scorer

FOLDER = "scorers"
"""Where in a run's folder the copies lie."""
_SHOWN_DIGITS = 12


def file_hashes(scorers: Iterable[Scorer]) -> dict[str, str]:
    """SHA-256 of the file of each scorer that reads one, by SPEC."""
    return {s.name: _digest(s.path) for s in scorers if isinstance(s, FileScorer)}


def copy_files(scorers: Iterable[Scorer], run: Path) -> None:
    """Copy the file of each scorer that reads one into a run's folder; the main process does."""
    for scorer in scorers if processes.is_main() else ():
        if isinstance(scorer, FileScorer):
            (run / FOLDER).mkdir(exist_ok=True)
            beginning = _beginning(_digest(scorer.path))
            name = scorer.path.name.removeprefix(beginning)  # where it is another run's copy
            shutil.copyfile(scorer.path, run / FOLDER / f"{beginning}{name}")


def scorers_of(run: Path, hashes: Mapping[str, str]) -> Callable[[str], Scorer]:
    """From SPEC to scorer, files being read from the copies in a run's folder.

    Args:
        run: The run's folder.
        hashes: What `file_hashes` said when the copies were made.

    Returns:
        A function like `parse_scorer`; it raises an AttunementError also where a copy is gone or
        has changed.
    """

    def scorer_of(spec: str) -> Scorer:
        if spec not in hashes:
            return parse_scorer(spec)
        found = sorted((run / FOLDER).glob(f"{_beginning(hashes[spec])}*"))
        if not found or _digest(found[0]) != hashes[spec]:
            state = "has changed" if found else "is gone"
            raise AttunementError(
                f"the copy of the file that {spec} reads {state}: put the file with the SHA-256 "
                f"{hashes[spec]} into {run / FOLDER} as {_beginning(hashes[spec])}NAME"
            )
        return parse_scorer(spec, found[0])

    return scorer_of


def _beginning(digest: str) -> str:
    return f"{digest[:_SHOWN_DIGITS]}_"


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
