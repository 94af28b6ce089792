"""The command `attune`: thin, and quick to start, for heavy imports stand inside the commands.

`app` puts the commands together and turns errors into sentences, and each command has a file.
Options stand in groups (`grouping`): those that several commands share in `options`, those of
`attune tune` alone in `tuning_options`.
"""

from attunement.cli.app import main

__all__ = ["main"]
