import errno
import json
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError, Context
from attunement.runs import (
    METRICS,
    RECIPE,
    SAMPLES,
    Run,
    generator_for,
    read_json,
    versions,
    write_json,
)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"seed": 1})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def disk_full(path):
    """Begin to write, then fail as a full disk does."""
    path.write_text("half of")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def checkpoint(run, step, text="tensors"):
    def write(folder):
        (folder / "policy.txt").write_text(text)
        return {"updates": step}

    run.save_checkpoint(step, write)


def draws(generator):
    return torch.rand(8, generator=generator).tolist()


def test_the_same_keys_give_the_same_stream():
    assert draws(generator_for(3, 1, 2)) == draws(generator_for(3, 1, 2))


def test_different_keys_give_different_streams():
    keys = [
        *((seed, *rest) for seed in (0, 1, 2**32, 2**40) for rest in ((), (0,), (1,), (0, 0))),
        *((seed, *rest) for seed in (0, 1) for rest in ((0, 1), (1, 0), (1, 1), (0, 0, 0))),
    ]
    streams = {tuple(draws(generator_for(*key))) for key in keys}
    assert len(streams) == len(keys)


def test_streams_of_neighbouring_steps_are_independent():
    rows = torch.stack(
        [torch.randn(400, generator=generator_for(0, 2, step)) for step in range(40)]
    )
    correlations = torch.corrcoef(rows)[~torch.eye(40, dtype=torch.bool)]
    assert float(correlations.abs().max()) < 0.25
    assert float(correlations.std()) == pytest.approx(1 / math.sqrt(400), rel=0.1)


def test_versions_name_what_ran():
    assert set(versions()) == {"python", "attunement", "torch", "transformers", "numpy"}


