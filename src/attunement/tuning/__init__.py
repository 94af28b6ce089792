"""Move a policy towards a target: `init`, `step`, `tune`.

One step draws samples from a proposal, scores them by base and target, turns the scores into a
signal (`objectives`) and makes one update (`training`). The distance is followed on a bank: base
samples drawn once, so that what the policy loses is seen, beside fresh samples of the policy.

The defaults are for a small model, which steps that are too long carry away from its base without
bringing it nearer to the target: the analytic baseline, with which a sample's signal vanishes as π
approaches p; a low learning rate that falls to zero; averaged weights; and `keep="best"`, the
weights with the lowest KL(p‖π) on the bank, while final figures come from fresh samples.

A run is a function of its recipe: every random stream is derived from (seed, purpose, step), so a
killed run goes on bit for bit.
"""

from attunement.tuning.checkpoints import load_state, save_state
from attunement.tuning.evaluation import Evaluation, evaluate
from attunement.tuning.loop import Tuned, advance, tune
from attunement.tuning.noise import gradient_variance
from attunement.tuning.partition import PartitionPool
from attunement.tuning.plain_reward import require_reward
from attunement.tuning.problem import (
    Problem,
    TuningState,
    init,
    require_finite,
)
from attunement.tuning.proposals import adapt_proposal
from attunement.tuning.settings import Keep, Proposal, TuningSettings
from attunement.tuning.stepping import StepInfo, step

__all__ = [
    "Evaluation",
    "Keep",
    "PartitionPool",
    "Problem",
    "Proposal",
    "StepInfo",
    "Tuned",
    "TuningSettings",
    "TuningState",
    "adapt_proposal",
    "advance",
    "evaluate",
    "gradient_variance",
    "init",
    "load_state",
    "require_finite",
    "require_reward",
    "save_state",
    "step",
    "tune",
]
