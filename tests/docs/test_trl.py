"""The programs of docs/trl.md run; the trainer takes one step instead of a hundred."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "trl.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(program):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "trl.md", "exec"), {"__name__": "page"})
    return printed.getvalue()


def test_a_reward_function_is_a_scorer():
    assert len(PROGRAMS) == 2
    assert re.search(r"\d\.\d+ \[.*\] ", run(PROGRAMS[0]))


@pytest.mark.slow
def test_a_target_is_a_reward(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = PROGRAMS[1].replace("max_steps=100", "max_steps=1, use_cpu=True")
    assert program != PROGRAMS[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and its imports' own
        run(program)
