import math

import pytest

from attunement.conditional import ACCEPTED, BUDGET, ContextRow
from attunement.core import Estimate
from attunement.estimators import log_partition_of_draws
from attunement.measuring import MeasuredOn
from attunement.report import write_report
from attunement.report.by_context import MOST_CONTEXTS, context_table
from attunement.report.plots import partitions
from attunement.report.reading import read_run

RATE = {"compiles": Estimate(0.25, 0.1, 0.1, 0.5, 32, 32.0)}


def row(prompt: str, draws: int, accepted: int = ACCEPTED) -> ContextRow:
    found = log_partition_of_draws(draws, accepted, ACCEPTED)
    return ContextRow(prompt, found, accepted, draws, RATE, RATE)


ROWS = (row("def f(x):", 16), row("def g(x):", BUDGET, 3), row("def h(x):", 40))


def test_the_hardest_context_comes_first_and_a_bound_is_said_to_be_one(write_run):
    table = context_table(read_run(write_run(contexts=ROWS, measured_on=MeasuredOn.HELD_OUT)))
    assert table.columns == ("Z_c", "compiles, base", "compiles, policy")
    (group,) = table.groups
    assert group.heading == "Held-out contexts, the hardest first"
    assert [line.name for line in group.lines] == ["def g(x):", "def h(x):", "def f(x):"]
    assert [line.meaning for line in group.lines][:2] == ["3 of 512 draws", "8 of 40 draws"]
    bound, known = (line.cells[0] for line in group.lines[:2])
    assert bound.note.startswith("at most")
    assert known.note == ""
    assert float(known.value) == pytest.approx(math.exp(ROWS[2].log_z.value), abs=1e-3)
    assert known.interval.startswith("[")
    assert {line.cells[1].value for line in group.lines} == {"0.250"}


def test_a_context_of_which_nothing_is_known_says_so(write_run):
    unknown = Estimate(math.nan, None, -math.inf, math.inf, 64, 0.0)
    table = context_table(
        read_run(write_run(contexts=(*ROWS, ContextRow("x", unknown, None, 64, {}, {}))))
    )
    first = table.groups[0].lines[0]
    assert (first.name, first.cells[0].value, first.meaning) == ("x", "n/a", "64 samples")


def test_one_context_has_no_table_and_no_histogram(write_run):
    reading = read_run(write_run())
    assert context_table(reading) is None
    assert partitions([reading]) is None


def test_bounds_are_counted_beside_the_histogram(write_run):
    plot = partitions([read_run(write_run(contexts=ROWS))])
    assert "3 contexts, of which 1 stand at an upper bound" in plot.note


def test_many_contexts_stay_a_short_table_and_prompts_are_escaped(write_run, tmp_path):
    many = [row(f"def f{index}(x):", 16) for index in range(MOST_CONTEXTS + 40)]
    hostile = row("<script>alert(1)</script>\x1b", 500)
    path = tmp_path / "page.html"
    write_report([write_run(contexts=(*many, hostile))], path)
    page = path.read_text()
    assert "41 more in measurement.json" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\u241b" in page
    assert page.count("8 of 16 draws") == MOST_CONTEXTS - 1
    assert len(page) < 600_000
