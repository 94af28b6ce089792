"""What is raised where a person's input can't be used: one sentence that names the mend."""

from __future__ import annotations


class AttunementError(ValueError):
    """Something that the user gave can't be used; the message names the thing and the mend."""


class MissingExtraError(AttunementError):
    """A feature needs a package that isn't installed; the message names the extra."""

    def __init__(self, feature: str, extra: str):
        """Say that `feature` needs `pip install 'attunement[extra]'`."""
        super().__init__(f"{feature} needs an extra: pip install 'attunement[{extra}]'")
