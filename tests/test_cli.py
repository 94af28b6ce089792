"""The command as a user runs it; in a process of its own where signals matter."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from attunement.cli import main
from attunement.runs import Run

SMALL = [
    "--threads=1",
    "--max-new-tokens=12",
    "--batch-size=16",
    "--bank-size=64",
    "--evaluation-size=16",
    "--evaluate-every=2",
    "--save-every=1",
    "--measure-size=64",
]
TARGET = ["--constrain", "contains:self"]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def attune(*arguments: str) -> Done:
    """Run the command in this process: importing torch anew takes seconds."""
    out, error, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["attune", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(error):
            main()
        status = 0
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    finally:
        sys.argv = argv
    return Done(status, out.getvalue(), error.getvalue())


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own, to be sent signals.

    A shell lets its background jobs ignore Ctrl-C, and what it starts inherits that.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "attunement.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = attune("tune", *TARGET, *SMALL, "--max-steps=3", "--output-dir", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) >= {"before", "after", "report"}
    assert Path(printed["report"]).is_file()
    return folder


def test_measure_prints_what_is_documented(run):
    done = attune("measure", str(run), "-n", "64", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) >= {"run", "n", "base", "policy", "divergences", "log_z", "warnings"}
    assert set(printed["divergences"]) >= {
        "forward_kl",
        "reverse_kl",
        "jensen_shannon",
        "total_variation",
        "kl_policy_base",
    }
    keys = {"value", "stderr", "low", "high", "n", "ess", "khat"}
    for estimate in (*printed["divergences"].values(), printed["log_z"], *printed["base"].values()):
        assert set(estimate) == keys
    assert printed["divergences"]["reverse_kl"]["value"] == "inf"


def test_a_model_is_measured_against_a_target(run):
    done = attune(
        "measure", str(run / "policy"), "--base", "tiny-python", *TARGET,
        "--max-new-tokens=12", "-n", "64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "forward_kl" in done.stdout


@pytest.mark.parametrize("which", [[], ["--target"]])
def test_sample_a_run(run, which):
    done = attune("sample", str(run), "-n", "3", *which, "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    assert not which or all("self" in row["text"] for row in rows)


def test_sample_an_untrained_target():
    done = attune("sample", "tiny-python", *TARGET, "-n", "3", "--max-new-tokens=12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--- ") == 3
    assert "exact samples of the target" in done.stderr


def test_report_compares_runs(run, tmp_path):
    page, other = tmp_path / "compare.html", tmp_path / "other"
    shutil.copytree(run, other)
    done = attune("report", str(run), str(other), "--output", str(page))
    assert done.returncode == 0, done.stderr
    assert page.is_file()
    assert "is given twice" in attune("report", str(run), str(run), "--output", str(page)).stderr


def test_a_recipe_runs_again(run, tmp_path):
    done = attune(
        "tune", "--recipe", str(run / "recipe.json"), "--output-dir", str(tmp_path / "again")
    )
    assert done.returncode == 0, done.stderr
    first = load_file(run / "checkpoints/step-3/policy.safetensors")
    second = load_file(tmp_path / "again/checkpoints/step-3/policy.safetensors")
    assert all((first[name] == second[name]).all() for name in first)


def test_kill_9_and_resume_give_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [*TARGET, *SMALL, "--max-steps=8", "--output-dir"]
    assert attune("tune", *arguments, str(whole)).returncode == 0
    process = start("tune", *arguments, str(killed))
    while not (killed / "checkpoints/step-2/counters.json").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "measurement.json").exists()
    done = attune("tune", "--resume", "--output-dir", str(killed))
    assert done.returncode == 0, done.stderr
    for name in ("checkpoints/step-8/policy.safetensors", "policy/model.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


def test_ctrl_c_is_one_sentence(tmp_path):
    arguments = [*TARGET, *SMALL, "--max-steps=500", "--output-dir", str(tmp_path / "run")]
    process = start("tune", *arguments)
    while not (tmp_path / "run/checkpoints/step-1/counters.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 1
    assert "interrupted" in error
    assert "--resume" in error
    assert "Traceback" not in error


USER_FILE = """
def raises(texts):
    raise RuntimeError("no such luck")

def nan(texts):
    return [float("nan")] * len(texts)

def short(texts):
    return [1.0]

def strange(a, b, c):
    return a
"""


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--constrain", "compile"], 2, "compiles"),
        (["--constrain", "missing.py:f"], 2, "missing.py"),
        (["--constrain", "mine.py:absent"], 2, "absent"),
        (["--constrain", "mine.py:strange"], 2, "strange"),
        (["--constrain", "mine.py:raises"], 1, "no such luck"),
        (["--constrain", "mine.py:nan"], 1, "nan"),
        (["--constrain", "mine.py:short"], 1, "short"),
        (["--constrain", "contains:@@@@"], 1, "none of 64 samples"),
        (["--match", "pep8_per_line=999"], 1, "can't be reached"),
        (["--match", "length"], 2, "SPEC=NUMBER"),
        (["--match", "contains:self=1"], 1, "use constrain"),
        (["--constrain", "compiles", "--divergence", "reverse_kl"], 2, "--floor"),
        (["--constrain", "compiles", "--divergence", "jensen"], 2, "jensen_shannon"),
        (["--constrain", "compiles", "--learning-rate", "0"], 2, "--learning-rate"),
        (["--constrain", "compiles", "--prompts", "empty.jsonl"], 2, "empty"),
        (["--constrain", "compiles", "--prompt", "x = 1\n" * 400], 1, "context"),
        (["--constrain", "compiles", "--base", "nobody/nothing"], 1, "tiny-python"),
        (["--tilt", "length=1"], 2, "--beta"),
        (["--tilt", "length=1", "--beta", "0"], 2, "--beta"),
        (["--constrain", "compiles", "--floor", "1"], 2, "--floor"),
        (["--constrain", "compiles", "--stop-preset", "java"], 2, "python-function"),
        (["--constrain", "compiles", "--device", "warp"], 1, "device 'warp'"),
        ([], 2, "no factor"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, arguments, status, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(USER_FILE)
    (tmp_path / "empty.jsonl").write_text("")
    done = attune(
        "tune", *SMALL, "--fit-size=64", "--max-steps=2", "--output-dir", "out", *arguments,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder(run):
    done = attune("tune", *TARGET, "--output-dir", str(run))
    assert done.returncode == 2
    assert "holds another run" in done.stderr


def test_an_option_beside_resume_has_no_use(run):
    done = attune("tune", "--resume", "--seed", "3", "--output-dir", str(run))
    assert done.returncode == 2
    assert "--seed has no use here" in done.stderr


def test_help_is_quick_to_import():
    code = "import sys, attunement.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    monkeypatch.setattr(Run, "append", full)
    done = attune("tune", *TARGET, *SMALL, "--max-steps=2", "--output-dir", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "No space left on device (metrics.jsonl)" in done.stderr
