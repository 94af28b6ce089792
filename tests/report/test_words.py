import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import Estimate
from attunement.recipes import ContextFit, TargetSettings
from attunement.report.reading import read_run
from attunement.report.words import (
    comparison_warnings,
    doubt,
    how_moved,
    interval,
    number,
    parameters,
    satisfies,
    terms,
    verdict,
    warnings,
    with_interval,
)

SOUND = Estimate(0.5, 0.1, 0.3, 0.7, 100, 100.0)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6))
def test_a_number_keeps_three_digits_or_three_decimals(value):
    text = number(value)
    assert "-" not in text.replace("e-", "")
    assert float(text.replace("−", "-")) == pytest.approx(value, rel=5e-2, abs=5.1e-4)


def test_special_numbers():
    assert [number(v) for v in (math.inf, -math.inf, math.nan, 0.0)] == ["∞", "−∞", "n/a", "0.000"]


def test_an_interval_has_the_decimals_of_its_value_and_none_where_infinite():
    assert with_interval(Estimate(12.345, 1.0, 9.1234, 15.0, 9, 9.0)) == "12.35 [9.12, 15.00]"
    assert interval(Estimate(math.inf, None, math.inf, math.inf, 9, 9.0)) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"khat": 0.71}, "k̂ = 0.71"),
        ({"ess": 24.9}, "24.9 effective samples"),
        ({"value": math.inf}, "is infinite"),
        ({"value": math.nan}, "could not be estimated"),
    ],
)
def test_each_reason_for_doubt_is_given(change, words):
    assert doubt(SOUND) is None
    assert words in doubt(replace(SOUND, **change))


def test_every_factor_is_a_term(write_run):
    target = TargetSettings(
        constrain=("compiles", "pep8"), match={"uses_name:self": 0.5}, tilt={"length": 2.0}, beta=4
    )
    found = terms(read_run(write_run("all", target)))
    assert [term.formula for term in found] == [
        "log a(x)",
        "log 1[compiles(x) = 1]",
        "log 1[pep8(x) = 1]",
        "λ · uses_name:self(x)",
        "2 · length(x) / 4",
    ]
    assert "isn't fitted" in found[3].caption


def held_in(*values: float) -> tuple[ContextFit, ...]:
    return tuple(
        ContextFit(
            context=index,
            digest="d",
            lambdas={"length": index - 1.5},
            moments={"length": replace(SOUND, value=v, low=v - 0.2, high=v + 0.2).to_json()},
        )
        for index, v in enumerate(values)
    )


def test_a_moment_that_is_held_in_every_context_says_how_far_it_is_held(write_run):
    target = TargetSettings(match_each={"length": 0.5})
    unfitted = terms(read_run(write_run("unfitted", target)))[1]
    assert "isn't fitted yet" in unfitted.caption
    reading = read_run(write_run("held", target, context_fits=held_in(0.45, 0.9, 0.5)))
    found = terms(reading)[1]
    assert found.formula == "λ(c) · length(x)"
    assert "λ from −1.500 to 0.500" in found.caption
    assert "holds it in 2 of 3 contexts; the furthest off is 0.900 [0.700, 1.100]" in found.sentence
    words = parameters(reading.recipe.factors[0])
    assert words == "match in each of 3 contexts, mean 0.500, λ from −1.500 to 0.500"


def test_parameters_stand_in_a_few_words(write_run):
    target = TargetSettings(
        constrain=("compiles",), floor=0.1, match={"length": 30}, tilt={"pep8": -1}, beta=2
    )
    reading = read_run(write_run("all", target, lambdas={"length": 0.25}))
    assert [parameters(factor) for factor in reading.recipe.factors] == [
        "constraint, floor 0.1",
        "match, mean 30.00, λ = 0.250",
        "tilt, weight −1.000, β = 2",
    ]
    assert parameters(read_run(write_run("hard")).recipe.factors[0]) == "constraint, hard"


def test_a_fit_on_few_samples_is_a_warning(write_run):
    target = TargetSettings(match={"length": 30.0})
    few = read_run(write_run("few", target, fit_ess=7.5, fit_khat=0.9))
    found = " ".join(warnings(few))
    assert "λ rests on 7.5 effective samples: fit it on more samples, or start from a" in found
    assert "λ was solved on weights with k̂ = 0.90" in found
    enough = read_run(write_run("enough", target, fit_ess=700.0, fit_khat=0.1))
    assert "λ" not in " ".join(warnings(enough))


