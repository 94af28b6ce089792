"""The pure functions of the embedded model's corpus: cutting, holding out, splitting."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "tiny_python" / "corpus.py"


def _load():
    spec = importlib.util.spec_from_file_location("tiny_python_corpus", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


corpus = _load()

SOURCE = '''
import functools

CONSTANT = 1


@functools.cache  # kept
def first(x):
    """Say it."""
    # A comment.
    def inner():
        return x

    return inner


class Thing:
    @property
    def size(self):
        return (
            1
        )

    async def wait(self): pass


if CONSTANT:
    def late():
        return 2
'''


def test_functions_are_cut_with_decorators_and_comments_and_dedented():
    source = SOURCE.replace("return inner\n", "return inner   \n")
    first, size, wait, late = corpus.cut_functions(source)
    assert first.startswith("@functools.cache  # kept\ndef first(x):\n")
    assert "    # A comment.\n" in first
    assert first.endswith("    return inner\n")
    assert size == "@property\ndef size(self):\n    return (\n        1\n    )\n"
    assert wait == "async def wait(self): pass\n"
    assert late == "def late():\n    return 2\n"


def test_what_cannot_stand_alone_is_left_out():
    outside = "class A:\n    def f(self):\n        return '''\nleft\n'''\n"
    assert corpus.cut_functions(outside) == []
    assert corpus.cut_functions("def f(:\n") == []
    assert corpus.cut_functions("def f():\n    return '\u00e9'\n") == []
    assert corpus.cut_functions("def f():\n    return 0\n" + "    # long\n" * 1000) != []
    long = "def f():\n" + "    pass\n" * 1000
    assert corpus.cut_functions(long) == []


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 5), st.lists(st.sampled_from(["pass", "x = 1", "return 2"]), min_size=1))
def test_cutting_does_not_depend_on_the_depth_of_the_class(depth, lines):
    function = "def f(self):\n" + "".join(f"    {line}\n" for line in lines)
    source = "".join("    " * level + f"class C{level}:\n" for level in range(depth))
    source += "".join("    " * depth + line + "\n" for line in function.splitlines())
    assert corpus.cut_functions(source) == [function]


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.text("abc/", min_size=1, max_size=4),
        st.lists(st.sampled_from("pqrstuvwxyz"), max_size=6),
        max_size=30,
    )
)
def test_split_keeps_every_function_once_and_never_on_both_sides(files):
    train, held_out = corpus.split(files)
    kept = [*train, *(text for texts in held_out.values() for text in texts)]
    assert len(kept) == len(set(kept))
    assert set(kept) == {text for texts in files.values() for text in texts}
    assert all(corpus.is_held_out(path) for path in held_out)
    held_out_paths = [path for path in files if corpus.is_held_out(path)]
    assert all(set(files[path]).isdisjoint(train) for path in held_out_paths)


def test_the_held_out_share_of_paths_is_the_share_asked_for():
    share, n = 0.2, 5_000
    count = sum(corpus.is_held_out(f"package/module_{i}.py", share) for i in range(n))
    assert abs(count - share * n) < 5 * (n * share * (1 - share)) ** 0.5
    assert not corpus.is_held_out("package/module.py", 0.0)
    assert corpus.is_held_out("package/module.py", 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    return 1\n", True),
        ("x is 1\n", True),
        ("'\\d'\n", True),
        ("def f(:\n", False),
        ("\0", False),
        ("'\ud800'", False),
        ("(" * 300, False),
        ("return 1\n", False),
        ("-" * 200_000 + "1\n", False),
    ],
)
def test_compiles_answers_for_every_text(text, expected):
    assert corpus.compiles(text) is expected


def test_packages_name_permissive_licences():
    words = " ".join(corpus.PACKAGES.values())
    assert "GPL" not in words
    assert "MPL" not in words


def test_what_is_cut_is_one_function_of_python():
    for text in corpus.cut_functions(RECIPE.read_text(encoding="utf-8")):
        (node,) = ast.parse(text).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
