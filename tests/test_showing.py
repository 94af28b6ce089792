import torch

from attunement.distributions.tabular import Tabular
from attunement.runs import SAMPLES, Run
from attunement.showing import show_all, show_some
from attunement.targets import Target
from attunement.tuning import TuningSettings, init

SETTINGS = TuningSettings(batch_size=16, bank_size=64, max_steps=3)
PROMPTS = ("p", "q", "r")


def has_a(texts):
    return ["a" in text for text in texts]


def problem_of(target, contexts=None, evaluation_contexts=None):
    return init(target, contexts, SETTINGS, evaluation_contexts=evaluation_contexts)


def base(prompts=("",)):
    return Tabular.random(3, 3, generator=torch.Generator().manual_seed(0), prompts=prompts)


def test_samples_of_base_policy_and_target_are_logged(tmp_path):
    run, told = Run.create(tmp_path / "run", {}), []
    problem, state = problem_of(Target(base()).constrain(has_a))
    show_all(run, problem, state.average, told.append)
    rows = list(run.rows(SAMPLES))
    assert [row["when"] for row in rows] == ["before"] * 40 + ["after"] * 40 + ["target"] * 40
    assert all(row["allowed"] for row in rows if row["when"] == "target")
    assert all(row["features"]["has_a"] == float("a" in row["text"]) for row in rows)
    assert all(row["log_base"] == row["log_policy"] for row in rows)
    assert {row["prompt"] for row in rows} == {""}
    assert told == []


def test_a_target_that_is_hardly_ever_met_is_left_out_with_a_word(tmp_path):
    language = base()
    problem, state = problem_of(Target(language).constrain(has_a))
    with torch.no_grad():
        language.logits[..., 1] -= 40.0
    run, told = Run.create(tmp_path / "run", {}), []
    show_all(run, problem, state.average, told.append)
    assert {row["when"] for row in run.rows(SAMPLES)} == {"before", "after"}
    assert told[0].startswith("no samples of the target are shown")


def test_held_out_contexts_are_what_is_shown(tmp_path):
    run = Run.create(tmp_path / "run", {})
    target = Target(base(PROMPTS)).constrain(has_a)
    problem, state = problem_of(target, ["p"], evaluation_contexts=["q", "r"])
    show_some(run, problem, state.average, step=2)
    rows = list(run.rows(SAMPLES))
    assert [row["context"] for row in rows] == [0] * 4 + [1] * 4
    assert [row["prompt"] for row in rows] == ["q"] * 4 + ["r"] * 4
    assert {(row["when"], row["step"]) for row in rows} == {("during", 2)}


def test_exact_samples_come_from_contexts_in_which_there_are_any(tmp_path):
    def not_in_p(contexts, texts):
        return [c.prompt != "p" and "a" in text for c, text in zip(contexts, texts, strict=True)]

    run, told = Run.create(tmp_path / "run", {}), []
    problem, state = problem_of(Target(base(PROMPTS)).constrain(not_in_p), PROMPTS)
    show_all(run, problem, state.average, told.append)
    exact = [row for row in run.rows(SAMPLES) if row["when"] == "target"]
    assert [row["context"] for row in exact] == [1] * 20 + [2] * 20
    assert [row["prompt"] for row in exact] == ["q"] * 20 + ["r"] * 20
    assert told == []
