"""The README is true: its program runs, its commands run, its tree is the tree."""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from attunement.cli import main
from attunement.cli.app import app

ROOT = Path(__file__).parents[1]
README, MAKEFILE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for language, text in BLOCKS
    if not language
    for line in text.splitlines()
    if line.startswith("attune ")
]
SMALL = {
    "tune": "--max-steps 2 --batch-size 16 --bank-size 128 --evaluation-size 32 --fit-size 2048 "
    "--measure-size 128 --max-new-tokens 24",
    "sample": "-n 2",
    "measure": "-n 128",
}


def test_the_program_runs(capsys):
    (program,) = [text for language, text in BLOCKS if language == "python"]
    exec(compile(program, "README.md", "exec"), {})
    assert "acceptance rate" in capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path, monkeypatch):
    assert len(COMMANDS) > 8
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        if "--resume" not in words:
            words += SMALL.get(words[0], "").split()
        if words[0] == "measure" and "--base" in words:
            words += ["--max-new-tokens", "24"]
        monkeypatch.setattr(sys, "argv", ["attune", *words])
        assert status() == 0, command


def status() -> int:
    """The exit status of the command in `sys.argv`."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as exit_:
            return int(exit_.code or 0)
    return 0


def test_every_make_target_named_is_there():
    for target in re.findall(r"make ([a-z][a-z-]*)", README):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


DEMO = re.findall(r"attune tune \$\(TOWARDS\) ((?:.*\\\n)*.*)", MAKEFILE)
SAID = re.findall(r"^\| `(--[a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \| .+ \|$", README, re.MULTILINE)


def test_the_flags_of_the_demonstration_are_those_of_the_makefile():
    for number, recipe in enumerate(DEMO):
        words = shlex.split(recipe.replace("\\\n", ""))
        found = dict(zip(words[::2], words[1::2], strict=True))
        del found["--output-dir"]
        said = {row[0]: row[2 + number].strip("`") for row in SAID}
        assert {flag: value for flag, value in said.items() if value != "–"} == found
    assert len(DEMO) == 2


def test_the_defaults_beside_them_are_those_of_the_options():
    tune = typer.main.get_command(app).commands["tune"]
    shown = {o.opts[0]: str(o.show_default).partition(";")[0] for o in tune.params}
    assert {row[0]: row[1].strip("`") for row in SAID} == {row[0]: shown[row[0]] for row in SAID}


def test_every_link_and_every_path_of_the_tree_is_there():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    (tree,) = [text for _, text in BLOCKS if text.startswith("src/attunement/")]
    folder = ROOT
    for line in tree.splitlines():
        inside = line.startswith("  ")
        folder = folder if inside else ROOT
        for name in re.split(r"\s{2,}", line.strip())[0].split():
            path = (folder if inside else ROOT) / name
            assert path.exists(), line
        if not inside:
            folder = path
