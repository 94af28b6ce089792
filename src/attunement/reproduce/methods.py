"""The ways to a target that papers compare, as the few settings in which they differ."""

from __future__ import annotations

from dataclasses import dataclass

from attunement.objectives import Baseline, Objective
from attunement.tuning import Proposal, TuningSettings


@dataclass(frozen=True)
class Method:
    """A training signal, and what its samples are drawn from.

    Attributes:
        divergence: A row of the table.
        baseline: What is subtracted from the pseudo-reward.
        proposal: What samples are drawn from.
        objective: The divergence's gradient, or the plain reward.
    """

    divergence: str = "forward_kl"
    baseline: Baseline = Baseline.ANALYTIC
    proposal: Proposal = Proposal.POLICY
    objective: Objective = Objective.POLICY_GRADIENT

    def settings(self, common: TuningSettings, seed: int) -> TuningSettings:
        """The settings of a run: all else is the same for every method."""
        own = {**vars(self), "seed": seed}
        return TuningSettings.model_validate(common.model_dump() | own)


DPG = Method(baseline=Baseline.NONE)
"""Distributional policy gradients on policy (CDPG where there are contexts)."""
KL_ADAPTIVE_DPG = Method(baseline=Baseline.NONE, proposal=Proposal.KL_ADAPTIVE)
"""The algorithm of arXiv 2106.04985."""
REINFORCE = Method(baseline=Baseline.LEAVE_ONE_OUT, objective=Objective.REWARD)
"""Reward maximisation: the plain reward, without the base."""
KL_CONTROL = Method(divergence="reverse_kl")
"""KL-regularised reward maximisation."""
