from attunement.objectives import Baseline, Objective
from attunement.reproduce.methods import DPG, KL_ADAPTIVE_DPG, KL_CONTROL, REINFORCE
from attunement.tuning import Proposal, TuningSettings


def test_methods_differ_in_their_own_settings_alone():
    common = TuningSettings(max_steps=7, learning_rate=0.25)
    found = [m.settings(common, 5) for m in (DPG, KL_ADAPTIVE_DPG, KL_CONTROL, REINFORCE)]
    own = {"divergence", "baseline", "proposal", "objective", "seed"}
    for settings in found:
        assert settings.model_dump(exclude=own) == common.model_dump(exclude=own)
        assert settings.seed == 5
    assert found[0].baseline is Baseline.NONE
    assert found[1].proposal is Proposal.KL_ADAPTIVE
    assert found[2].divergence == "reverse_kl"
    assert found[3].objective is Objective.REWARD
