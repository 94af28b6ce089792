"""The shipped contexts: what a signature is, and that held-out ones are of held-out files."""

import importlib.util
import platform
import sys
from pathlib import Path

import pytest

from attunement.contexts import signatures as shipped

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "tiny_python"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


corpus, recipe = _load("corpus"), _load("signatures")


@pytest.mark.parametrize(
    "function",
    [
        "def f(x): return x\n",
        "def f(\n    x,\n):\n    return x\n",
        "def test_f(self):\n    pass\n",
        "async def f(x):\n    pass\n",
        "@cached\ndef f(x):\n    pass\n",
        f"def f({'x' * 80}):\n    pass\n",
    ],
)
def test_other_first_lines_are_left_out(function):
    assert recipe.signature_of(function) is None


def test_a_signature_is_the_first_line():
    assert recipe.signature_of('def f(x):\n    """Say it."""\n') == ("f", "def f(x):")


def test_a_held_out_signature_stands_in_no_other_file():
    paths = [f"python/{n}.py" for n in range(400)]
    hidden = next(path for path in paths if corpus.is_held_out(path))
    seen = next(path for path in paths if not corpus.is_held_out(path))
    f, g = "def f(x):\n    return x\n", "def g(x):\n    return x\n"
    files = {hidden: [f, g], seen: [f]}
    assert [row["name"] for row in recipe.rows_of(files, True)] == ["g"]
    assert [row["name"] for row in recipe.rows_of(files, False)] == ["f"]


@pytest.mark.parametrize("split", ["tuning", "held-out"])
def test_what_is_shipped_is_of_the_right_files(split):
    for context in shipped(split):
        assert corpus.is_held_out(context.columns["file"]) == (split == "held-out")


@pytest.mark.slow
@pytest.mark.skipif(
    platform.python_version() != "3.11.7", reason="the standard library differs between versions"
)
@pytest.mark.parametrize(("split", "most"), [("tuning", 200), ("held-out", 100)])
def test_what_is_shipped_is_what_the_recipe_writes(split, most):
    rows = recipe.rows_of(corpus.read_library(), split == "held-out")[:most]
    assert [context.prompt for context in shipped(split)] == [row["prompt"] for row in rows]
