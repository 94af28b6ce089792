import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from attunement import jobs, runs
from attunement.core import AttunementError, Context
from attunement.distributions.adapters import AdapterSettings, load_adapter
from attunement.distributions.tabular import Tabular
from attunement.jobs import Callbacks
from attunement.recipes import ModelSettings, TargetSettings, TuneRecipe
from attunement.report import write_report
from attunement.runs import METRICS, SAMPLES, Run
from attunement.scorers import as_scorer, parse_scorer, scorers_of
from attunement.targets import Target
from attunement.tuning import Keep, TuningSettings, evaluate, init

SETTINGS = TuningSettings(
    max_steps=4, batch_size=16, bank_size=64, evaluation_size=16, evaluate_every=2, save_every=2
)
RECIPE = TuneRecipe(
    model=ModelSettings(base="tiny-python", max_new_tokens=12),
    target=TargetSettings(constrain=("regex:self",)),
    settings=SETTINGS,
    measure_size=64,
    fit_size=256,
    command="attune tune ...",
)


class KilledError(Exception):
    """Stands for a kill in the middle of a run."""


def killer(step: int) -> Callbacks:
    def on_step(info: object) -> None:
        if info.step == step:
            raise KilledError

    return Callbacks(on_step=on_step)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    return jobs.tune(RECIPE, tmp_path_factory.mktemp("runs") / "whole")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1] / "policy.safetensors")


def test_a_run_holds_what_the_design_says(finished):
    for name in (runs.RECIPE, METRICS, SAMPLES, runs.MEASUREMENT, "policy/README.md"):
        assert (finished.folder / name).is_file()
    assert [path.name for path in finished.checkpoints()] == ["step-2", "step-4"]
    steps = [row["step"] for row in finished.rows(METRICS) if "gradient_norm" in row]
    assert steps == [1, 2, 3, 4]
    assert {row["when"] for row in finished.rows(SAMPLES)} == {
        "before",
        "during",
        "after",
        "target",
    }


def test_samples_of_the_target_are_all_allowed(finished):
    rows = list(finished.rows(SAMPLES))
    assert all(row["allowed"] for row in rows if row["when"] == "target")
    assert {row["allowed"] for row in rows if row["when"] == "before"} == {True, False}


def test_logs_are_strict_json(finished):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for name in (METRICS, SAMPLES, runs.MEASUREMENT, runs.RECIPE):
        text = (finished.folder / name).read_text(encoding="utf-8")
        for line in text.splitlines() if name.endswith("l") else [text]:
            assert json.loads(line, parse_constant=refuse)


@pytest.fixture(scope="module")
def further(finished, tmp_path_factory) -> Run:
    recipe = RECIPE.model_copy(update={"policy": str(finished.folder)})
    return jobs.tune(recipe, tmp_path_factory.mktemp("runs") / "further")


def test_a_run_can_start_from_another_ones_policy(finished, further):
    start = jobs.open_policy(finished)
    target = jobs.open_target(further)[1]
    problem, state = init(target, None, SETTINGS, policy=start)
    expected = evaluate(problem, state).estimates
    first = next(further.rows(METRICS))["estimates"]
    assert first["forward_kl"] == expected["forward_kl"].to_json()
    assert first["kl_policy_base"]["value"] > 0
    assert runs.read_json(further.folder / runs.RECIPE)["policy"] == str(finished.folder)
    card = (further.policy_folder / "README.md").read_text(encoding="utf-8")
    assert str(finished.folder) in card
    before = jobs.read_measurement(further, "before")
    assert before.divergences["kl_policy_base"].value < 0.01


@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_run_that_started_elsewhere_goes_on(finished, further, tmp_path, step):
    recipe = RECIPE.model_copy(update={"policy": str(finished.policy_folder)})
    with pytest.raises(KilledError):
        jobs.tune(recipe, tmp_path / "killed", callbacks=killer(step))
    run = jobs.resume(tmp_path / "killed")
    assert all(torch.equal(t, weights(further)[name]) for name, t in weights(run).items())


