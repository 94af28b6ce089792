from __future__ import annotations

import pytest
from transformers.utils import logging

from attunement.hub import first_line, quiet


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
