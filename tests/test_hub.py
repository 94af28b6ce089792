from __future__ import annotations

import pytest
from transformers.utils import logging

from attunement.hub import first_line, located, quiet


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("no such model\ncheck its name"), "no such model"),
        (ValueError("  \n"), "ValueError"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_first_line(error, line):
    assert first_line(error) == line


def test_quiet_inside_and_as_before_afterwards():
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()

    def fail():
        with quiet():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_a_folder_has_one_place_whatever_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "owner/model").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path / "owner")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = str(tmp_path / "owner/model")
    for name in ("model", "./model", "../owner/model", "~/owner/model", place):
        assert located(name) == place
    for name in ("owner/model", "nowhere", "../file"):
        assert located(name) == name
