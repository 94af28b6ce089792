import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binom

FOLDER = Path(__file__).parents[2] / "benchmarks"
REPETITIONS = 150
TARGETS = ("hard", "tilt", "match", "conditional")


@pytest.fixture(scope="module")
def grid() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("coverage_grid", FOLDER / "coverage.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["coverage_grid"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("proposal", ["base", "policy", "mixture"])
def test_regular_intervals_hold_the_truth(grid: ModuleType, target: str, proposal: str):
    least = binom.ppf(1e-5, REPETITIONS, 0.92) / REPETITIONS
    for cell in grid.cells(grid.problem(target), proposal, 2000, REPETITIONS):
        if cell.kind == "infinite":
            assert cell.coverage == 1.0
        elif cell.kind == "regular":
            assert cell.coverage >= least, str(cell)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_at_the_target_intervals_hold_the_truth(grid: ModuleType, target: str):
    least = binom.ppf(1e-5, 60, 0.93) / 60
    for cell in grid.cells(grid.problem(target, "boundary"), "mixture", 2000, 60):
        assert cell.coverage >= least, str(cell)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_collapsed_policy_is_right_or_flagged(grid: ModuleType, target: str):
    for cell in grid.cells(grid.problem(target, "collapsed"), "policy", 2000, 20):
        if cell.coverage < 0.75:
            assert cell.flagged >= 0.8, str(cell)
