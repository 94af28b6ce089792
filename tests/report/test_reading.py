import json
import math

import pytest

from attunement.core import AttunementError
from attunement.recipes import TargetSettings
from attunement.report.reading import read_run, read_runs
from attunement.runs import Run


def test_what_was_written_is_read(write_run):
    target = TargetSettings(constrain=("compiles",), match={"length": 30.0})
    reading = read_run(write_run("both", target, lambdas={"length": -0.25}))
    assert reading.name == "both"
    assert reading.features == ("compiles", "length")
    assert reading.recipe.factors[1].lambda_ == -0.25
    assert [step.step for step in reading.steps] == list(range(1, 41))
    assert [e.step for e in reading.evaluations] == [0, 10, 20, 30, 40]
    assert reading.last_step == 40
    assert len(reading.samples) == 24
    assert reading.outcome.after.divergences["reverse_kl"].value == math.inf
    assert reading.outcome.after.divergences["reverse_kl"].stderr is None
    assert len(reading.outcome.log_weights) == 900
    assert "max_new_tokens 64" in reading.limit


def test_an_unfinished_run_has_no_outcome(write_run):
    reading = read_run(write_run(finished=False))
    assert reading.outcome is None
    assert reading.last_step == 20


def test_a_line_cut_by_a_kill_is_left_out(write_run):
    run = write_run()
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "grad')
    assert read_run(run).last_step == 40


def test_a_run_without_samples_can_be_read(write_run):
    run = write_run()
    (run.folder / "samples.jsonl").unlink()
    assert read_run(run).samples == ()


@pytest.mark.parametrize(
    "line",
    [
        "{not json}",
        "[1, 2]",
        '{"step": 1}',
        '{"step": true}',
        '{"step": 1, "estimates": {"a": 3}}',
        '{"step": [], "estimates": {}}',
    ],
)
@pytest.mark.parametrize("log", ["metrics.jsonl", "samples.jsonl"])
def test_a_corrupt_line_is_named(write_run, log, line):
    run = write_run()
    path = run.folder / log
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    with pytest.raises(AttunementError, match=rf"{log}, line 4,") as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def test_prompts_of_samples_are_texts_or_conversations(write_run, append_sample):
    run = write_run(prompts="contexts.jsonl")
    append_sample(run, "x", prompt="def f(")
    append_sample(run, "x", prompt=[{"role": "user", "content": "hello", "name": "Ann"}])
    text, conversation = read_run(run).samples[-2:]
    assert text.prompt == "def f("
    assert conversation.prompt == ({"role": "user", "content": "hello"},)


def test_samples_of_a_log_without_prompts_have_none(write_run, append_sample):
    run = write_run()
    append_sample(run, "x", prompt=None)
    assert read_run(run).samples[-1].prompt is None


@pytest.mark.parametrize("prompt", [3, ["hello"], [{"role": "user"}], {"role": "user"}])
def test_a_prompt_that_is_neither_is_named(write_run, append_sample, prompt):
    run = write_run()
    append_sample(run, "x", prompt=prompt)
    with pytest.raises(AttunementError, match=r"samples.jsonl, line 25,"):
        read_run(run)


def test_bytes_that_are_no_text_are_named(write_run):
    run = write_run()
    with (run.folder / "samples.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    with pytest.raises(AttunementError, match=r"samples.jsonl, line 25,.*isn't JSON"):
        read_run(run)


@pytest.mark.parametrize("content", ["", "\n{", '{"step": 1, "cut'])
def test_metrics_without_a_whole_line_are_an_error(write_run, content):
    run = write_run()
    (run.folder / "metrics.jsonl").write_text(content.lstrip("\n"))
    with pytest.raises(AttunementError, match=r"metrics.jsonl is empty or missing.*--resume"):
        read_run(run)


def test_missing_metrics_are_an_error(write_run):
    run = write_run()
    (run.folder / "metrics.jsonl").unlink()
    with pytest.raises(AttunementError, match="empty or missing"):
        read_run(run)


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(AttunementError, match="holds no run"):
        read_run(Run(tmp_path))


def test_a_run_of_another_kind_is_an_error(tmp_path):
    run = Run.create(tmp_path / "other", {"kind": "pretrain"})
    with pytest.raises(AttunementError, match=r"of kind 'pretrain'.*attune tune"):
        read_run(run)


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("recipe.json", "model"),
        ("recipe.json", "target"),
        ("recipe.json", "command"),
        ("measurement.json", "after"),
        ("measurement.json", "log_weights"),
        ("measurement.json", "measured_on"),
    ],
)
@pytest.mark.parametrize("wrong", [None, 3, [1]])
def test_a_missing_or_wrong_entry_is_an_error_that_names_the_file(
    write_run, edit, file, entry, wrong
):
    run = write_run()
    if wrong is None:
        edit(run.folder / file, lambda content: content.pop(entry))
        with pytest.raises(AttunementError, match=rf"{file} has no entry '{entry}'"):
            read_run(run)
    elif entry != "command":
        edit(run.folder / file, lambda content: content.update({entry: wrong}))
        with pytest.raises(AttunementError, match=rf"{file} can't be understood"):
            read_run(run)


def test_a_measurement_with_a_list_for_a_table_is_an_error(write_run, edit):
    run = write_run()
    edit(run.folder / "measurement.json", lambda content: content["after"].update(base=[1]))
    with pytest.raises(AttunementError, match=r"measurement.json can't be understood"):
        read_run(run)


def test_names_are_as_long_as_they_must_be(write_run):
    runs = [write_run("one/tuned"), write_run("two/tuned"), write_run("two/other")]
    assert [r.name for r in read_runs(runs)] == ["one/tuned", "two/tuned", "two/other"]
    assert [r.name for r in read_runs(runs[:1])] == ["tuned"]


def test_no_run_and_one_run_twice_are_errors(write_run, tmp_path):
    with pytest.raises(AttunementError, match="no run to report on"):
        read_runs([])
    run = write_run()
    again = Run(tmp_path / "compiles" / ".." / "compiles")
    with pytest.raises(AttunementError, match="given twice"):
        read_runs([run, again])


def test_absent_numbers_of_an_estimate_are_nan(write_run):
    run = write_run()
    row = dict.fromkeys(("value", "stderr", "low", "high", "khat")) | {"n": 5, "ess": 5}
    run.append("metrics.jsonl", {"step": 41, "estimates": {"compiles": row}})
    assert math.isnan(read_run(run).evaluations[-1].estimates["compiles"].value)
    assert json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 41
