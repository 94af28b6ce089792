"""The command `attune`: thin, and quick to start, for heavy imports stand inside the commands.

`app` puts the commands together and turns errors into sentences, `options` holds what several
commands share, and each command has a file.
"""

from attunement.cli.app import main

__all__ = ["main"]