def test_a_context_whose_moment_is_doubtful_is_a_warning(write_run):
    rows = held_in(0.5, 0.5)
    rows[1].moments["length"]["ess"] = 3.0
    reading = read_run(
        write_run("held", TargetSettings(match_each={"length": 0.5}), context_fits=rows)
    )
    assert any("In 1 of 2 contexts the reached moment length" in text for text in warnings(reading))


def test_prompts_make_the_formula_conditional(write_run, edit):
    run = write_run()
    edit(run.folder / "recipe.json", lambda content: content.update(prompts="contexts.jsonl"))
    assert terms(read_run(run))[0].formula == "log a(x | c)"


def test_the_verdict_states_rate_limit_and_distance(write_run, edit):
    run = write_run()
    text = verdict(read_run(run))
    assert "compiles is 0.930 [0.910, 0.950]" in text
    assert "max_new_tokens 64" in text
    assert "KL(p‖π), is 0.210 [0.186, 0.234] nats after 40 steps" in text
    assert "for the base it is 0.860" in text
    edit(run.folder / "recipe.json", lambda content: content.update(policy="runs/start"))
    assert "40 steps of training from runs/start" in verdict(read_run(run))


def test_a_moment_that_was_missed_is_a_warning(write_run):
    target = TargetSettings(match={"length": 30.0})
    reached = {"length": Estimate(28.0, 0.1, 27.8, 28.2, 100, 5.0)}
    found = warnings(read_run(write_run("missed", target, moments=reached)))
    assert any("asked for length = 30.00 and has 28.00 [27.80, 28.20]" in text for text in found)
    assert any("reached moment length rests on 5.0" in text for text in found)


def test_training_warnings_count_steps(write_run):
    run = write_run()
    path = run.folder / "metrics.jsonl"
    text = path.read_text().replace('"in_batch_partition": 0', '"in_batch_partition": 2', 3)
    path.write_text(text.replace('"empty_contexts": 0', '"empty_contexts": 1', 2))
    found = warnings(read_run(run))
    assert any("In 3 of 40 steps Z of some context" in text for text in found)
    assert any("In 2 of 40 steps some context had no sample" in text for text in found)


def test_what_the_measurement_said_is_not_said_twice(write_run):
    run = write_run(warnings=("reverse_kl: reverse_kl is infinite, as it must be",))
    found = [text for text in warnings(read_run(run)) if text.startswith("Policy: reverse_kl")]
    assert found == ["Policy: reverse_kl: reverse_kl is infinite, as it must be."]


def test_evaluations_that_are_not_to_be_trusted_are_named(write_run):
    run = write_run(finished=False)
    bad = replace(SOUND, khat=1.5).to_json()
    for step in (21, 22):
        run.append("metrics.jsonl", {"step": step, "estimates": {"forward_kl": bad}})
    found = warnings(read_run(run))
    assert any("forward_kl isn't to be trusted at 2 evaluations (step 21, 22)" in t for t in found)
    assert any(t.startswith("Last evaluation: forward_kl has k̂ = 1.50") for t in found)


def test_a_missing_length_limit_is_a_warning(write_run):
    reading = read_run(write_run(max_new_tokens=None))
    assert any("doesn't say max_new_tokens" in text for text in warnings(reading))
    assert "left to the model" in reading.limit


def test_runs_that_cannot_be_compared_are_told(write_run):
    first = read_run(write_run("a"))
    other = read_run(write_run("b", TargetSettings(constrain=("pep8",)), max_new_tokens=32))
    assert comparison_warnings([first, first]) == ()
    found = " ".join(comparison_warnings([first, other]))
    assert "max_new_tokens" in found
    assert "different targets" in found


def test_a_sample_satisfies_what_was_asked(write_run):
    reading = read_run(write_run())
    sample = reading.samples[0]
    assert satisfies(reading, sample) is True
    assert satisfies(reading, replace(sample, features={"compiles": 0.0})) is False
    assert satisfies(reading, replace(sample, allowed=False)) is False
    matched = read_run(write_run("m", TargetSettings(match={"length": 30.0})))
    assert satisfies(matched, replace(sample, features={"length": 12.0})) is None
    assert satisfies(matched, replace(sample, features={"length": 0.0})) is False


def test_the_page_says_by_what_the_policy_was_moved():
    assert how_moved({"divergence": "jensen_shannon"}).endswith("by the gradient of jensen_shannon")
    balance = {"objective": "trajectory_balance", "divergence": "alpha:0.5"}
    assert how_moved(balance).endswith("by the trajectory balance of alpha:0.5")
    assert "without regard to the base" in how_moved({"objective": "reward"})
