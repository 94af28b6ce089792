"""What a person can choose about a tuning run, beside its base, target and contexts."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator

from attunement.divergences import parse_divergence
from attunement.objectives import Baseline
from attunement.training import OptimizerSettings


class Proposal(StrEnum):
    """What the samples of a step are drawn from."""

    POLICY = "policy"
    BASE = "base"
    MIXTURE = "mixture"
    KL_ADAPTIVE = "kl_adaptive"


class Keep(StrEnum):
    """Which weights a run delivers."""

    BEST = "best"
    LAST = "last"


class TuningSettings(OptimizerSettings):
    """Everything about a tuning run but its base, target and contexts.

    Attributes:
        divergence: A row of the table, e.g. `forward_kl` or `alpha:0.5`.
        baseline: What is subtracted from the pseudo-reward.
        proposal: `policy` draws from the policy itself; `base` from the base; `mixture` from one
            or the other by the toss of a coin; `kl_adaptive` from a copy of the policy that is
            renewed when KL(p‖π) is below KL(p‖q) by the interval of their paired difference.
        batch_size: Samples in a step.
        samples_per_context: Samples of each context in a step, for a conditional model.
        micro_batch_size: Samples in one forward and backward pass.
        bank_size: Base samples on which KL(p‖π) is followed.
        evaluation_size: Fresh policy samples at each evaluation.
        evaluate_every: Steps between evaluations.
        save_every: Steps between checkpoints.
        keep: Which weights are delivered.
        seed: Seed of every random stream.
    """

    divergence: str = "forward_kl"
    baseline: Baseline = Baseline.ANALYTIC
    proposal: Proposal = Proposal.MIXTURE
    batch_size: int = Field(default=256, ge=1)
    samples_per_context: int = Field(default=32, ge=1)
    micro_batch_size: int = Field(default=64, ge=1)
    bank_size: int = Field(default=2048, ge=2)
    evaluation_size: int = Field(default=512, ge=2)
    evaluate_every: int = Field(default=20, ge=1)
    save_every: int = Field(default=20, ge=1)
    keep: Keep = Keep.BEST
    seed: int = Field(default=0, ge=0)

    @field_validator("divergence")
    @classmethod
    def _known(cls, name: str) -> str:
        return parse_divergence(name).name
