"""A tuning job from recipe to run: what `attune tune` does, in Python.

`tune` checks everything it can before it writes anything, then draws, steps, evaluates and saves;
`resume` goes on from the last checkpoint; `open_target` and `open_policy` read a run back. A job
ends with a measurement of base and delivered policy on fresh samples: a run without
`measurement.json` isn't finished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from attunement import processes, runs
from attunement.cards import card
from attunement.core import AttunementError, Context, Distribution, Samples, Scorer
from attunement.distributions.adapters import adapter_base, with_adapter
from attunement.distributions.language import LanguageModel, require_same_tokens
from attunement.locations import with_absolute_paths
from attunement.measuring import MeasuredOn, Measurement, measure, not_applicable
from attunement.recipes import ModelSettings, TuneRecipe
from attunement.runs import METRICS, Run, generator_for
from attunement.sampling import quasi_rejection, rejection
from attunement.scorers import copy_files, file_hashes, parse_scorer, scorers_of
from attunement.showing import show_all, show_some
from attunement.targets import Target
from attunement.tuning import (
    Evaluation,
    Keep,
    Problem,
    StepInfo,
    TuningState,
    advance,
    init,
    load_state,
    save_state,
)

_FIT, _MEASURE_BASE, _MEASURE_POLICY, _ADAPTER = 100, 101, 102, 104
_ON_TUNING = "on_contexts_of_tuning"


@dataclass(frozen=True)
class Callbacks:
    """Who is told of a job's progress.

    Attributes:
        on_stage: Called with a sentence when a stage begins.
        on_step: Called after every step.
        on_evaluation: Called with every evaluation.
    """

    on_stage: Callable[[str], None] = lambda sentence: None  # noqa: ARG005
    on_step: Callable[[StepInfo], None] = lambda info: None  # noqa: ARG005
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None  # noqa: ARG005


SILENT = Callbacks()


def tune(
    recipe: TuneRecipe,
    folder: Path | str,
    contexts: Sequence[Context] | None = None,
    callbacks: Callbacks = SILENT,
    scorer_of: Callable[[str], Scorer] = parse_scorer,
    evaluation_contexts: Sequence[Context] | None = None,
) -> Run:
    """Run a tuning job in a new folder, from start to delivered policy and final measurement.

    Args:
        recipe: What is asked; the run keeps folders that it names by their absolute paths.
        folder: A new or empty folder.
        contexts: The contexts; None for the empty one.
        callbacks: Who is told.
        scorer_of: From SPEC to scorer; `scorers.scorers_of` where another run is repeated.
        evaluation_contexts: Held-out contexts that the distance is followed and reported on; the
            contexts of tuning where None.

    Raises:
        AttunementError: Something that was asked can't be had; nothing is written then.
    """
    Run.require_vacant(folder)
    recipe = with_absolute_paths(recipe)
    recipe.check_contexts(contexts, evaluation_contexts)
    callbacks.on_stage("loading the base")
    base = recipe.model.load()
    recipe = recipe.model_copy(update={"model": recipe.model.resolved(base)})
    policy = _starting_policy(recipe, base)
    proposal = _of_the_base(recipe.proposal_model, recipe, base)
    target = recipe.target.build(base, scorer_of)
    elsewhere = None if recipe.policy is None else policy
    target = _fitted(recipe, target, contexts, elsewhere, callbacks)
    callbacks.on_stage("drawing the bank")
    problem, state = init(
        target,
        contexts,
        recipe.settings,
        policy=policy,
        proposal=proposal,
        evaluation_contexts=evaluation_contexts,
    )
    _tell_of_empty_contexts(state, callbacks)
    held_out = None if evaluation_contexts is None else runs.EVALUATION_CONTEXTS
    resolved = recipe.with_fit(target, contexts).model_copy(
        update={
            "scorer_files": file_hashes(target.scorers),
            "prompts": None if contexts is None else runs.CONTEXTS,
            "evaluation_prompts": held_out,
        }
    )
    run = Run.create(folder, resolved.model_dump(mode="json"))
    copy_files(target.scorers, run.folder)
    run.save_contexts(contexts)
    run.save_contexts(evaluation_contexts, runs.EVALUATION_CONTEXTS)
    return _go_on(run, problem, state, callbacks)


def resume(folder: Path | str, callbacks: Callbacks = SILENT) -> Run:
    """Go on with a run from its last checkpoint; a finished run is left as it is.

    Raises:
        AttunementError: The folder holds no tuning run, or a checkpoint is corrupt.
    """
    run = Run.open(folder)
    if (run.folder / runs.MEASUREMENT).exists():
        return run
    callbacks.on_stage("loading the base")
    recipe, target, contexts = open_target(run)
    base = cast(LanguageModel, target.base)
    policy = _starting_policy(recipe, base)
    proposal = _of_the_base(recipe.proposal_model, recipe, base)
    problem, state = init(
        target,
        contexts,
        recipe.settings,
        policy=policy,
        proposal=proposal,
        evaluation_contexts=held_out_of(run),
    )
    found = run.checkpoints()
    checkpoint = found[-1] if found else None
    counters = run.rewind(checkpoint)
    if checkpoint is not None:
        load_state(problem, state, checkpoint, counters)
        callbacks.on_stage(f"going on from step {state.step}")
    return _go_on(run, problem, state, callbacks)


def _starting_policy(recipe: TuneRecipe, base: LanguageModel) -> LanguageModel | None:
    """The model that a run starts from, or None where that is a copy of its base."""
    if recipe.adapter is None:
        return _of_the_base(recipe.policy, recipe, base)
    generator = generator_for(recipe.settings.seed, _ADAPTER)
    return with_adapter(base, recipe.adapter, generator=generator)


def _tell_of_empty_contexts(state: TuningState, callbacks: Callbacks) -> None:
    """Say, before the first step, in how many contexts of tuning no base sample was allowed."""
    counts = state.pool.counts
    empty = int(torch.isneginf(state.pool.log_sums).sum())
    if empty > 0:
        callbacks.on_stage(
            f"{empty} of {len(counts)} contexts have no sample in the bank ({int(counts[0])} each) "
            "that satisfies the constraint, and teach nothing until a step draws one: raise "
            "--bank-size, loosen the constraint or give it a floor (--floor 0.01)"
        )


def _fitted(
    recipe: TuneRecipe,
    target: Target,
    contexts: Sequence[Context] | None,
    policy: LanguageModel | None,
    callbacks: Callbacks,
) -> Target:
    """The target with λ solved; a policy that the run starts from refines it with its samples."""
    if not recipe.target.is_matched:
        return target
    callbacks.on_stage("fitting λ")
    generator = generator_for(recipe.settings.seed, _FIT)
    fitted = target.fit(contexts, n=recipe.fit_size, proposal=policy, generator=generator)
    for sentence in fitted.fit_sentences():
        callbacks.on_stage(sentence)
    return fitted


def _of_the_base(name: str | None, recipe: TuneRecipe, base: LanguageModel) -> LanguageModel | None:
    """A run's policy or a model, on the base's outcomes and tokens; None where none is named."""
    if name is None:
        return None
    if is_run(name):
        model = open_policy(Run.open(name), recipe.model, base=base)
    else:
        model = recipe.model.load(name, base=base)
    require_same_tokens(base, model, name)
    return model


def read_recipe(run: Run) -> TuneRecipe:
    """The recipe of a tuning run.

    Raises:
        AttunementError: It isn't one, or it was edited into something unreadable.
    """
    return TuneRecipe.parse(run.recipe, run.folder / runs.RECIPE)


def open_target(run: Run) -> tuple[TuneRecipe, Target, tuple[Context, ...] | None]:
    """The recipe, the fitted target and the contexts of a run.

    Raises:
        AttunementError: Something that the recipe names is gone or has changed.
    """
    recipe = read_recipe(run)
    scorer_of = scorers_of(run.folder, recipe.scorer_files)
    target, contexts = recipe.target.build(recipe.model.load(), scorer_of), contexts_of(run)
    return recipe, target.with_lambdas(recipe.lambdas_on(contexts)), contexts


def contexts_of(run: Run) -> tuple[Context, ...] | None:
    """The contexts that a run was tuned on; None for the empty one."""
    return None if read_recipe(run).prompts is None else run.load_contexts()


def held_out_of(run: Run) -> tuple[Context, ...] | None:
    """The contexts that a run is followed and reported on; None where it has no such."""
    file = read_recipe(run).evaluation_prompts
    return None if file is None else run.load_contexts(file)


def open_policy(
    run: Run, model: ModelSettings | None = None, *, base: LanguageModel | None = None
) -> LanguageModel:
    """The policy that a run delivers.

    Args:
        run: The run.
        model: The sample space that it shall have; the run's own where None.
        base: A model at hand, whose weights an adapter that was made for it shares.

    Raises:
        AttunementError: The run hasn't delivered one yet.
    """
    if not run.policy_folder.is_dir():
        raise AttunementError(f"{run.folder} has no policy yet: finish it with --resume")
    return (model or read_recipe(run).model).load(run.policy_folder, base=base)


def is_run(name: str | Path) -> bool:
    """Whether the name is a folder with a run in it."""
    return (Path(name) / runs.RECIPE).is_file()


def read_measurement(
    run: Run, half: Literal["before", "after"], on_tuning: bool = False
) -> Measurement:
    """The final measurement of a finished run: of its base (before) or its policy (after).

    Args:
        run: The run.
        half: Of what.
        on_tuning: Of a run with held-out contexts: on those of tuning instead.

    Raises:
        AttunementError: The run isn't finished.
    """
    path = run.folder / runs.MEASUREMENT
    if not path.exists():
        raise AttunementError(f"{run.folder} isn't finished: go on with attune tune --resume")
    content = cast(dict[str, Any], runs.read_json(path))
    return Measurement.from_json((content[_ON_TUNING] if on_tuning else content)[half])


def draw_from(
    target: Target,
    contexts: Sequence[Context] | None,
    n: int,
    acceptance: float,
    generator: torch.Generator,
) -> tuple[Samples, str]:
    """Samples of a target without training, and a sentence on how exact they are.

    Exact rejection where the target lies below its base, else quasi-rejection at the given rate.
    """
    if target.is_dominated:
        drawn = rejection(target, contexts, n, generator=generator)
        samples = drawn.samples
        note = f"exact samples of the target; acceptance rate {drawn.acceptance}"
    else:
        near = quasi_rejection(target, contexts, n, acceptance=acceptance, generator=generator)
        samples = near.draws.samples
        note = (
            f"quasi-rejection samples: total variation from the target {near.total_variation}, "
            f"acceptance rate {near.draws.acceptance}"
        )
    return samples, "; ".join([note, *not_applicable(target.features(samples))])


def measured_on(recipe: TuneRecipe) -> MeasuredOn:
    """Which contexts the figures of a run are averaged over."""
    if recipe.evaluation_prompts is not None:
        return MeasuredOn.HELD_OUT
    return MeasuredOn.EMPTY if recipe.prompts is None else MeasuredOn.TUNING


def measure_run(
    run: Run, n: int, seed: int, contexts: Sequence[Context] | None = None
) -> Measurement:
    """Measure a run's policy against its target on fresh samples.

    Args:
        run: The run.
        n: Samples in all.
        seed: Of the samples.
        contexts: What to measure on; None for the run's held-out contexts, or its own without any.
    """
    recipe, target, own = open_target(run)
    if contexts is None:
        contexts = own if recipe.evaluation_prompts is None else held_out_of(run)
    policy = open_policy(run, base=cast(LanguageModel, target.base))
    return measure(target, policy, contexts, n=n, generator=generator_for(seed, _MEASURE_POLICY))


def _go_on(run: Run, problem: Problem, state: TuningState, callbacks: Callbacks) -> Run:
    def on_step(info: StepInfo) -> None:
        run.append(METRICS, info.to_json())
        callbacks.on_step(info)

    def on_evaluation(evaluation: Evaluation, improved: bool) -> None:
        run.append(METRICS, evaluation.to_json())
        if improved or problem.settings.keep is Keep.LAST:
            run.replace_file("policy", state.average.save)
        if 0 < evaluation.step < problem.settings.max_steps:
            show_some(run, problem, state.average, evaluation.step)
        callbacks.on_evaluation(evaluation)

    def on_checkpoint() -> None:
        run.save_checkpoint(state.step, lambda folder: save_state(problem, state, folder))

    advance(
        problem, state, on_step=on_step, on_evaluation=on_evaluation, on_checkpoint=on_checkpoint
    )
    callbacks.on_stage("measuring on fresh samples")
    _finish(run, problem, callbacks)
    return run


def _finish(run: Run, problem: Problem, callbacks: Callbacks) -> None:
    """Measure base and delivered policy on fresh samples; the measurement's file ends the run."""
    recipe = read_recipe(run)
    target, seed = problem.target, recipe.settings.seed
    policy = recipe.model.load(run.policy_folder, base=cast(LanguageModel, target.base))

    def measured(model: Distribution, purpose: int, contexts: Sequence[Context]) -> Measurement:
        generator = generator_for(seed, purpose)
        return measure(target, model, contexts, n=recipe.measure_size, generator=generator)

    def both(contexts: Sequence[Context]) -> tuple[Measurement, Measurement]:
        return (
            measured(target.base, _MEASURE_BASE, contexts),
            measured(policy, _MEASURE_POLICY, contexts),
        )

    before, after = both(problem.evaluation_contexts)
    on_tuning = None
    if recipe.evaluation_prompts is not None:
        callbacks.on_stage("measuring on the contexts of tuning as well")
        on_tuning = _halves(run, *both(problem.contexts))
    show_all(run, problem, policy, callbacks.on_stage)
    run.replace_file("policy", lambda folder: _deliver(policy, folder, recipe, before, after))
    content = _halves(run, before, after) | {
        "log_weights": after.log_weights_json(),
        "measured_on": measured_on(recipe),
        _ON_TUNING: on_tuning,
    }
    runs.write_json(run.folder / runs.MEASUREMENT, content)


def _halves(run: Run, before: Measurement, after: Measurement) -> dict[str, object]:
    return {"before": before.to_json(str(run.folder)), "after": after.to_json(str(run.folder))}


def _deliver(
    policy: LanguageModel, folder: Path, recipe: TuneRecipe, before: Measurement, after: Measurement
) -> None:
    """The delivered folder: weights, tokenizer and a card with target and distance."""
    policy.save(folder)
    if processes.is_main():
        length = policy.outcomes.max_new_tokens
        text = card(recipe, length, before, after, adapter_base(folder))
        (folder / "README.md").write_text(text, encoding="utf-8")
