"""The cells of a study, one after the other or several at once, each in a process of its own.

A *cell* is one run of one condition with one seed. Its figures are written as JSON once it is
finished, at once, and a finished cell is never run again: a reproduction that was killed goes on
where it was. The folder holds what was asked (`recipe.json`); another question is refused there.

A cell's figures depend on nothing but its condition and its seed, so the order and the processes
in which cells are run change none of them.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from attunement import runs
from attunement.core import AttunementError
from attunement.reproduce.claims import Figures, Replication, Row
from attunement.reproduce.studies import Study
from attunement.runs import Run

SEEDS_APART = 1000
"""Seeds of one reproduction follow each other; those of the next begin so much later."""
MOST_JOBS = 4
"""More cells at once than this many are run only if asked for: each takes its own memory."""


class Cell(NamedTuple):
    """A finished cell: what came out, and how long it took."""

    figures: Figures
    seconds: float


class _Missing(NamedTuple):
    """A cell that is to be run."""

    condition: str
    seed: int
    path: Path


def jobs_here(study: Study) -> int:
    """How many cells at once suit this machine: one a thread, and one where a GPU is shared."""
    return 1 if study.needs_gpu else min(torch.get_num_threads(), MOST_JOBS)


def carry_out(
    study: Study, seed: int, folder: Path, on_cell: Callable[[str], None], jobs: int = 1
) -> tuple[list[Replication], float]:
    """Run every cell that isn't in the folder yet.

    Args:
        study: What to run.
        seed: Which seeds: `study.seeds` of them, from `SEEDS_APART` times this one on.
        folder: Where finished cells lie.
        on_cell: Told of every cell as it begins.
        jobs: So many cells at once, which share the threads; more than one are run in processes
            of their own.

    Returns:
        The figures of every seed, and the seconds that all cells took.

    Raises:
        AttunementError: A model or a context that the cells need isn't there, or a process that
            ran a cell was killed.
    """
    seeds = range(seed * SEEDS_APART, seed * SEEDS_APART + study.seeds)
    missing = [
        _Missing(condition, number, path)
        for number in seeds
        for condition in study.conditions
        if not (path := cell_path(folder, condition, number)).exists()
    ]
    if missing:
        study.prepare()
        (folder / "cells").mkdir(parents=True, exist_ok=True)

    def announced() -> Iterator[_Missing]:
        for cell in missing:
            number = cell.seed - seeds.start + 1
            on_cell(f"{cell.condition}, seed {number} of {study.seeds}")
            yield cell

    if (jobs := min(jobs, len(missing))) > 1:
        _run_all(study.run, announced(), jobs)
    else:
        for cell in announced():
            _run(study.run, cell)
    found = [
        {name: _read(cell_path(folder, name, number)) for name in study.conditions}
        for number in seeds
    ]
    replications: list[Replication] = [
        {name: cell.figures for name, cell in row.items()} for row in found
    ]
    return replications, math.fsum(cell.seconds for row in found for cell in row.values())


def open_folder(folder: Path, recipe: Mapping[str, object]) -> None:
    """Begin in a vacant folder, or go on in one with the same recipe.

    Raises:
        AttunementError: It holds something else.
    """
    if (folder / runs.RECIPE).is_file():
        if Run.open(folder).recipe != recipe:
            raise AttunementError(
                f"{folder} holds another reproduction, or one with other settings: choose another "
                "--output-dir"
            )
        return
    Run.create(folder, recipe)


def cell_path(folder: Path, condition: str, seed: int) -> Path:
    """Where a cell's figures lie."""
    return folder / "cells" / f"{re.sub(r'[^a-z0-9_.]+', '-', condition.lower())}-{seed}.json"


def _run(run: Callable[[str, int], Figures], cell: _Missing) -> None:
    """Run a cell and write what came out."""
    started = time.perf_counter()
    figures = run(cell.condition, cell.seed)
    _write(cell.path, Cell(figures, time.perf_counter() - started))


def _run_all(run: Callable[[str, int], Figures], cells: Iterator[_Missing], jobs: int) -> None:
    """Run cells in processes, the next as soon as one of them is free; the first error ends it."""
    threads = max(1, torch.get_num_threads() // jobs)
    spawned = multiprocessing.get_context("spawn")
    running: set[Future[None]] = set()
    with ProcessPoolExecutor(jobs, spawned, _begin_process, (threads,)) as pool:
        try:
            for cell in cells:
                running.add(pool.submit(_run, run, cell))
                if len(running) == jobs:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    _require_done(done)
            _require_done(wait(running).done)
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BrokenProcessPool as error:
            raise AttunementError(
                "a process that ran a cell was killed, perhaps for want of memory: the same "
                "command with fewer --jobs goes on with what is left"
            ) from error


def _require_done(futures: set[Future[None]]) -> None:
    for future in futures:
        future.result()


def _begin_process(threads: int) -> None:
    """Take a share of the threads, die at once of an interrupt, and with the process above."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _write(path: Path, cell: Cell) -> None:
    figures = cell.figures
    content = {
        "figures": _strict(figures.last),
        "path": [_strict(row) for row in figures.path],
        "seconds": cell.seconds,
    }
    runs.write_json(path, content)


def _read(path: Path) -> Cell:
    content = cast(dict[str, Any], runs.read_json(path))
    figures = Figures(_row(content["figures"]), [_row(row) for row in content["path"]])
    return Cell(figures, content["seconds"])


def _strict(row: Row) -> dict[str, float | str]:
    """JSON has no infinity; the strings are what `float` reads."""
    return {name: x if math.isfinite(x) else str(x) for name, x in row.items()}


def _row(entries: Mapping[str, float | str]) -> Row:
    return {name: float(entry) for name, entry in entries.items()}
