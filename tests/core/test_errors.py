from attunement.core import MissingExtraError


def test_a_missing_extra_says_how_to_mend_it():
    assert str(MissingExtraError("A judge", "trl")) == (
        "A judge needs an extra: pip install 'attunement[trl]'"
    )
