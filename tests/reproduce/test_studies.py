import math
from dataclasses import replace

import pytest

from attunement.core import AttunementError
from attunement.reproduce.claims import Figures
from attunement.reproduce.studies import Study, carry_out, cell_path, open_folder


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


def test_another_question_is_refused_in_a_folder(tmp_path):
    open_folder(tmp_path / "run", {"seed": 0})
    open_folder(tmp_path / "run", {"seed": 0})
    with pytest.raises(AttunementError, match="another reproduction"):
        open_folder(tmp_path / "run", {"seed": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(AttunementError, match="isn't empty"):
        open_folder(tmp_path / "other", {"seed": 0})
