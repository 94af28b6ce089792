import re

import pytest
import typer

from attunement.cli.app import app
from attunement.cli.tuning_options import AdapterOptions, HeldOutOptions
from attunement.contexts import signatures
from attunement.distributions.adapters import AdapterSettings
from attunement.divergences import DIVERGENCES
from attunement.recipes import TuneRecipe
from attunement.tuning import TuningSettings

COMMANDS = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
TUNE = {option.name: option for option in COMMANDS["tune"].params}
ELSEWHERE = {"adam_beta1", "adam_beta2", "adam_epsilon"}
"""Settings that are no options."""


@pytest.mark.parametrize("settings", [TuningSettings, AdapterSettings])
def test_every_setting_is_an_option(settings):
    assert settings.model_fields.keys() - TUNE.keys() <= ELSEWHERE


@pytest.mark.parametrize("name", [name for name in TuningSettings.model_fields if name in TUNE])
def test_the_help_says_the_default_of_a_setting(name):
    default, shown = TuningSettings.model_fields[name].default, TUNE[name].show_default
    if isinstance(default, bool):
        assert default is False
        assert TUNE[name].is_flag
    elif isinstance(default, int | float):
        assert float(shown) == default
    else:
        assert re.split("; | ", shown)[0] == default


def test_the_help_says_the_other_defaults():
    sizes = {"measure_size": TuneRecipe, "fit_size": TuneRecipe, "lora_alpha": AdapterSettings}
    for name, owner in sizes.items():
        assert int(TUNE[name].show_default) == owner.model_fields[name].default
    assert TUNE["baseline"].show_default.endswith(
        f"reward {TuningSettings.model_validate({'objective': 'reward'}).baseline}"
    )


def test_the_help_names_every_divergence():
    for name in DIVERGENCES:
        assert name in TUNE["divergence"].help


def test_every_option_stands_under_a_heading():
    unsorted = [name for name, option in TUNE.items() if option.rich_help_panel is None]
    assert unsorted == []
    assert {option.rich_help_panel for option in TUNE.values()} == {
        "Model", "Target", "Contexts", "Objective", "Optimisation", "Proposal", "Evaluation",
        "Output", "Machine",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_has_words_that_are_taken_for_markup(command):
    """Words in square brackets would be a style to the help, and not be seen."""
    for option in COMMANDS[command].params:
        assert "[" not in (getattr(option, "help", None) or ""), option.name


def test_the_help_shows_headings_and_defaults(attune, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    done = attune("tune", "--help")
    assert done.returncode == 0, done.stderr
    assert "─ Proposal " in done.stdout
    assert re.search(r"--max-steps .*default: \(80\)", done.stdout)


def test_an_adapter_is_asked_for_by_its_rank():
    assert AdapterOptions().settings() is None
    found = AdapterOptions(lora_rank=4, lora_target_modules=["c_attn"]).settings()
    assert found == AdapterSettings(lora_rank=4, lora_target_modules=("c_attn",))
    with pytest.raises(typer.BadParameter, match="--lora-alpha has no use without --lora-rank"):
        AdapterOptions(lora_alpha=8).settings()


def test_held_out_prompts_are_read_from_their_source():
    assert HeldOutOptions().read(None, 0) is None
    source = "tiny-python-signatures:held-out"
    found = HeldOutOptions(evaluation_prompts=source, max_evaluation_prompts=3).read(None, 0)
    assert len(found) == 3
    assert all(context in signatures("held-out") for context in found)
    with pytest.raises(typer.BadParameter, match="needs --evaluation-prompts"):
        HeldOutOptions(max_evaluation_prompts=3).read(None, 0)
