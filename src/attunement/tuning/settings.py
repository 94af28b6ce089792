"""What a person can choose about a tuning run, beside its base, target and contexts."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from attunement.core import AttunementError
from attunement.divergences import parse_divergence, reverse_kl
from attunement.objectives import Baseline, Objective
from attunement.training import OptimizerSettings


class Proposal(StrEnum):
    """What the samples of a step are drawn from."""

    POLICY = "policy"
    BASE = "base"
    MIXTURE = "mixture"
    KL_ADAPTIVE = "kl_adaptive"
    OTHER = "other"


class Keep(StrEnum):
    """Which weights a run delivers."""

    BEST = "best"
    LAST = "last"


class TuningSettings(OptimizerSettings):
    """Everything about a tuning run but its base, target and contexts.

    Attributes:
        objective: `policy_gradient` goes down the divergence; `trajectory_balance` to the same
            minimum without importance weights where the target allows a sample; `reward` goes up
            the plain reward and knows no target: the constraints' values and the tilts' rewards.
        divergence: A row of the table, e.g. `forward_kl` or `alpha:0.5`; `reward` has none.
        baseline: What is subtracted from the pseudo-reward; by default `analytic`, and
            `leave_one_out` for `reward`.
        reward_to_go: Whether a token answers only for what follows it; reverse KL only.
        closed_form_kl: Whether the KL from the base is summed over the vocabulary at each token
            instead of taken at the token drawn; reverse KL only.
        proposal: `policy` draws from the policy itself; `base` from the base; `mixture` from one
            or the other by the toss of a coin; `kl_adaptive` from a copy of the policy that is
            renewed when KL(p‖π) is below KL(p‖q) by the interval of their paired difference;
            `other` from a distribution that is given beside.
        proposal_temperature: Logits of what is drawn from are divided by it; in a mixture those of
            the policy alone.
        proposal_top_p: What is drawn from is cut to the most probable tokens of so much mass; in a
            mixture the policy alone, and only there, since a proposal needs full support.
        fully_shard: Whether the parameters of policy and average, their gradients and the
            optimiser's state are split among the processes (FSDP2) instead of repeated in each.
        replay: Earlier batches that a step learns from again, beside its fresh one.
        batch_size: Fresh samples in a step.
        samples_per_context: Samples of each context in a step, for a conditional model.
        micro_batch_size: Samples in one forward and backward pass.
        bank_size: Base samples on which KL(p‖π) is followed.
        evaluation_size: Fresh policy samples at each evaluation.
        evaluate_every: Steps between evaluations.
        gradient_variance: Whether evaluations estimate the variance of a step's gradient, at the
            cost of one more step each.
        save_every: Steps between checkpoints.
        keep: Which weights are delivered.
        seed: Seed of every random stream.
    """

    objective: Objective = Objective.POLICY_GRADIENT
    divergence: str = "forward_kl"
    baseline: Baseline = Baseline.ANALYTIC
    reward_to_go: bool = False
    closed_form_kl: bool = False
    proposal: Proposal = Proposal.MIXTURE
    proposal_temperature: float = Field(default=1.0, gt=0)
    proposal_top_p: float = Field(default=1.0, gt=0, le=1)
    fully_shard: bool = False
    replay: int = Field(default=0, ge=0)
    batch_size: int = Field(default=256, ge=1)
    samples_per_context: int = Field(default=32, ge=1)
    micro_batch_size: int = Field(default=64, ge=1)
    bank_size: int = Field(default=2048, ge=2)
    evaluation_size: int = Field(default=512, ge=2)
    evaluate_every: int = Field(default=20, ge=1)
    gradient_variance: bool = False
    save_every: int = Field(default=20, ge=1)
    keep: Keep = Keep.BEST
    seed: int = Field(default=0, ge=0)

    @property
    def reads_target(self) -> bool:
        """Whether a step reads log P and Z of its samples; the plain reward knows neither."""
        return self.objective is not Objective.REWARD

    @property
    def by_token(self) -> bool:
        """Whether every token of a sample has a signal of its own."""
        return self.reward_to_go or self.closed_form_kl

    @property
    def reads_base_by_token(self) -> bool:
        """Whether a step reads log a of each token drawn; in closed form it reads every token's."""
        return self.by_token and not self.closed_form_kl

    @property
    def method(self) -> str:
        """What a reader is told of the objective, e.g. `trajectory_balance of jensen_shannon`."""
        match self.objective:
            case Objective.POLICY_GRADIENT:
                return self.divergence
            case Objective.TRAJECTORY_BALANCE:
                return f"trajectory_balance of {self.divergence}"
            case Objective.REWARD:
                return "the plain reward"

    @model_validator(mode="before")
    @classmethod
    def _own_baseline(cls, given: Any) -> Any:
        """A reward's baseline is leave_one_out unless another was asked for."""
        if isinstance(given, dict) and given.get("objective") == Objective.REWARD:
            return {"baseline": Baseline.LEAVE_ONE_OUT} | given
        return given

    @field_validator("divergence")
    @classmethod
    def _known(cls, name: str) -> str:
        return parse_divergence(name).name

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        """Nothing that was chosen goes unread."""
        reward = self.objective is Objective.REWARD
        if reward and self.divergence != type(self).model_fields["divergence"].default:
            raise AttunementError(
                f"the plain reward has no divergence: leave out {self.divergence} or the objective"
            )
        if reward and self.baseline is Baseline.ANALYTIC:
            raise AttunementError("a reward has no analytic baseline: choose leave_one_out or none")
        balance = self.objective is Objective.TRAJECTORY_BALANCE
        if balance and self.baseline is not Baseline.ANALYTIC:
            raise AttunementError("trajectory_balance has its own baseline: leave it analytic")
        plain = self.objective is Objective.POLICY_GRADIENT and self.divergence == reverse_kl.name
        if self.by_token and (not plain or self.baseline is Baseline.LEAVE_ONE_OUT):
            raise AttunementError(
                "reward_to_go and closed_form_kl are for the policy gradient of reverse_kl with "
                "the baseline analytic or none"
            )
        if self.proposal_top_p < 1 and self.proposal is not Proposal.MIXTURE:
            raise AttunementError(
                "a proposal that top-p cuts off can't draw everything that the target holds, so "
                "its samples can't be weighed: mix it with the base (--proposal mixture)"
            )
        return self
