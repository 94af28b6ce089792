from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from attunement.cli.grouping import Options, flat


@dataclass(frozen=True, kw_only=True)
class Fruit(Options):
    panel: ClassVar[str] = "Fruit"

    kind: Annotated[str, typer.Option(help="Which.")]
    pieces: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 2
    names: Annotated[list[str] | None, typer.Option(help="Of each.")] = None
    ripe: Annotated[bool | None, typer.Option("--ripe", help="Whether it is.")] = None


@dataclass(frozen=True, kw_only=True)
class Bowl(Options):
    panel: ClassVar[str] = "Bowl"

    size: Annotated[float | None, typer.Option(show_default="any")] = None


@pytest.fixture
def buy():
    """An application of one command, and the calls that its command got."""
    app, calls = typer.Typer(add_completion=False), []

    @app.command()
    @flat
    def buy(
        context: typer.Context,
        shop: Annotated[str, typer.Argument()],
        fruit: Fruit,
        bowl: Bowl,
        size_of_bag: Annotated[int, typer.Option()] = 1,
    ) -> None:
        """Buy fruit."""
        source = context.get_parameter_source("pieces")
        calls.append((shop, fruit, bowl, size_of_bag, source.name))

    def run(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return app, run, calls


def test_a_command_gets_its_options_in_groups(buy):
    _, run, calls = buy
    done = run("corner", "--kind=fig", "-n", "3", "--names=a", "--names=b", "--ripe", "--size=1.5")
    assert done.exit_code == 0, done.output
    assert calls == [
        (
            "corner",
            Fruit(kind="fig", pieces=3, names=["a", "b"], ripe=True),
            Bowl(size=1.5),
            1,
            "COMMANDLINE",
        )
    ]


def test_defaults_are_those_of_the_groups(buy):
    _, run, calls = buy
    assert run("corner", "--kind=fig", "--size-of-bag=2").exit_code == 0
    assert calls == [("corner", Fruit(kind="fig"), Bowl(), 2, "DEFAULT")]
    assert Fruit(kind="fig").given() == {"kind": "fig", "pieces": 2}
    assert Fruit(kind="fig", ripe=False).given()["ripe"] is False


@pytest.mark.parametrize("arguments", [["corner"], ["corner", "--kind=fig", "-n", "0"]])
def test_what_an_option_asks_is_asked_still(buy, arguments):
    _, run, calls = buy
    assert run(*arguments).exit_code == 2
    assert calls == []


def test_options_stand_under_the_heading_of_their_group(buy):
    app, _, _ = buy
    panels = {p.name: getattr(p, "rich_help_panel", None) for p in command_of(app).params}
    assert [panels[name] for name in ("kind", "pieces", "names", "ripe")] == ["Fruit"] * 4
    assert panels["size"] == "Bowl"
    assert panels["size_of_bag"] is None


def command_of(app):
    return typer.main.get_command(app)
