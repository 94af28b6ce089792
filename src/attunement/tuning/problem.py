"""A tuning problem and the state of its solution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attunement import training
from attunement.core import (
    AttunementError,
    Context,
    Distribution,
    Samples,
    Scores,
    TokenWise,
    Trainable,
    as_contexts,
    require_proposal,
    require_same_outcomes,
)
from attunement.divergences import Divergence, parse_divergence
from attunement.factors import Matched
from attunement.objectives import Baseline, Objective
from attunement.runs import generator_for
from attunement.scorers import require_applicable
from attunement.sharding import shard
from attunement.targets import Target
from attunement.tuning.drawn import Drawn
from attunement.tuning.partition import PartitionPool
from attunement.tuning.plain_reward import require_reward
from attunement.tuning.settings import Keep, Proposal, TuningSettings

BANK, CONTEXTS, SAMPLES, EVALUATION, NOISE, EVALUATION_BANK = range(6)
"""The purposes that random streams are derived for."""


@dataclass(frozen=True)
class Problem:
    """A tuning problem: what stays the same from step to step.

    Attributes:
        target: A fitted target.
        contexts: C contexts, those that steps draw from.
        evaluation_contexts: Those that the distance is followed on; the same, or held-out ones.
        settings: The settings.
        divergence: The settings' row of the table.
        bank: Base samples of the evaluation contexts, for the evaluations.
        bank_potential: [N] the target's log-potential of the bank.
    """

    target: Target
    contexts: tuple[Context, ...]
    evaluation_contexts: tuple[Context, ...]
    settings: TuningSettings
    bank: Samples
    bank_potential: Tensor
    divergence: Divergence = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "divergence", parse_divergence(self.settings.divergence))


@dataclass
class TuningState:
    """What the next step needs.

    Attributes:
        policy: The model being tuned.
        average: The same with averaged weights: what is evaluated and delivered.
        training: Optimiser and counters.
        proposal: What `kl_adaptive` draws from, a copy of an earlier policy, or what `other` does;
            else the policy.
        pool: Z of every context, from the bank and earlier steps; for the plain reward, which has
            no Z, from the bank alone.
        replay: The last batches, the latest first.
        step: Steps made.
        best: Lowest KL(p‖π) on the bank so far.
    """

    policy: Trainable
    average: Trainable
    training: training.TrainingState
    proposal: Distribution
    pool: PartitionPool
    replay: tuple[Drawn, ...] = ()
    step: int = 0
    best: float = math.inf


def init(
    target: Target,
    contexts: Sequence[Context | str] | None,
    settings: TuningSettings,
    *,
    policy: Trainable | None = None,
    proposal: Distribution | None = None,
    evaluation_contexts: Sequence[Context | str] | None = None,
) -> tuple[Problem, TuningState]:
    """Check everything that can be checked, draw the bank and make the first state.

    Args:
        target: A fitted target whose base can be copied, or with a policy given.
        contexts: The contexts; None for an unconditional model.
        settings: The settings.
        policy: Where to start; a copy of the base by default.
        proposal: What is drawn from where the settings say `other`.
        evaluation_contexts: Held-out contexts to follow the distance on; those of the steps where
            None.

    Raises:
        AttunementError: The divergence is infinite under a hard constraint, the target isn't
            fitted, no base sample satisfies the constraint, a scorer applies to none of them or a
            matched feature is the same on all, the outcomes differ, or the settings ask for
            something that target, policy or proposal don't have.
    """
    require_finite(settings, target.has_forbidden)
    if settings.objective is Objective.REWARD:
        require_reward(target.factors)
    contexts = as_contexts(contexts)
    _require_enough(settings, len(contexts))
    policy = _copied_base(target) if policy is None else policy
    require_same_outcomes(target.base, policy)
    _require_token_wise(settings, target.base, policy)
    _require_given(settings, target, proposal)
    bank, potential = _bank(target, contexts, settings, BANK)
    pool = PartitionPool.empty(len(contexts))
    pool.add(bank.context_index, potential)
    held_out = contexts
    if evaluation_contexts is not None:
        held_out = as_contexts(evaluation_contexts)
        bank, potential = _bank(target, held_out, settings, EVALUATION_BANK)
    average = policy.copy()
    drawn_from = _first_proposal(settings, policy, proposal)
    if settings.fully_shard:
        shard(policy.module)
        shard(average.module)
    state = TuningState(
        policy=policy,
        average=average,
        training=training.start_training(policy.module, average.module, settings),
        proposal=drawn_from,
        pool=pool,
    )
    return Problem(target, contexts, held_out, settings, bank, potential), state


def _bank(
    target: Target, contexts: tuple[Context, ...], settings: TuningSettings, purpose: int
) -> tuple[Samples, Tensor]:
    """Base samples of every context, and the target's log-potential [N] of them."""
    each = max(2, settings.bank_size // len(contexts))
    bank = target.base.sample(contexts, each, generator=generator_for(settings.seed, purpose))
    features = target.features(bank)
    require_applicable(features)
    if settings.keep is Keep.BEST:
        _require_seen(target, features)
    potential = target.log_potential(bank, features)
    if bool(torch.isneginf(potential).all()):
        end = (
            "so there is nothing to learn from"
            if purpose == BANK
            else "so nothing can be measured on the held-out contexts"
        )
        raise AttunementError(
            f"{target.why_nothing_is_allowed(bank)}, {end}: loosen it, give it a floor "
            "(--floor 0.01) or raise --bank-size"
        )
    return bank, potential


def require_finite(settings: TuningSettings, hard: bool) -> None:
    """Raise if the divergence of the settings is infinite under a target with a hard constraint.

    Raises:
        AttunementError: It is; the message offers a floor.
    """
    row = parse_divergence(settings.divergence)
    if hard and not row.allows_forbidden and settings.objective is not Objective.REWARD:
        raise AttunementError(
            f"{row.name} is infinite under a hard constraint: give it a floor (--floor 0.01) or "
            "choose a divergence such as jensen_shannon"
        )


def samples_of_each(settings: TuningSettings, contexts: int) -> int:
    """How many samples a step draws of each context that it draws from."""
    each = settings.batch_size if contexts == 1 else settings.samples_per_context
    return min(each, settings.batch_size)


def _require_enough(settings: TuningSettings, contexts: int) -> None:
    balance = settings.objective is Objective.TRAJECTORY_BALANCE
    compares = settings.baseline is Baseline.LEAVE_ONE_OUT
    if (compares or balance) and samples_of_each(settings, contexts) < 2:
        option = "--batch-size" if contexts == 1 else "--samples-per-context or --batch-size"
        what = settings.objective if balance else settings.baseline
        raise AttunementError(f"{what} needs two or more samples for each context: raise {option}")


def _require_seen(target: Target, features: Mapping[str, Scores]) -> None:
    """A bank that holds nothing of what is asked for would call any policy near."""
    for factor in target.factors:
        if isinstance(factor, Matched):
            values, applicable = features[factor.scorer.name]
            seen = values[applicable].unique()
            if len(seen) == 1 and float(seen) != factor.mean:
                raise AttunementError(
                    f"{factor.scorer.name} is {float(seen):g} on all {len(values)} base samples of "
                    f"the bank, so the distance to its mean of {factor.mean:g} can't be followed: "
                    "raise --bank-size or --keep last"
                )


def _require_token_wise(settings: TuningSettings, base: Distribution, policy: Trainable) -> None:
    for model in (base, policy):
        if settings.by_token and not isinstance(model, TokenWise):
            raise AttunementError(
                f"a {type(model).__name__} doesn't give its log-probabilities token by token: "
                "leave out reward_to_go and closed_form_kl"
            )


def _require_given(settings: TuningSettings, target: Target, proposal: Distribution | None) -> None:
    wanted = settings.proposal is Proposal.OTHER
    if wanted and proposal is None:
        raise AttunementError("the proposal 'other' needs a distribution: give proposal=...")
    if not wanted and proposal is not None:
        raise AttunementError(
            f"a proposal was given, but the settings draw from {settings.proposal}: choose 'other'"
        )
    if proposal is not None:
        require_proposal(target, proposal)


def _first_proposal(
    settings: TuningSettings, policy: Trainable, given: Distribution | None
) -> Distribution:
    if given is not None:
        return given
    return policy.copy() if settings.proposal is Proposal.KL_ADAPTIVE else policy


def _copied_base(target: Target) -> Trainable:
    if not isinstance(target.base, Trainable):
        raise AttunementError("the target's base can't be trained: give a policy to start from")
    return target.base.copy()
