import pytest

from attunement.core import UNCONDITIONAL, AttunementError, Context, as_contexts


def test_contexts():
    assert as_contexts(None) == UNCONDITIONAL
    assert as_contexts(["a", Context("b")]) == (Context("a"), Context("b"))
    with pytest.raises(AttunementError, match="not one string"):
        as_contexts("prompt")
    with pytest.raises(AttunementError, match="no context"):
        as_contexts([])
