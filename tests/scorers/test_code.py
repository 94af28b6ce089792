from __future__ import annotations

import ast
import builtins
import io
import keyword
import subprocess
import sys
import tokenize
import warnings
from pathlib import Path

import pycodestyle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError
from attunement.scorers import (
    ast_nodes,
    compiles,
    evaluate,
    has_docstring,
    has_return_annotation,
    pep8_per_character,
    pep8_per_line,
    uses_name,
)
from attunement.scorers.code import LONGEST_PROGRAM, pep8_violations

ALL = [
    compiles,
    pep8_per_line,
    pep8_per_character,
    ast_nodes,
    has_docstring,
    has_return_annotation,
    uses_name("self"),
]

FRAGMENTS = [
    *("def f(", "self", ")", ":", "\n", "    ", "return ", "x", ".", "=", "1", "->", "int", " "),
    *("'", '"', '"""', "\\", "#", "(", "[", "{", "]", "}", ",", "lambda", "f'", "\t", "class A"),
    *("r", "\x00", "\ud800", "\ufeff", "\x0c", "\r", "é", "1e", "is 1", "\\d", ";", "@", "async "),
]

texts = st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)


def score(scorer, samples):
    return evaluate(scorer, samples).values.tolist()


def builtin_compiles(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "<text>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
            return 0.0
    return 1.0


@settings(deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=3))
def test_any_text_has_scores(make_samples, batch):
    samples = make_samples(batch)
    for scorer in ALL:
        assert (evaluate(scorer, samples).values >= 0).all()


@settings(deadline=None)
@given(prompt=texts, text=texts)
def test_compiles_says_what_compile_says_of_prompt_and_completion(make_samples, prompt, text):
    samples = make_samples([text, text], prompts=[prompt] * 2, finished=[True, False])
    assert score(compiles, samples) == [builtin_compiles(prompt + text), 0.0]


@settings(deadline=None)
@given(text=texts)
def test_what_parses_has_nodes(make_samples, text):
    scores = evaluate(ast_nodes, make_samples([text]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = [float(len(list(ast.walk(ast.parse(text)))))]
    except (SyntaxError, ValueError):
        expected = []
    assert scores.values[scores.applicable].tolist() == expected


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "x = 1", "a = 1 is 1", "'\\d'"])
def test_programs(make_samples, text):
    assert score(compiles, make_samples([text])) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "def f(",
        "return",
        "x = \ud800",
        "\x00",
        "from __future__ import braces",
        "1 +",
        "\tx\n y",
        "\ufeffx",
    ],
)
def test_not_programs(make_samples, text):
    assert score(compiles, make_samples([text])) == [0.0]


def test_features_of_this_module_do_not_leak_into_the_program(make_samples):
    assert score(compiles, make_samples(["def f(x: (yield)): pass"])) == [0.0]


