"""What a person sees in the terminal: progress with time left, and tables of estimates.

Everything here goes to standard error but the tables that were asked for, so that what a program
reads stays clean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from attunement import processes
from attunement.contributions import Contribution
from attunement.core import Estimate
from attunement.jobs import SILENT, Callbacks
from attunement.measuring import Measurement
from attunement.tuning import Evaluation, StepInfo


@contextmanager
def show_progress(max_steps: int) -> Iterator[Callbacks]:
    """Callbacks that draw a bar with the current estimates, or plain lines where no one looks.

    Of several processes only the main one draws.

    Args:
        max_steps: Steps of the whole run.
    """
    if not processes.is_main():
        yield SILENT
        return
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=max_steps)

        def on_stage(sentence: str) -> None:
            progress.update(task, description=sentence)
            console.print(sentence, style="dim")

        def on_step(info: StepInfo) -> None:
            description = f"satisfied {info.satisfied:.2f}"
            progress.update(task, completed=info.step, description=description)

        def on_evaluation(evaluation: Evaluation) -> None:
            figures = "   ".join(f"{name} {e}" for name, e in evaluation.estimates.items())
            console.print(f"step {evaluation.step:>4}   {figures}")

        yield Callbacks(on_stage, on_step, on_evaluation)


def print_measurement(measured: Measurement, before: Measurement | None = None) -> None:
    """A table of features, one of factors, one of distances, and every warning."""
    table = Table(f"{measured.n} samples", "base", "policy", "target")
    sides = ("base", "policy", "target")
    rates = (measured.base, measured.policy, measured.target)
    for name in measured.policy:
        table.add_row(name, *(_cell(column.get(name)) for column in rates))
    statistics = [measured.diversity.get(side, {}) for side in sides]
    for name in statistics[1]:
        table.add_row(name, *(_cell(column.get(name)) for column in statistics))
    _print(table)
    if measured.factors:
        _print(_factor_table(measured.factors))
    columns = {"now": measured} if before is None else {"before": before, "after": measured}
    distances = Table("nats", *columns)
    for name in measured.divergences:
        distances.add_row(name, *(_cell(m.divergences.get(name)) for m in columns.values()))
    distances.add_row("log_z", *(_cell(m.log_z) for m in columns.values()))
    _print(distances)
    for text in measured.warnings:
        Console(highlight=False, soft_wrap=True).print(f"warning: {text}", style="yellow")


def _factor_table(factors: Sequence[Contribution]) -> Table:
    """E[log factor] of each factor; the share that it forbids where that is minus infinity."""
    table = Table("log factor, nats", "base", "policy", "target")
    for does in factors:
        name = f"{does.factor['kind']} {does.factor['scorer']}"
        if does.forbids_base is None:
            table.add_row(name, str(does.base), str(does.policy), str(does.target))
        else:
            shares = (does.forbids_base, does.forbids_policy)
            table.add_row(name, *(f"forbids {_cell(share)}" for share in shares), "0")
    return table


def _print(table: Table) -> None:
    Console(highlight=False).print(table)


def _cell(estimate: Estimate | None) -> str:
    return "" if estimate is None else str(estimate)
