import shutil

import pytest

from attunement import jobs
from attunement.core import AttunementError
from attunement.locations import with_absolute_paths
from attunement.recipes import ModelSettings, TargetSettings, TuneRecipe
from attunement.runs import MEASUREMENT
from attunement.tuning import Proposal, TuningSettings


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a few folders."""
    for name in ("models/gpt", "runs/first", "classifiers/good", "pipelines/en", "tiny-python"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_become_absolute_and_names_stay(here):
    asked = TuneRecipe(
        model=ModelSettings(base="models/gpt"),
        target=TargetSettings(
            constrain=("compiles", "mine.py:short"),
            match={
                "classifier:classifiers/good=POSITIVE": 0.5,
                "classifier:somebody/else=POSITIVE": 0.6,
                "entities_in_source_share:column=article,spacy=pipelines/en": 0.7,
            },
            match_each={"regex:models/gpt": 0.5},
            tilt={"classifier:./classifiers/good=kind": -1.0, "lexicon:words.txt": 2.0},
            beta=0.5,
        ),
        policy="runs/../runs/first",
        proposal_model="somebody/something",
        command="attune tune --base models/gpt",
    )
    found = with_absolute_paths(asked)
    assert found.model.base == str(here / "models/gpt")
    assert found.policy == str(here / "runs/first")
    assert found.proposal_model == "somebody/something"
    assert found.command == asked.command
    assert found.target.constrain == asked.target.constrain
    assert found.target.match_each == asked.target.match_each
    assert found.target.match == {
        f"classifier:{here / 'classifiers/good'}=POSITIVE": 0.5,
        "classifier:somebody/else=POSITIVE": 0.6,
        f"entities_in_source_share:column=article,spacy={here / 'pipelines/en'}": 0.7,
    }
    assert found.target.tilt == {
        f"classifier:{here / 'classifiers/good'}=kind": -1.0,
        "lexicon:words.txt": 2.0,
    }
    assert with_absolute_paths(found) == found


@pytest.mark.usefixtures("here")
def test_the_embedded_model_is_no_folder():
    asked = TuneRecipe(
        model=ModelSettings(base="tiny-python"), target=TargetSettings(constrain=("compiles",))
    )
    assert with_absolute_paths(asked) == asked


@pytest.mark.usefixtures("here")
def test_one_feature_in_two_words_is_an_error():
    match = {f"classifier:{dot}classifiers/good=x": mean for dot, mean in (("", 0.5), ("./", 0.6))}
    asked = TuneRecipe(model=ModelSettings(base="tiny-python"), target=TargetSettings(match=match))
    with pytest.raises(AttunementError, match="named twice, in different words"):
        with_absolute_paths(asked)


def test_a_run_of_relative_paths_goes_on_from_another_directory(tmp_path, monkeypatch):
    settings = TuningSettings(
        max_steps=2, batch_size=16, bank_size=64, evaluation_size=16, save_every=1
    )
    recipe = TuneRecipe(
        model=ModelSettings(base="tiny-python", max_new_tokens=12),
        target=TargetSettings(constrain=("regex:self",)),
        settings=settings,
        measure_size=32,
    )
    monkeypatch.chdir(tmp_path)
    shutil.copytree(jobs.tune(recipe, "first").policy_folder, "base")
    elsewhere = {
        "model": ModelSettings(base="base", max_new_tokens=12),
        "policy": "first",
        "proposal_model": "first/policy",
        "settings": settings.model_copy(update={"proposal": Proposal.OTHER}),
    }
    whole = jobs.tune(recipe.model_copy(update=elsewhere), "whole").folder.resolve()
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for later in ("checkpoints/step-2", "policy"):
        shutil.rmtree(cut / later)
    (cut / MEASUREMENT).unlink()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    jobs.resume(cut)
    for name in ("checkpoints/step-2/policy.safetensors", "policy/model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    card = (cut / "policy/README.md").read_text(encoding="utf-8")
    assert "# base, tuned towards a target" in card
