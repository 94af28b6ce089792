"""From the first step to the last, in memory; `attunement.jobs` does it with a run on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attunement.core import AttunementError, Context, Distribution, Trainable
from attunement.targets import Target
from attunement.tuning.evaluation import Evaluation, evaluate
from attunement.tuning.problem import Problem, TuningState, init
from attunement.tuning.proposals import adapt_proposal
from attunement.tuning.settings import Keep, TuningSettings
from attunement.tuning.stepping import StepInfo, step


def advance(
    problem: Problem,
    state: TuningState,
    *,
    on_step: Callable[[StepInfo], None],
    on_evaluation: Callable[[Evaluation, bool], None],
    on_checkpoint: Callable[[], None],
) -> None:
    """Go on from the state to `max_steps`, evaluating and saving on the way.

    Args:
        problem: The problem.
        state: The state; a fresh one is evaluated before its first step.
        on_step: Called after every step.
        on_evaluation: Called with every evaluation and whether it is the best so far.
        on_checkpoint: Called when a checkpoint is due, after the evaluation of the same step.
    """
    settings = problem.settings

    def look() -> None:
        found = evaluate(problem, state)
        distance = found.estimates["forward_kl"].value
        improved = distance < state.best
        state.best = min(state.best, distance)
        on_evaluation(found, improved)

    if state.step == 0:
        look()
    while state.step < settings.max_steps:
        on_step(step(problem, state))
        last = state.step == settings.max_steps
        if last or state.step % settings.evaluate_every == 0:
            adapt_proposal(problem, state)
            look()
        if last or state.step % settings.save_every == 0:
            on_checkpoint()


@dataclass(frozen=True)
class Tuned:
    """What `tune` returns.

    Attributes:
        policy: The delivered policy.
        evaluations: Where it stood on the way, the base first.
    """

    policy: Trainable
    evaluations: tuple[Evaluation, ...]


def tune(
    target: Target,
    contexts: Sequence[Context | str] | None = None,
    settings: TuningSettings | None = None,
    *,
    policy: Trainable | None = None,
    proposal: Distribution | None = None,
) -> Tuned:
    """Tune a copy of the target's base (or a given policy) in memory.

    `jobs.tune` does the same with a run on disk, which can be resumed.

    Args:
        target: A fitted target.
        contexts: The contexts; None for an unconditional model.
        settings: The settings; the defaults where None.
        policy: Where to start; it is changed in place.
        proposal: What is drawn from where the settings say `other`.

    Raises:
        AttunementError: See `init`.
    """
    settings = TuningSettings() if settings is None else settings
    if settings.fully_shard:
        raise AttunementError(
            "a sharded policy is put together on disk: tune it with jobs.tune or attune tune"
        )
    problem, state = init(target, contexts, settings, policy=policy, proposal=proposal)
    evaluations: list[Evaluation] = []
    kept = state.average.copy()

    def on_evaluation(evaluation: Evaluation, improved: bool) -> None:
        nonlocal kept
        evaluations.append(evaluation)
        if improved or settings.keep is Keep.LAST:
            kept = state.average.copy()

    advance(
        problem,
        state,
        on_step=lambda info: None,  # noqa: ARG005
        on_evaluation=on_evaluation,
        on_checkpoint=lambda: None,
    )
    return Tuned(kept, tuple(evaluations))