def test_json_round_trip(tmp_path):
    content = {"name": "ä", "rows": [1, 2.5, None, "inf"], "nested": {"a": True}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("content", [{"value": math.nan}, {"value": math.inf}, {"value": object()}])
def test_json_that_is_not_strict_leaves_the_old_file(tmp_path, content):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert read_json(path) == {"old": 1}
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1', "can't be read"),
        (b"\xff\xfe", "can't be read"),
        (b"", "can't be read"),
        (b"[1]", "is not a JSON object"),
    ],
)
def test_corrupt_json_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.json"
    path.write_bytes(text)
    with pytest.raises(AttunementError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(AttunementError, match=r"nowhere.json can't be read"):
        read_json(tmp_path / "nowhere.json")


def test_create_writes_the_recipe_and_open_finds_it(tmp_path):
    created = Run.create(tmp_path / "a" / "b", {"seed": 7})
    assert Run.open(tmp_path / "a" / "b") == created
    assert created.recipe == {"seed": 7}
    assert created.policy_folder == tmp_path / "a" / "b" / "policy"


def test_a_run_can_start_in_an_empty_folder(tmp_path):
    Run.require_vacant(tmp_path)
    assert names(Run.create(tmp_path, {}).folder) == [RECIPE]


def test_a_recipe_that_could_not_be_written_leaves_the_folder_vacant(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        Run.create(tmp_path / "run", {"value": math.nan})
    Run.require_vacant(tmp_path / "run")


def test_occupied_folders_are_refused(tmp_path, run):
    with pytest.raises(AttunementError, match=r"holds another run: .* --resume"):
        Run.create(run.folder, {})
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(AttunementError, match="isn't empty: choose another"):
        Run.create(other, {})
    with pytest.raises(AttunementError, match=r"notes.txt is a file: choose another --output-dir"):
        Run.create(other / "notes.txt", {})
    assert run.recipe == {"seed": 1}


def test_a_folder_without_a_recipe_is_no_run(tmp_path):
    with pytest.raises(AttunementError, match=r"holds no run: there is no recipe.json"):
        Run.open(tmp_path)
    with pytest.raises(AttunementError, match="holds no run"):
        Run.open(tmp_path / "nowhere")


def test_logs_are_read_as_they_were_written(run):
    rows = [{"step": step, "text": "line\u2028one\nä\r", "value": None} for step in range(3)]
    for row in rows:
        run.append(SAMPLES, row)
    assert list(run.rows(SAMPLES)) == rows
    assert list(run.rows(METRICS)) == []


def test_logs_are_strict(run):
    run.append(METRICS, {"step": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        run.append(METRICS, {"value": math.nan})
    assert list(run.rows(METRICS)) == [{"step": 1}]


@pytest.mark.parametrize("keep", [1, 11, 14])
def test_a_last_line_cut_by_a_kill_is_left_out(run, keep):
    run.append(SAMPLES, {"step": 1})
    row = json.dumps({"text": "ä"}, ensure_ascii=False).encode()
    with (run.folder / SAMPLES).open("ab") as file:
        file.write(row[:keep])
    assert list(run.rows(SAMPLES)) == [{"step": 1}]


@pytest.mark.parametrize(
    ("line", "message"), [(b'{"a": \n', "line 2 is not JSON"), (b"3\n", "line 2 is not a JSON obj")]
)
def test_any_other_broken_line_is_named(run, line, message):
    run.append(METRICS, {"step": 1})
    with (run.folder / METRICS).open("ab") as file:
        file.write(line + b'{"step": 3}\n')
    with pytest.raises(AttunementError, match=message):
        list(run.rows(METRICS))


def test_files_and_folders_are_replaced(run):
    def write_folder(path):
        path.mkdir()
        (path / "weights").write_text("new")

    run.replace_file("report.html", lambda path: path.write_text("old"))
    assert run.replace_file("report.html", lambda path: path.write_text("new")).read_text() == "new"
    (run.folder / "policy").mkdir()
    (run.folder / "policy" / "stale").write_text("old")
    run.replace_file("policy", write_folder)
    assert names(run.policy_folder) == ["weights"]
    assert names(run.folder) == ["policy", RECIPE, "report.html"]


def test_a_full_disk_leaves_the_old_file(run):
    run.replace_file("report.html", lambda path: path.write_text("old"))
    with pytest.raises(OSError, match="No space left"):
        run.replace_file("report.html", disk_full)
    assert (run.folder / "report.html").read_text() == "old"
    assert names(run.folder) == [RECIPE, "report.html"]


def test_a_full_disk_leaves_the_old_folder(run):
    run.policy_folder.mkdir()
    (run.policy_folder / "weights").write_text("old")

    def write(path):
        path.mkdir()
        disk_full(path / "weights")

    with pytest.raises(OSError, match="No space left"):
        run.replace_file("policy", write)
    assert (run.policy_folder / "weights").read_text() == "old"
    assert names(run.folder) == ["policy", RECIPE]


def test_a_full_disk_leaves_the_last_checkpoint(run):
    checkpoint(run, 10)
    for step in (10, 20):
        with pytest.raises(OSError, match="No space left"):
            run.save_checkpoint(step, lambda folder: disk_full(folder / "policy.txt"))
    assert names(run.folder / "checkpoints") == ["step-10"]
    assert (run.checkpoints()[0] / "policy.txt").read_text() == "tensors"


def test_what_a_killed_run_left_behind_is_no_checkpoint_and_goes(run):
    checkpoint(run, 5)
    folder = run.folder / "checkpoints"
    for name in (".step-7.tmp", ".step-3.old", "step-6", "step-six"):
        (folder / name).mkdir()
        (folder / name / "policy.txt").write_text("half")
    (folder / "step-six" / "counters.json").write_text("{}")
    assert [path.name for path in run.checkpoints()] == ["step-5"]
    checkpoint(run, 7)
    assert [path.name for path in run.checkpoints()] == ["step-5", "step-7"]
    assert not any(name.startswith(".") for name in names(folder))


def test_the_last_two_checkpoints_are_kept(run):
    for step in (2, 8, 9, 10, 100):
        checkpoint(run, step, text=str(step))
    kept = run.checkpoints()
    assert [path.name for path in kept] == ["step-10", "step-100"]
    assert names(run.folder / "checkpoints") == ["step-10", "step-100"]
    assert (kept[1] / "policy.txt").read_text() == "100"


def test_a_checkpoint_can_be_written_again(run):
    checkpoint(run, 4, text="first")
    checkpoint(run, 4, text="second")
    assert (run.checkpoints()[0] / "policy.txt").read_text() == "second"
    assert names(run.folder / "checkpoints") == ["step-4"]


def test_rewinding_cuts_what_came_after_the_checkpoint(run):
    for step in (1, 2):
        run.append(METRICS, {"step": step, "text": "ä"})
    checkpoint(run, 2)
    run.append(METRICS, {"step": 3})
    run.append(SAMPLES, {"text": "later"})
    counters = run.rewind(run.checkpoints()[-1])
    assert counters["step"] == 2
    assert counters["updates"] == 2
    assert [row["step"] for row in run.rows(METRICS)] == [1, 2]
    assert list(run.rows(SAMPLES)) == []
    run.append(METRICS, {"step": 3})
    assert [row["step"] for row in run.rows(METRICS)] == [1, 2, 3]


def test_rewinding_to_the_start_empties_the_logs(run):
    run.append(METRICS, {"step": 1})
    assert run.rewind(None) == {}
    assert list(run.rows(METRICS)) == []


def test_a_corrupt_checkpoint_is_named(run):
    checkpoint(run, 1)
    (run.checkpoints()[0] / "counters.json").write_text('{"step": ')
    with pytest.raises(AttunementError, match=r"counters.json can't be read"):
        run.rewind(run.checkpoints()[0])


VALUES = st.one_of(st.integers(), st.text(), st.booleans(), st.none(), st.lists(st.text()))
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system"]), "content": st.text()}
)
CONTEXTS = st.builds(
    Context,
    st.one_of(st.text(), st.lists(MESSAGES, min_size=1).map(tuple)),
    st.dictionaries(st.text().filter(lambda name: name != "prompt"), VALUES),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(CONTEXTS, min_size=1, max_size=4))
def test_contexts_round_trip(tmp_path_factory, contexts):
    run = Run.create(tmp_path_factory.mktemp("runs") / "run", {})
    run.save_contexts(contexts)
    assert run.load_contexts() == tuple(contexts)


def test_no_contexts_leave_no_file(run):
    run.save_contexts(None)
    assert names(run.folder) == [RECIPE]
    with pytest.raises(AttunementError, match=r"the prompts .*contexts.jsonl can't be read"):
        run.load_contexts()


def test_a_column_cannot_take_the_place_of_the_prompt(run):
    run.save_contexts([Context("right", {"prompt": "wrong"})])
    assert run.load_contexts()[0].prompt == "right"
