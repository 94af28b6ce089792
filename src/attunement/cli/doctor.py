"""`attune doctor`: what this machine can do."""

from __future__ import annotations

import typer

from attunement.cli.options import Json, print_json


def doctor(as_json: Json = False) -> None:
    """Say what this machine can do: threads, device, sandbox, extras."""
    from attunement.doctor import examine

    rows = examine()
    if as_json:
        print_json(rows)
    else:
        for name, entry in rows.items():
            typer.echo(f"{name:>24}  {entry}")
