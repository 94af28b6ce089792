from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from attunement.core import AttunementError
from attunement.scorers import evaluate, load_function, load_scorer
from attunement.scorers.files import read_lines

SOURCE = """
from __future__ import annotations

import sys
from dataclasses import dataclass

@dataclass(frozen=True)
class Wanted:
    name: str
    letter: str = "a"

    def __call__(self, samples):
        import torch
        return torch.tensor([float(self.letter in text) for text in samples.texts])

wanted = Wanted("wanted")
threshold = 3

def count_words(texts):
    return [len(text.split()) for text in texts]

def of_no_form(x):
    return x
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my scorers.py"
    path.write_text(SOURCE)
    return path


def test_a_function_and_a_scorer(file, make_samples):
    samples = make_samples(["a b", "c"])
    assert evaluate(load_scorer(f"{file}:count_words"), samples).values.tolist() == [2, 1]
    assert evaluate(load_scorer(f"{file}:wanted"), samples).values.tolist() == [1, 0]
    assert load_function(f"{file}:threshold") == 3


def test_nothing_is_left_behind(file):
    before = list(sys.path)
    load_function(f"{file}:count_words")
    assert sys.path == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_edited_file_is_read_anew(file):
    first = load_function(f"{file}:threshold")
    file.write_text(SOURCE.replace("threshold = 3", "threshold = 4"))
    assert (first, load_function(f"{file}:threshold")) == (3, 4)


def test_what_a_file_makes_can_be_pickled(file):
    wanted = load_function(f"{file}:wanted")
    assert pickle.loads(pickle.dumps(wanted)) == wanted


def test_name_path_and_equality(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    spec = f"{file.name}:count_words"
    scorer = load_scorer(spec)
    assert scorer.name == spec
    assert scorer.path == file.resolve()
    assert {scorer: 1}[load_scorer(spec)] == 1
    assert scorer != load_scorer(f"{file.name}:wanted")


def test_errors_of_a_loaded_function_name_its_spec(file, make_samples):
    file.write_text("def fail(texts):\n    raise KeyError('x')\n")
    with pytest.raises(AttunementError, match=r"scorers.py:fail raised KeyError on sample 0"):
        load_scorer(f"{file}:fail")(make_samples(["a", "b"]))


@pytest.mark.parametrize("spec", ["file.py", "file.py:", ":function", "file.txt:function", ""])
def test_a_spec_without_file_or_function(spec):
    with pytest.raises(AttunementError, match=r"write path.py:function"):
        load_function(spec)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("count_word", r"has no function count_word; did you mean count_words\? there is"),
        ("of_no_form", r"has the parameters \(x\); write it in one of the forms"),
        ("threshold", r"threshold is a int, not a function or a scorer"),
        ("Wanted", r"neither a scorer nor a function"),
    ],
)
def test_names_that_can_not_be_used(file, name, message):
    with pytest.raises(AttunementError, match=message):
        load_scorer(f"{file}:{name}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", r"broken.py, line 1, isn't Python"),
        ("x = 1\nimport no_such_module_here\n", r"broken.py raised ModuleNotFoundError when"),
        ("raise SystemExit(2)", r"broken.py raised SystemExit when it was run: 2"),
        ("x = '\x00'", r"broken.py"),
        (b"x = '\xff'", r"broken.py"),
    ],
)
def test_files_that_can_not_be_run(tmp_path: Path, source, message):
    path = tmp_path / "broken.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    modules = set(sys.modules)
    with pytest.raises(AttunementError, match=message) as caught:
        load_function(f"{path}:f")
    assert caught.value.__cause__ is not None
    assert set(sys.modules) == modules


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(AttunementError, match=r"can't read .*absent.py: No such file"):
        load_function(f"{tmp_path / 'absent.py'}:f")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(AttunementError, match="can't read"):
        load_function(f"{tmp_path / 'folder.py'}:f")


def test_a_copy_is_run_in_place_of_the_file(file, make_samples):
    copy = file.with_name("copy.py")
    copy.write_text(file.read_text())
    file.unlink()
    scorer = load_scorer(f"{file}:count_words", copy)
    assert (scorer.name, scorer.path) == (f"{file}:count_words", copy)
    assert evaluate(scorer, make_samples(["a b"])).values.tolist() == [2]


def test_lines_that_hold_something(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa \r\n\n  \nb\tc".encode())
    assert list(read_lines(path)) == [(1, "a "), (4, "b\tc")]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n", "holds nothing"), (b"\xff", "no text in UTF-8"), (None, "can't read .*No such file")],
)
def test_a_list_that_can_not_be_read(tmp_path, content, message):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AttunementError, match=message):
        list(read_lines(path))