@pytest.mark.parametrize("start", ["unfinished", "nowhere"])
def test_a_start_that_is_not_there_is_told_at_once(finished, tmp_path, start):
    shutil.copytree(finished.folder, tmp_path / "unfinished")
    shutil.rmtree(tmp_path / "unfinished/policy")
    recipe = RECIPE.model_copy(update={"policy": str(tmp_path / start)})
    with pytest.raises(AttunementError, match=start):
        jobs.tune(recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_start_with_other_tokens_is_refused(finished, tmp_path):
    other = shutil.copytree(finished.policy_folder, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    recipe = RECIPE.model_copy(update={"policy": str(other)})
    with pytest.raises(AttunementError, match="another tokenizer"):
        jobs.tune(recipe, tmp_path / "new")


def test_the_policy_loads_with_transformers(finished):
    model = AutoModelForCausalLM.from_pretrained(finished.policy_folder)
    policy = jobs.open_policy(finished)
    for name, tensor in policy.module.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    card = (finished.policy_folder / "README.md").read_text(encoding="utf-8")
    assert "regex:self" in card
    assert "forward_kl" in card


ADAPTED = RECIPE.model_copy(update={"adapter": AdapterSettings(lora_rank=2)})


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> Run:
    return jobs.tune(ADAPTED, tmp_path_factory.mktemp("runs") / "adapted")


def test_an_adapter_starts_the_same_when_killed_before_any_checkpoint(adapted, tmp_path):
    with pytest.raises(KilledError):
        jobs.tune(ADAPTED, tmp_path / "killed", callbacks=killer(1))
    run = jobs.resume(tmp_path / "killed")
    assert all("lora" in name for name in weights(adapted))
    assert all(torch.equal(t, weights(run)[name]) for name, t in weights(adapted).items())
    delivered = "policy/adapter_model.safetensors"
    assert (run.folder / delivered).read_bytes() == (adapted.folder / delivered).read_bytes()


def test_an_adapter_is_delivered_as_pefts_folder(adapted):
    assert not (adapted.policy_folder / "model.safetensors").exists()
    card = (adapted.policy_folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card
    assert "loaded over `tiny-python`" in card
    _, target, _ = jobs.open_target(adapted)
    policy = jobs.open_policy(adapted, base=target.base)
    samples = target.base.sample(None, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loaded = load_adapter(target.base, adapted.policy_folder).log_prob(samples)
        assert torch.equal(policy.log_prob(samples), loaded)
        assert not torch.equal(samples.log_prob, loaded)
    assert next(policy.module.parameters()).data_ptr() == (
        next(target.base.module.parameters()).data_ptr()
    )
    assert jobs.measure_run(adapted, 64, seed=1).divergences["kl_policy_base"].value > 0


def test_a_delivered_adapter_is_trained_on(adapted, tmp_path):
    recipe = RECIPE.model_copy(update={"policy": str(adapted.folder)})
    run = jobs.tune(recipe, tmp_path / "further")
    assert set(weights(run)) == set(weights(adapted))
    assert not all(torch.equal(t, weights(run)[name]) for name, t in weights(adapted).items())


def test_a_layer_that_is_not_there_is_told_at_once(tmp_path):
    form = AdapterSettings(lora_target_modules=("q_proj",))
    with pytest.raises(AttunementError, match=r"'q_proj'.*c_attn, c_fc, c_proj"):
        jobs.tune(RECIPE.model_copy(update={"adapter": form}), tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_run_goes_on_bit_for_bit(finished, tmp_path, step):
    with pytest.raises(KilledError):
        jobs.tune(RECIPE, tmp_path / "killed", callbacks=killer(step))
    run = jobs.resume(tmp_path / "killed")
    assert all(torch.equal(t, weights(finished)[name]) for name, t in weights(run).items())

    def without_time(log: str, one: Run) -> list[dict[str, object]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in one.rows(log)]

    for log in (METRICS, SAMPLES):
        assert without_time(log, run) == without_time(log, finished)


def test_a_finished_run_is_left_as_it_is(finished):
    before = (finished.folder / METRICS).read_bytes()
    jobs.resume(finished.folder)
    assert (finished.folder / METRICS).read_bytes() == before


def test_a_corrupt_checkpoint_says_what_to_delete(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    (copy / runs.MEASUREMENT).unlink()
    (copy / "checkpoints/step-4/policy.safetensors").write_bytes(b"cut short")
    with pytest.raises(AttunementError, match=r"step-4.*delete the folder"):
        jobs.resume(copy)
    shutil.rmtree(copy / "checkpoints/step-4")
    run = jobs.resume(copy)
    assert all(torch.equal(t, weights(finished)[name]) for name, t in weights(run).items())


def test_nothing_is_written_when_the_target_cannot_be(tmp_path):
    asked = RECIPE.model_copy(update={"target": TargetSettings(constrain=("regex:^(?!)",))})
    with pytest.raises(AttunementError, match="none of 64 samples"):
        jobs.tune(asked, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_an_occupied_folder_is_refused_before_any_work(finished):
    def too_late(sentence: str) -> None:
        raise AssertionError(sentence)

    with pytest.raises(AttunementError, match="holds another run"):
        jobs.tune(RECIPE, finished.folder, callbacks=Callbacks(on_stage=too_late))


def test_a_users_scorer_travels_with_the_run(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text("def short(texts):\n    return [len(t) < 30 for t in texts]\n")
    spec = f"{source}:short"
    asked = RECIPE.model_copy(
        update={
            "target": TargetSettings(match={spec: 0.6}),
            "settings": SETTINGS.model_copy(update={"max_steps": 1}),
        }
    )
    run = jobs.tune(asked, tmp_path / "run")
    source.unlink()
    recipe, target, _ = jobs.open_target(run)
    assert target.lambdas_ == recipe.lambdas
    assert set(recipe.lambdas) == {spec}
    measured = jobs.measure_run(run, 64, seed=3)
    assert set(measured.policy) == {spec}


def test_a_users_lists_travel_with_the_run_and_its_recipe(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/words.txt").write_text("self\nreturn\n")
    (tmp_path / "lists/terms.tsv").write_text("use\tself\n")
    specs = [
        f"lexicon:{tmp_path}/lists/words.txt",
        f"glossary:{tmp_path}/lists/terms.tsv,column=text",
    ]
    contexts = (Context("def f(", {"text": "use it"}),)
    asked = RECIPE.model_copy(
        update={
            "target": TargetSettings(tilt=dict.fromkeys(specs, 1.0), beta=1.0),
            "settings": SETTINGS.model_copy(update={"max_steps": 1}),
        }
    )
    run = jobs.tune(asked, tmp_path / "run", contexts)
    shutil.rmtree(tmp_path / "lists")
    recipe, target, _ = jobs.open_target(run)
    assert [scorer.name for scorer in target.scorers] == specs
    scorer_of = scorers_of(run.folder, recipe.scorer_files)
    recipe.check(scorer_of)
    again = jobs.tune(recipe, tmp_path / "again", contexts, scorer_of=scorer_of)
    assert jobs.read_recipe(again).scorer_files == recipe.scorer_files
    assert all(torch.equal(t, weights(run)[name]) for name, t in weights(again).items())


REWARD_FILE = """
def brief(prompts, completions, task, **columns):
    pairs = zip(task, completions, strict=True)
    return [2.0 + (len(text) < 30) if name == "brief" else None for name, text in pairs]
"""


def test_a_reward_that_says_nothing_of_some_samples_is_left_out_and_counted(tmp_path):
    (tmp_path / "mine.py").write_text(REWARD_FILE)
    spec = f"{tmp_path / 'mine.py'}:brief"
    contexts = (Context("def f(", {"task": "brief"}), Context("def g(", {"task": "other"}))
    asked = RECIPE.model_copy(
        update={
            "target": TargetSettings(tilt={spec: 1.0}, beta=1.0),
            "settings": SETTINGS.model_copy(update={"samples_per_context": 16}),
        }
    )
    run = jobs.tune(asked, tmp_path / "run", contexts)
    measured = jobs.read_measurement(run, "after")
    half = measured.n // 2
    assert f"{spec}: not applicable to {half} of {measured.n} samples" in measured.warnings
    shown = [row for row in run.rows(SAMPLES) if row["when"] == "before"]
    assert {row["features"][spec] is None for row in shown if row["context"] == 1} == {True}
    values = [row["features"][spec] for row in shown if row["context"] == 0]
    assert set(values) <= {2.0, 3.0}
    for table in (measured.base, measured.policy, measured.target):
        assert 2 <= table[spec].value <= 3
    evaluations = [row["estimates"] for row in run.rows(METRICS) if "estimates" in row]
    assert all(2 <= row[spec]["value"] <= 3 and row[spec]["n"] == 8 for row in evaluations)
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"not applicable to {half} of {measured.n} samples" in page


def test_the_recipe_keeps_what_the_base_decided(tmp_path):
    model = ModelSettings(base="tiny-python")
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    asked = RECIPE.model_copy(update={"model": model, "settings": settings, "measure_size": 16})
    run = jobs.tune(asked, tmp_path / "run")
    assert jobs.read_recipe(run).model.max_new_tokens == 64
    assert jobs.open_policy(run).outcomes.max_new_tokens == 64


def test_contexts_are_kept(tmp_path):
    contexts = (Context("def f("), Context("def g(a", {"row": 1}))
    asked = RECIPE.model_copy(update={"settings": SETTINGS.model_copy(update={"max_steps": 1})})
    run = jobs.tune(asked, tmp_path / "run", contexts)
    assert jobs.contexts_of(run) == contexts


EACH = RECIPE.model_copy(
    update={
        "target": TargetSettings(match_each={"regex:self": 0.3}, match={"length": 11.5}),
        "settings": SETTINGS.model_copy(update={"max_steps": 2, "bank_size": 512}),
    }
)


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Run:
    contexts = (Context("def f("), Context("def get(", {"row": 1}))
    return jobs.tune(EACH, tmp_path_factory.mktemp("runs") / "held", contexts)


def test_moments_held_in_every_context_travel_with_the_run(held):
    recipe, target, contexts = jobs.open_target(held)
    found = target.lambdas_["regex:self"]
    assert found.contexts == contexts
    assert found.values == tuple(row.lambdas["regex:self"] for row in recipe.context_fits)
    assert [row.context for row in recipe.context_fits] == [0, 1]
    assert target.lambdas_["length"] == recipe.lambdas["length"]
    assert set(recipe.moments) == {"regex:self", "length"}
    assert all(set(row.moments) == {"regex:self"} for row in recipe.context_fits)
    assert 0 < recipe.fit_ess <= 512
    measured = jobs.measure_run(held, 128, seed=3)
    assert set(measured.policy) == {"regex:self", "length"}
    card = (held.policy_folder / "README.md").read_text(encoding="utf-8")
    assert "match `regex:self` = 0.3 in each of 2 contexts" in card


def test_a_context_that_lambda_was_not_fitted_on_is_an_error(held):
    _, target, _ = jobs.open_target(held)
    other = target.base.sample(["def h("], 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AttunementError, match=r"no λ for the context 'def h\('"):
        target.log_potential(other)


def test_contexts_that_were_edited_are_found(held, tmp_path):
    shutil.copytree(held.folder, tmp_path / "edited")
    run = Run.open(tmp_path / "edited")
    path = run.folder / runs.CONTEXTS
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("1", "2")]), encoding="utf-8")
    with pytest.raises(AttunementError, match=r"context 1 \('def get\('\) isn't the one that λ"):
        jobs.open_target(run)
    path.write_text(lines[0], encoding="utf-8")
    with pytest.raises(AttunementError, match="fitted on 2 contexts and there are 1"):
        jobs.open_target(run)


def test_a_policy_that_a_run_starts_from_lends_its_samples_to_the_fit(finished, tmp_path):
    target = TargetSettings(match={"regex:self": 0.5})
    asked = RECIPE.model_copy(
        update={"target": target, "settings": SETTINGS.model_copy(update={"max_steps": 1})}
    )
    plain = jobs.tune(asked, tmp_path / "plain")
    start = asked.model_copy(update={"policy": str(finished.folder)})
    sentences = []
    refined = jobs.tune(start, tmp_path / "refined", callbacks=Callbacks(sentences.append))
    first, then = (jobs.read_recipe(run).lambdas["regex:self"] for run in (plain, refined))
    assert first != then
    generator = runs.generator_for(SETTINGS.seed, jobs._FIT)
    base, policy = RECIPE.model.load(), jobs.open_policy(finished)
    again = target.build(base).fit(None, n=256, proposal=policy, generator=generator)
    assert again.lambdas_["regex:self"] == then
    assert any("regex:self = 0.5: λ = " in sentence for sentence in sentences)
    assert any("effective samples" in sentence for sentence in sentences)


def test_a_model_with_an_encoder_is_tuned_killed_and_resumed(t5_folder, tmp_path):
    asked = RECIPE.model_copy(
        update={
            "model": ModelSettings(base=str(t5_folder), max_new_tokens=6),
            "target": TargetSettings(constrain=("contains:d",), floor=0.1),
            "settings": SETTINGS.model_copy(update={"learning_rate": 1e-2, "keep": Keep.LAST}),
        }
    )
    contexts = (Context("abc"), Context(""), Context("ddddllkk"))
    whole = jobs.tune(asked, tmp_path / "whole", contexts)
    with pytest.raises(KilledError):
        jobs.tune(asked, tmp_path / "killed", contexts, killer(3))
    killed = jobs.resume(tmp_path / "killed")
    assert all(torch.equal(t, weights(whole)[name]) for name, t in weights(killed).items())
    policy = jobs.open_policy(whole)
    model = AutoModelForSeq2SeqLM.from_pretrained(whole.policy_folder)
    for name, tensor in policy.module.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    base = jobs.open_target(whole)[1].base.module.state_dict()
    moved = {n for n, t in policy.module.state_dict().items() if not torch.equal(t, base[n])}
    assert {name.partition(".")[0] for name in moved} >= {"encoder", "decoder"}


@pytest.mark.parametrize(("floor", "word"), [(None, "exact"), (0.5, "exact")])
def test_a_constraint_is_drawn_from_exactly(floor, word):
    base = Tabular.random(4, 3, generator=torch.Generator().manual_seed(0))
    target = Target(base).constrain(parse_scorer("contains:a"), floor)
    samples, note = jobs.draw_from(target, None, 50, 0.2, torch.Generator().manual_seed(1))
    assert len(samples) == 50
    assert word in note
    assert floor is not None or all("a" in text for text in samples.texts)


def test_a_tilt_is_drawn_from_nearly_and_says_so():
    base = Tabular.random(4, 3, generator=torch.Generator().manual_seed(0))
    target = Target(base).tilt(parse_scorer("length"), beta=2)
    samples, note = jobs.draw_from(target, None, 50, 0.2, torch.Generator().manual_seed(1))
    assert len(samples) == 50
    assert "quasi-rejection samples: total variation" in note


@pytest.mark.parametrize("add", [lambda t, s: t.constrain(s), lambda t, s: t.tilt(s, 2.0)])
def test_samples_that_a_factor_says_nothing_of_are_counted(add):
    base = Tabular.random(4, 3, generator=torch.Generator().manual_seed(0))

    def long(texts: list[str]) -> list[float | None]:
        return [float("a" in text) if len(text) > 1 else None for text in texts]

    target = add(Target(base), as_scorer(long))
    samples, note = jobs.draw_from(target, None, 50, 0.2, torch.Generator().manual_seed(1))
    short = sum(len(text) <= 1 for text in samples.texts)
    assert 0 < short < 50
    assert note.endswith(f"; long: not applicable to {short} of 50 samples")


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(AttunementError, match="holds no run"):
        jobs.resume(tmp_path)
    assert not jobs.is_run(tmp_path)


def test_an_unfinished_run_has_no_measurement(tmp_path):
    with pytest.raises(KilledError):
        jobs.tune(RECIPE, tmp_path / "killed", callbacks=killer(1))
    run = Run.open(tmp_path / "killed")
    with pytest.raises(AttunementError, match="isn't finished"):
        jobs.read_measurement(run, "after")
    assert Path(run.policy_folder).is_dir()


def test_a_target_that_cannot_be_shown_does_not_fail_the_run(tmp_path, monkeypatch):
    def used_up(*_, **__):
        raise AttunementError("the budget is used up")

    monkeypatch.setattr(jobs, "rejection", used_up)
    sentences = []
    run = jobs.tune(RECIPE, tmp_path / "run", None, jobs.Callbacks(on_stage=sentences.append))
    assert (run.folder / "policy").is_dir()
    assert any("no samples of the target are shown" in sentence for sentence in sentences)
