import math

from attunement.core import Estimate
from attunement.recipes import TargetSettings
from attunement.report.reading import read_run, read_runs
from attunement.report.tables import (
    FACTOR_COLUMNS,
    NOTHING,
    ZERO,
    cell,
    comparison_table,
    factor_table,
    run_table,
)


def lines_of(groups):
    return {line.name: line for group in groups for line in group.lines}


def test_a_run_has_a_line_for_everything_that_was_measured(write_run):
    lines = lines_of(run_table(read_run(write_run())))
    assert set(lines) == {
        "compiles",
        "forward_kl",
        "reverse_kl",
        "reverse_kl_allowed",
        "jensen_shannon",
        "total_variation",
        "kl_policy_base",
        "log_z",
        "forbidden",
        "distinct_1",
        "distinct_2",
        "self_bleu",
        "length",
    }
    assert [c.value for c in lines["compiles"].cells] == ["0.420", "0.930", "1.000"]
    assert [c.value for c in lines["forward_kl"].cells] == ["0.860", "0.210", "0"]
    assert [c.value for c in lines["kl_policy_base"].cells] == ["0", "0.940", "0.862"]
    assert "−log Z" in lines["kl_policy_base"].cells[2].note
    assert lines["kl_policy_base"].cells[0] == ZERO
    assert all("max_new_tokens 64" in lines[n].meaning for n in ("compiles", "forbidden", "length"))


def test_every_factor_has_a_line_of_what_it_does_by_itself(write_run):
    target = TargetSettings(constrain=("compiles",), match={"length": 30.0}, tilt={"pep8": -1})
    target = target.model_copy(update={"beta": 2.0})
    lines = lines_of(factor_table(read_run(write_run("all", target))))
    assert [c.value for c in lines["compiles"].cells] == ["−∞", "−∞", "0", "0.580", "0.069"]
    assert lines["compiles"].cells[0].doubt is None
    assert lines["compiles"].meaning == "constraint, hard"
    assert [c.value for c in lines["pep8"].cells[:3]] == ["−0.200", "−0.250", "−0.250"]
    assert lines["length"].cells[3:] == (NOTHING, NOTHING)
    assert all(len(line.cells) == len(FACTOR_COLUMNS) for line in lines.values())
    assert factor_table(read_run(write_run("unfinished", finished=False))) == ()


def test_what_is_absent_is_a_dash(write_run, edit):
    run = write_run()
    edit(
        run.folder / "measurement.json", lambda content: content["after"]["diversity"].pop("target")
    )
    assert lines_of(run_table(read_run(run)))["distinct_1"].cells[2] == NOTHING


def test_an_unfinished_run_has_no_table(write_run):
    assert run_table(read_run(write_run(finished=False))) == ()


def test_a_column_for_each_run_and_dashes_for_an_unfinished_one(write_run):
    soft = TargetSettings(constrain=("compiles",), floor=0.01)
    runs = [write_run("a"), write_run("b", soft), write_run("c", finished=False)]
    lines = lines_of(comparison_table(read_runs(runs)))
    assert {len(line.cells) for line in lines.values()} == {3}
    assert all(line.cells[2] == NOTHING for line in lines.values())
    assert [c.value for c in lines["kl_target_base"].cells[:2]] == ["0.862", "0.862"]
    assert lines["compiles, target"].cells[0].value == "1.000"


def test_a_doubtful_cell_says_why():
    infinite = cell(Estimate(math.inf, None, math.inf, math.inf, 8, 8.0))
    assert infinite.value == "∞"
    assert infinite.interval == ""
    assert "infinite" in infinite.doubt
    assert cell(None) == NOTHING
