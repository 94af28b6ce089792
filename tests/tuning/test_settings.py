import pytest
from pydantic import ValidationError

from attunement.objectives import Baseline
from attunement.tuning import Keep, Proposal, TuningSettings


def test_defaults_are_members_of_their_sets():
    settings = TuningSettings()
    assert settings.baseline is Baseline.ANALYTIC
    assert settings.proposal is Proposal.MIXTURE
    assert settings.keep is Keep.BEST


def test_a_divergence_is_resolved_to_its_name():
    assert TuningSettings(divergence="alpha:0.50").divergence == "alpha:0.5"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("divergence", "jensen", "there is no divergence 'jensen'"),
        ("baseline", "mean", "leave_one_out"),
        ("learning_rate", 0.0, "greater than 0"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("averaging", 1.0, "less than 1"),
        ("keep", "first", "'best' or 'last'"),
    ],
)
def test_what_is_wrong_is_named(name, value, sentence):
    with pytest.raises(ValidationError, match=sentence) as caught:
        TuningSettings.model_validate({name: value})
    assert caught.value.errors()[0]["loc"] == (name,)


def test_an_unknown_option_is_an_error():
    with pytest.raises(ValidationError, match="Extra inputs"):
        TuningSettings.model_validate({"learning_rates": 1e-4})


def test_json_round_trip():
    settings = TuningSettings(divergence="alpha:-1", proposal=Proposal.KL_ADAPTIVE, seed=3)
    assert TuningSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_a_reward_has_the_baseline_of_its_own():
    assert TuningSettings(objective="reward").baseline is Baseline.LEAVE_ONE_OUT
    assert TuningSettings(objective="reward", baseline="none").baseline is Baseline.NONE


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"objective": "reward", "divergence": "reverse_kl"}, "has no divergence"),
        ({"objective": "reward", "baseline": "analytic"}, "no analytic baseline"),
        ({"objective": "trajectory_balance", "baseline": "none"}, "its own baseline"),
        ({"reward_to_go": True}, "for the policy gradient of reverse_kl"),
        ({"closed_form_kl": True, "divergence": "jensen_shannon"}, "of reverse_kl"),
        (
            {"divergence": "reverse_kl", "reward_to_go": True, "baseline": "leave_one_out"},
            "baseline analytic or none",
        ),
        ({"proposal_top_p": 0.9, "proposal": "policy"}, "--proposal mixture"),
    ],
)
def test_nothing_that_was_chosen_goes_unread(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        TuningSettings.model_validate(given)


def test_a_method_is_told_in_words():
    assert TuningSettings().method == "forward_kl"
    balance = TuningSettings(objective="trajectory_balance", divergence="alpha:0.5")
    assert balance.method == "trajectory_balance of alpha:0.5"
    assert TuningSettings(objective="reward").method == "the plain reward"
