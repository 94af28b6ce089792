import pytest
import torch
from pydantic import ValidationError

from attunement.core import AttunementError, Context, Stop
from attunement.distributions.adapters import AdapterSettings, with_adapter
from attunement.factors import Constraint, Moment, MomentEach, Tilt
from attunement.recipes import ModelSettings, TargetSettings, TuneRecipe
from attunement.tuning import TuningSettings

TINY = ModelSettings(base="tiny-python")


def recipe(**target: object) -> TuneRecipe:
    return TuneRecipe(model=TINY, target=TargetSettings.model_validate(target))


def test_json_round_trip():
    asked = recipe(constrain=("compiles",), match={"has_docstring": 0.5}, tilt={"length": -1.0})
    assert TuneRecipe.parse(asked.model_dump(mode="json"), "here") == asked


def test_the_target_is_built_in_order():
    settings = TargetSettings(
        constrain=("compiles",),
        floor=0.1,
        match={"has_docstring": 0.5},
        match_each={"finished": 0.4},
        tilt={"length": 2.0},
        beta=3,
    )
    target = settings.build(TINY.load())
    kinds = [type(factor) for factor in target.factors]
    assert kinds == [Constraint, Moment, MomentEach, Tilt]
    names = ["compiles", "has_docstring", "finished", "length"]
    assert [row["scorer"] for row in target.describe()] == names
    assert target.describe()[0]["floor"] == 0.1
    assert target.describe()[3] == {
        "kind": "tilt",
        "scorer": "length",
        "beta": 3.0,
        "weight": 2.0,
    }


def test_the_model_carries_its_outcomes():
    settings = ModelSettings(base="tiny-python", max_new_tokens=7, stop=("\ndef ",))
    outcomes = settings.load().outcomes
    assert outcomes.max_new_tokens == 7
    assert outcomes.stop.strings == ("\ndef ",)
    assert TINY.load().outcomes.max_new_tokens == 64
    assert TINY.load().module.dtype == torch.float32


def test_a_stop_preset_is_a_function():
    outcomes = ModelSettings(base="tiny-python", stop_preset="python-function").load().outcomes
    assert isinstance(outcomes.stop, Stop)
    assert outcomes.stop.find("    return 1\nprint(2)") == 12


def test_an_unknown_preset_lists_what_there_is():
    with pytest.raises(ValidationError, match="no stop preset 'java'; there is python-function"):
        ModelSettings(base="tiny-python", stop_preset="java")


@pytest.mark.parametrize("wrong", [{"floor": 0}, {"floor": 1}, {"beta": 0}, {"beta": -1}])
def test_floor_and_beta_have_ranges(wrong):
    with pytest.raises(ValidationError, match="should be"):
        TargetSettings.model_validate({"constrain": ["compiles"], "tilt": {"length": 1}, **wrong})


def test_a_tilt_without_beta_is_not_built():
    with pytest.raises(AttunementError, match="--tilt needs --beta"):
        TargetSettings(tilt={"length": 1.0}).build(TINY.load())


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({}, "the target has no factor"),
        ({"constrain": ("compile",)}, "compiles"),
        ({"match": {"length": 3}, "floor": 0.1}, "--floor has no use without --constrain"),
        ({"tilt": {"length": 1}}, "--tilt and --beta need each other"),
        ({"constrain": ("compiles",), "beta": 1}, "--tilt and --beta need each other"),
        ({"constrain": ("compiles",), "match": {"compiles": 0.5}}, "compiles is constrained to be"),
        ({"match": {"length": 3}, "match_each": {"length": 3}}, "length is in match and in match_"),
    ],
)
def test_check_finds_what_is_wrong_without_a_model(target, sentence):
    with pytest.raises(AttunementError, match=sentence):
        recipe(**target).check()


def test_check_knows_infinite_divergences():
    asked = TuneRecipe(
        model=TINY,
        target=TargetSettings(constrain=("compiles",)),
        settings=TuningSettings(divergence="reverse_kl"),
    )
    with pytest.raises(AttunementError, match="reverse_kl is infinite"):
        asked.check()
    floor = asked.target.model_copy(update={"floor": 0.01})
    asked.model_copy(update={"target": floor}).check()


def test_an_adapter_is_part_of_the_recipe():
    form = AdapterSettings(lora_rank=4, lora_target_modules=("c_attn",))
    asked = recipe(constrain=("compiles",)).model_copy(update={"adapter": form})
    assert TuneRecipe.parse(asked.model_dump(mode="json"), "here") == asked
    asked.check()
    with pytest.raises(AttunementError, match="leave out --policy or --lora-rank"):
        asked.model_copy(update={"policy": "runs/first"}).check()


def test_an_adapter_is_loaded_over_the_base_at_hand_if_it_is_its_own(tmp_path):
    base = TINY.load()
    with_adapter(base, generator=torch.Generator().manual_seed(0)).save(tmp_path / "adapter")
    base.save(tmp_path / "other")
    other = ModelSettings(base=str(tmp_path / "other"), max_new_tokens=64).load()

    def weight(model):
        return next(model.module.parameters()).data_ptr()

    assert weight(TINY.load(tmp_path / "adapter", base=base)) == weight(base)
    for at_hand in (None, other):
        loaded = TINY.load(tmp_path / "adapter", base=at_hand)
        assert weight(loaded) not in {weight(base), weight(other)}
        assert loaded.outcomes == base.outcomes


def test_an_adapter_knows_its_base_by_a_relative_path_too(tmp_path, monkeypatch):
    TINY.load().save(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    relative, absolute = (
        ModelSettings(base=name, max_new_tokens=64) for name in ("base", str(tmp_path / "base"))
    )
    adapted = with_adapter(relative.load(), generator=torch.Generator().manual_seed(0))
    adapted.save(tmp_path / "adapter")
    base = absolute.load()
    loaded = absolute.load(tmp_path / "adapter", base=base)
    assert next(loaded.module.parameters()).data_ptr() == next(base.module.parameters()).data_ptr()


def test_an_unknown_entry_is_named():
    content = recipe(constrain=("compiles",)).model_dump(mode="json")
    content["settings"]["learning_rats"] = 1
    with pytest.raises(
        AttunementError, match=r"here is not a tuning recipe: settings\.learning_rats"
    ):
        TuneRecipe.parse(content, "here")


def test_held_out_contexts_need_others_and_a_target_that_knows_them():
    asked, held_out = recipe(constrain=("compiles",)), [Context("b")]
    asked.check_contexts([Context("a")], held_out)
    asked.check_contexts([Context("a")], None)
    with pytest.raises(AttunementError, match="give --prompts to tune on"):
        asked.check_contexts(None, held_out)
    with pytest.raises(AttunementError, match="among those of tuning"):
        asked.check_contexts(held_out, held_out)
    with pytest.raises(AttunementError, match="leave out --evaluation-prompts, or use --match"):
        recipe(match_each={"finished": 0.4}).check_contexts([Context("a")], held_out)
