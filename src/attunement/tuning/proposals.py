"""What the samples of a step are drawn from: one distribution, or two in equal parts.

Which q is best depends on the target. On policy π/q is 1, but P/q has no bound: a sample that the
policy has come to find unlikely weighs the more, the more unlikely. From the base, P/q has that of
the target's factors, 1/Z for a hard constraint, and so few surprises where Z isn't small, but π/q
grows as the policy leaves the base. From both, q = ½a + ½π, both are bounded: by 2, and by 2/Z.
An adaptive proposal is the policy as it was when it was last surely nearer to the target
(arXiv 2012.11635); any other distribution of full support can be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch

from attunement import estimators
from attunement.core import AttunementError, Distribution, Trainable
from attunement.distributions.drawing import Warp
from attunement.measuring import gather
from attunement.training import copy_parameters
from attunement.tuning.problem import Problem, TuningState
from attunement.tuning.settings import Proposal, TuningSettings


@runtime_checkable
class Warpable(Protocol):
    """A distribution whose token distributions can be reshaped."""

    def warped(self, warp: Warp) -> Distribution:
        """The reshaped distribution, with its own log-probabilities."""
        ...


def sources(problem: Problem, state: TuningState) -> Sequence[Distribution]:
    """The one or two distributions that the next step draws from, each as often as the other.

    Raises:
        AttunementError: A temperature or top-p was asked for that the model doesn't have.
    """
    settings, base = problem.settings, problem.target.base
    match settings.proposal:
        case Proposal.POLICY:
            return [_warped(state.policy, settings)]
        case Proposal.BASE:
            return [_warped(base, settings)]
        case Proposal.MIXTURE:
            return [base, _warped(state.policy, settings)]
        case Proposal.KL_ADAPTIVE | Proposal.OTHER:
            return [_warped(state.proposal, settings)]


def adapt_proposal(problem: Problem, state: TuningState) -> bool:
    """Renew an adaptive proposal when KL(p‖π) < KL(p‖q) on the bank, by their paired difference.

    Returns:
        Whether it was renewed; always false where the proposal isn't adaptive.
    """
    if problem.settings.proposal is not Proposal.KL_ADAPTIVE:
        return False
    bank = problem.bank
    evidence = gather(problem.target, state.policy, bank)
    with torch.no_grad():
        log_proposal = state.proposal.log_prob(bank)
    difference = estimators.moment_target(evidence, log_proposal - evidence.log_policy)
    if difference.high < 0:
        copy_parameters(state.policy.module, cast(Trainable, state.proposal).module)
        return True
    return False


def _warped(model: Distribution, settings: TuningSettings) -> Distribution:
    warp = Warp(settings.proposal_temperature, settings.proposal_top_p)
    if warp == Warp():
        return model
    if not isinstance(model, Warpable):
        raise AttunementError(
            f"a {type(model).__name__} can't be drawn from at another temperature or top-p: leave "
            "out proposal_temperature and proposal_top_p"
        )
    return model.warped(warp)
