"""The command as a user runs it; in a process of its own where signals matter."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from attunement.cli import main

SMALL = (
    "--threads=1",
    "--max-new-tokens=12",
    "--batch-size=16",
    "--bank-size=64",
    "--evaluation-size=16",
    "--evaluate-every=2",
    "--save-every=1",
    "--measure-size=64",
)
JOB = ("--constrain=contains:self", *SMALL)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def _attune(*arguments: str) -> Done:
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


def _start(*arguments: str) -> subprocess.Popen[str]:
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


@pytest.fixture(scope="session")
def attune() -> Callable[..., Done]:
    return _attune


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    return _start


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Options of a run of seconds."""
    return SMALL


@pytest.fixture(scope="session")
def job() -> tuple[str, ...]:
    """The same with a target."""
    return JOB


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = _attune("tune", *JOB, "--max-steps=3", "--output-dir", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["report"]).is_file()
    return folder
