"""The commands put together, and what becomes of an error.

What can be known to be wrong from the options alone ends with exit status 2; what fails at work
ends with 1; both print one sentence. `--json` prints what a program reads, on standard output;
progress goes to standard error.
"""

from __future__ import annotations

import os
import sys

import typer

from attunement.cli.doctor import doctor
from attunement.cli.measure import measure
from attunement.cli.report import report
from attunement.cli.reproduce import reproduce
from attunement.cli.sample import sample
from attunement.cli.tune import tune

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Say what you want from a language as a target distribution, move it there, and know "
    "how far away it still is.",
)
for command in (tune, sample, measure, report, reproduce, doctor):
    app.command()(command)

_INTERRUPTED = 130


def main() -> None:
    """The entry point: errors become one sentence and an exit status."""
    # Waiting threads that spin make a shared machine up to 25 times slower; set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Typer turns Ctrl-C into this status, and hands a command's own status back.
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        _leave()
        sys.exit(status)
    except (KeyboardInterrupt, typer.Abort):
        _fail(
            "interrupted; what was written is kept: go on with attune tune --resume, or with the "
            "same attune reproduce",
            1,
        )
    except Exception as error:
        status, sentence = _explain(error)
        if sentence is None:
            raise
        _fail(sentence, status)


def _leave() -> None:
    """Part from the other processes, if a command has joined them."""
    if "attunement.processes" in sys.modules:
        from attunement import processes

        processes.leave()


def _explain(error: Exception) -> tuple[int, str | None]:
    """The exit status and sentence of an error that a user can mend; None for a defect of ours."""
    from attunement.core import AttunementError

    if isinstance(error, typer.TyperException):
        return 2, str(error)
    if isinstance(error, AttunementError):
        return 1, str(error)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return 1, f"{error.strerror or error}{where}; what was written before is kept"
    return 1, None


def _fail(sentence: str, status: int) -> None:
    typer.echo(f"attune: {sentence}", err=True)
    sys.exit(status)