def test_warnings_neither_fail_nor_leak(make_samples):
    samples = make_samples(["1 is 1", "'\\d'"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        assert score(compiles, samples) == [1.0, 1.0]
        assert evaluate(ast_nodes, samples).applicable.all()
        assert warnings.filters == before
    assert caught == []


DEEP = [
    ("[x ", "for x in[]", "]"),
    ("{x:x ", "for x in y if x ", "}"),
    ("async def f():\n return [x ", "async for x in[]", "]"),
    ("", "(", ""),
    ("", "[", ""),
    ("f", "()", ""),
    ("", "-", "1"),
    ("", "not ", "1"),
    ("a", ".a", ""),
    ("a", "[0]", ""),
    ("a", "+a", ""),
    ("a", "**a", ""),
    ("a", " and a or a", ""),
    ("a", "<a", ""),
    ("", "lambda:", "1"),
    ("", "a if a else ", "a"),
    ("if a:\n pass\n", "elif a:\n pass\n", ""),
    ("", "a=", "1"),
    ("", "@a\n", "def f(): pass"),
    ("", '"a" ', ""),
    ("", 'f"{a}" ', ""),
    ("", "*", "a"),
    ("with a", ",a", ":pass"),
    ("match a:\n case ", "1|", "1:pass"),
    ("match a:\n case a", ".a", ":pass"),
    ("lambda ", "a=lambda:", "1:1"),
    ("", "\\\n", ""),
    ("", "9", ""),
]

CHILD = """
import sys, threading
from attunement.scorers.code import LONGEST_PROGRAM, _count_nodes, _text_compiles

def check():
    for head, part, tail in {deep!r}:
        text = head + part * ((LONGEST_PROGRAM - len(head + tail)) // len(part)) + tail
        print(_text_compiles(text), _count_nodes(text) is not None, flush=True)

threading.stack_size(1 << 20)
thread = threading.Thread(target=check)
thread.start()
thread.join()
"""


def test_no_program_ends_the_interpreter():
    command = [sys.executable, "-W", "ignore", "-c", CHILD.format(deep=DEEP)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stderr) == (0, "")
    assert len(child.stdout.splitlines()) == len(DEEP)


def test_a_text_beyond_the_limit_does_not_parse(make_samples):
    samples = make_samples(["#" * LONGEST_PROGRAM, "#" * (LONGEST_PROGRAM + 1)])
    assert score(compiles, samples) == [1.0, 0.0]
    assert evaluate(ast_nodes, samples).applicable.tolist() == [True, False]


NEAT = 'def area(side: float) -> float:\n    """Square it."""\n    return side * side\n'


@pytest.mark.parametrize(
    ("text", "violations", "lines"),
    [
        ("", 0, 0),
        (NEAT, 0, 3),
        (NEAT.rstrip(), 0, 3),
        (NEAT + "\n\n", 0, 5),
        ("x=1\n", 1, 1),
        ("x = 1 \n", 1, 1),
        ("x = 1" + " " * 80 + "# noqa\n", 0, 1),
        ("import os,sys\r\nx=1", 3, 2),
        ("x = (\n", 1, 1),
        ("x = 1" + " " * 80 + "# y\n", 1, 1),
        ("r", 1, 1),
    ],
)
def test_violations(text, violations, lines):
    assert pep8_violations(text) == (violations, lines)


def test_violations_per_line_and_character(make_samples):
    samples = make_samples(["=1\ny = 2\n", "", NEAT], prompts=["x", "", ""])
    assert score(pep8_per_line, samples) == [1 / 2, 0, 0]
    assert score(pep8_per_character, samples) == [1 / 10, 0, 0]


@settings(deadline=None)
@given(text=texts)
def test_violations_are_those_that_pycodestyle_finds_in_a_file(tmp_path_factory, text):
    assume("coding" not in text)
    written = text.encode("utf-8", "replace")
    path = tmp_path_factory.getbasetemp() / "program.py"
    path.write_bytes(written)
    ignored = (*pycodestyle.DEFAULT_IGNORE.split(","), "W292", "W391")
    violations, _ = pep8_violations(text)
    try:
        assert violations == pycodestyle.StyleGuide(quiet=1, ignore=ignored).input_file(str(path))
    except IndexError:
        assert violations > 0


@pytest.mark.parametrize(
    ("text", "docstring", "annotation"),
    [
        (NEAT, 1, 1),
        ("def f():\n    return 1\n", 0, 0),
        ("def f():\n    'd'\n\ndef g() -> int:\n    pass\n", 1, 0),
        ("class A:\n    'd'\n    async def f(self) -> int: pass\ndef g():\n    'd'\n", 0, 1),
        ("if 1:\n    if 1:\n        def f():\n            'd'\ndef g() -> int: pass\n", 1, 0),
        ("'d'\nx: int = 1\n", 0, 0),
        ("def f():\n    'd'\n    return (", 0, 0),
        ("", 0, 0),
    ],
)
def test_traits_of_the_first_function(make_samples, text, docstring, annotation):
    assert score(has_docstring, make_samples([text])) == [docstring]
    assert score(has_return_annotation, make_samples([text])) == [annotation]


@pytest.mark.parametrize(
    "text",
    [
        "self",
        "def f(self): pass",
        "self.x = 1",
        "f(self",
        "# a\nself",
        "'a' + self",
        "'''a''' '\\'' self",
        "x = 'unfinished\nself",
        "rb'' + self",
        "f(self=1)",
        "import self",
        "1.5 + self",
        "'a\\\n b' + self",
    ],
)
def test_uses_self(make_samples, text):
    assert score(uses_name("self"), make_samples([text])) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "myself",
        "selfish",
        "self_",
        "# self",
        "x  # self\ny",
        "'self'",
        '"""\nself\n"""',
        "'''unfinished self",
        "f'{self}'",
        "rb'self'",
        "'\\' self'",
        "'''a\\''' self'''",
        "x.self",
        "x. self()",
        "x = 'unfinished self\n",
        "'''self\\",
        "'self\\",
    ],
)
def test_does_not_use_self(make_samples, text):
    assert score(uses_name("self"), make_samples([text])) == [0.0]


def test_a_string_prefix_is_no_name(make_samples):
    samples = make_samples(["f'a'", "Rb'a'", "f", "f + 'a'"])
    assert score(uses_name("f"), samples) == [0.0, 0.0, 1.0, 1.0]
    assert score(uses_name("Rb"), samples) == [0.0, 0.0, 0.0, 0.0]


def test_names_are_those_of_the_tokenizer(make_samples):
    source = Path(ast.__file__).read_text(encoding="utf-8")[:5_000].rpartition("\n")[0]
    names, previous = set(), ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME and previous != ".":
                names.add(token.string)
            previous = token.string
    except tokenize.TokenError:
        pass
    wanted = sorted(names | set(dir(builtins)) | set(keyword.kwlist))
    samples = make_samples([source])
    found = {name for name in wanted if score(uses_name(name), samples) == [1.0]}
    assert names
    assert found == names


@pytest.mark.parametrize("name", ["", "a.b", "1a", "a b", "self:"])
def test_uses_name_wants_an_identifier(name):
    with pytest.raises(AttunementError, match="identifier"):
        uses_name(name)
