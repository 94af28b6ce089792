import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binom

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(
            "coverage_contexts", FOLDER / "coverage_contexts.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["coverage_contexts"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_draws_until_accepted_cover_exactly_and_without_bias(table: ModuleType):
    """No simulation: every number of draws, with its probability."""
    for row in table.exact_rows():
        assert row.coverage >= 0.9495, str(row)
        if float(row.what.removeprefix("Z = ")) >= 0.05:
            assert abs(row.bias) < 1e-4, str(row)
        else:  # cut off at the budget: an upper bound of log Z_c
            assert row.bias > 0, str(row)


@pytest.mark.slow
def test_simulated_intervals_hold_the_truth(table: ModuleType):
    count = 200
    least = binom.ppf(1e-5, count, 0.93) / count
    for row in table.rows(count):
        assert row.coverage >= least or row.flagged >= 0.8, str(row)
