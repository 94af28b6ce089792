import importlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from attunement.core import AttunementError
from attunement.reproduce import arxiv_2302_08215
from attunement.reproduce.cells import carry_out, cell_path, jobs_here, open_folder
from attunement.reproduce.claims import Figures
from attunement.reproduce.studies import Study

MODULE = """
import os, signal, sys, time
from pathlib import Path
import torch
from attunement.core import AttunementError
from attunement.reproduce.cells import carry_out
from attunement.reproduce.claims import Figures
from attunement.reproduce.studies import Study

def run(condition, seed):
    match condition:
        case "refused":
            raise AttunementError("no such condition")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "endless":
            (Path(__file__).parent / f"{os.getpid()}.pid").touch()
            time.sleep(600)
    return Figures({"threads": torch.get_num_threads(), "process": os.getpid()})

if __name__ == "__main__":
    study = Study("s", 2, ("endless",), run, (), (), {})
    carry_out(study, 0, Path(__file__).parent, print, jobs=2)
"""
"""What is run in other processes must be importable there."""


@pytest.fixture
def of(tmp_path, monkeypatch):
    """A study of some conditions with two seeds, which other processes can run."""
    (tmp_path / "studied.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    run = importlib.import_module("studied").run
    yield lambda *conditions: Study("s", 2, conditions, run, (), (), {})
    del sys.modules["studied"]


@pytest.fixture
def study():
    """Counts its runs, and has one that breaks off."""
    calls = []

    def run(condition, seed):
        calls.append((condition, seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Figures({"x": seed + len(condition), "far": math.inf}, [{"x": math.nan}])

    made = Study("s", 2, ("a", "b/c:1"), run, (), ("x",), {})
    return made, calls


def test_a_finished_cell_is_never_run_again(study, tmp_path):
    made, calls = study
    with pytest.raises(KeyboardInterrupt):
        carry_out(made, 3, tmp_path, print)
    seeds, seconds = carry_out(made, 3, tmp_path, print)
    assert calls == [("a", 3000), ("b/c:1", 3000), ("a", 3001), ("a", 3001), ("b/c:1", 3001)]
    assert [seed["b/c:1"]["x"] for seed in seeds] == [3005, 3006]
    assert seeds[0]["a"]["far"] == math.inf
    assert math.isnan(seeds[0]["a"].path[0]["x"])
    assert carry_out(made, 3, tmp_path, print)[1] == seconds
    assert len(calls) == 5


def test_what_is_missing_is_missed_before_the_first_cell(study, tmp_path):
    made, calls = study

    def prepare():
        raise AttunementError("there is no such model")

    with pytest.raises(AttunementError, match="no such model"):
        carry_out(replace(made, prepare=prepare), 3, tmp_path, print)
    assert calls == []


def test_nothing_is_prepared_for_cells_that_are_there(tmp_path):
    prepared = []
    made = Study("s", 2, ("a",), lambda *_: Figures({"x": 1.0}), (), ("x",), {})
    made = replace(made, prepare=lambda: prepared.append(1))
    for _ in range(2):
        carry_out(made, 0, tmp_path, print)
    assert prepared == [1]


def test_a_cell_lies_in_a_file_of_its_own(tmp_path):
    names = ("a/alpha:0.5", "a/b, 16 samples", "a b", "DPG", "CDPG")
    paths = {cell_path(tmp_path, name, 1) for name in names}
    assert len(paths) == 5
    assert all(path.parent == tmp_path / "cells" for path in paths)


def test_several_processes_find_the_figures_of_one(tiny, tmp_path):
    study = arxiv_2302_08215.quick(tiny)
    study = replace(study, conditions=study.conditions[:4])
    together, _ = carry_out(study, 0, tmp_path / "two", print, jobs=2)
    alone, _ = carry_out(study, 0, tmp_path / "one", print)
    assert together == alone


def test_processes_share_the_threads(of, tmp_path):
    seeds, _ = carry_out(of("a", "b"), 0, tmp_path, print, jobs=2)
    cells = [cell for row in seeds for cell in row.values()]
    assert {cell["threads"] for cell in cells} == {max(1, torch.get_num_threads() // 2)}
    assert os.getpid() not in {cell["process"] for cell in cells}


def test_the_first_error_ends_all(of, tmp_path):
    begun = []
    with pytest.raises(AttunementError, match="no such condition"):
        carry_out(of("a", "refused", "b", "c"), 0, tmp_path, begun.append, jobs=2)
    assert begun[:2] == ["a, seed 1 of 2", "refused, seed 1 of 2"]
    assert len(begun) < 8
    assert cell_path(tmp_path, "a", 0).exists()
    assert not multiprocessing.active_children()


def test_a_killed_process_is_one_sentence(of, tmp_path):
    with pytest.raises(AttunementError, match="fewer --jobs"):
        carry_out(of("a", "killed"), 0, tmp_path, print, jobs=2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.usefixtures("of")
def test_processes_end_with_the_one_that_began_them(how, tmp_path):
    above = subprocess.Popen([sys.executable, tmp_path / "studied.py"], stderr=subprocess.DEVNULL)
    while len(found := list(tmp_path.glob("*.pid"))) < 2:
        assert above.poll() is None
        time.sleep(0.1)
    above.send_signal(how)
    assert above.wait(60) != 0
    deadline = time.monotonic() + 60
    while any(map(_alive, (int(path.stem) for path in found))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_as_many_cells_at_once_as_threads_and_one_on_a_gpu(of):
    study = of("a")
    assert jobs_here(study) == min(torch.get_num_threads(), 4)
    assert jobs_here(replace(study, needs_gpu=True)) == 1


def test_another_question_is_refused_in_a_folder(tmp_path):
    open_folder(tmp_path / "run", {"seed": 0})
    open_folder(tmp_path / "run", {"seed": 0})
    with pytest.raises(AttunementError, match="another reproduction"):
        open_folder(tmp_path / "run", {"seed": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(AttunementError, match="isn't empty"):
        open_folder(tmp_path / "other", {"seed": 0})
