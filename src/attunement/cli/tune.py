"""`attune tune`: move a model towards a target and report the distance left."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from attunement.cli.grouping import Options, flat
from attunement.cli.options import (
    CompletionOptions,
    ContextOptions,
    MachineOptions,
    TargetOptions,
    as_option,
    begin,
    model_settings,
    print_json,
    usage,
)
from attunement.cli.tuning_options import (
    AdapterOptions,
    EvaluationOptions,
    FittingOptions,
    HeldOutOptions,
    ModelOptions,
    ObjectiveOptions,
    OptimisationOptions,
    OutputOptions,
    ProposalOptions,
)

if TYPE_CHECKING:
    from attunement.core import Context, Scorer
    from attunement.recipes import TuneRecipe
    from attunement.runs import Run

_BESIDE_A_RECIPE = {"output_dir", "resume", "recipe", "threads", "as_json"}


@flat
def tune(
    context: typer.Context,
    model: ModelOptions,
    completion: CompletionOptions,
    adapter: AdapterOptions,
    target: TargetOptions,
    fitting: FittingOptions,
    contexts: ContextOptions,
    held_out: HeldOutOptions,
    objective: ObjectiveOptions,
    optimisation: OptimisationOptions,
    proposal: ProposalOptions,
    evaluation: EvaluationOptions,
    output: OutputOptions,
    machine: MachineOptions,
) -> None:
    """Move a model towards a target and report the distance left."""
    begin(machine.threads)
    if output.resume or output.recipe is not None:
        _refuse_others(context)
    if output.resume:
        _conclude(_resume(output.output_dir), output.as_json)
        return
    with usage():
        _require_vacant(output.output_dir)
        if output.recipe is not None:
            job = _repeated(output.recipe, output.output_dir)
        else:
            seed = optimisation.seed or 0
            asked = _recipe(
                (model, fitting, objective, optimisation, proposal, evaluation, output),
                model=model_settings(model.base, completion, machine),
                target=target.settings(),
                adapter=adapter.settings(),
            )
            found = contexts.read(seed), held_out.read(contexts.prompt_column, seed)
            job = _Job(asked, *found)
        job.check()
    _conclude(job.run(output.output_dir), output.as_json)


@dataclass(frozen=True)
class _Job:
    """What is to be run, wherever it was asked for.

    Attributes:
        recipe: What was asked.
        contexts: The contexts of tuning; None for the empty one.
        held_out: Those that the distance is followed on; None for those of tuning.
        beside: Of a run that is repeated: the folder with the files of its scorers.
    """

    recipe: TuneRecipe
    contexts: tuple[Context, ...] | None
    held_out: tuple[Context, ...] | None
    beside: Path | None = None

    @property
    def scorer_of(self) -> Callable[[str], Scorer]:
        """From SPEC to scorer."""
        from attunement.scorers import parse_scorer, scorers_of

        if self.beside is None:
            return parse_scorer
        return scorers_of(self.beside, self.recipe.scorer_files)

    def check(self) -> None:
        """Find what is wrong without loading a model."""
        self.recipe.check(self.scorer_of)
        self.recipe.check_contexts(self.contexts, self.held_out)

    def run(self, folder: Path) -> Run:
        """Do it, and say how it goes."""
        from attunement import jobs
        from attunement.console import show_progress

        with show_progress(self.recipe.settings.max_steps) as callbacks:
            return jobs.tune(
                self.recipe, folder, self.contexts, callbacks, self.scorer_of, self.held_out
            )


def _refuse_others(context: typer.Context) -> None:
    """With --resume or --recipe everything stands in the recipe; an option beside is an error."""
    for name in context.params.keys() - _BESIDE_A_RECIPE:
        if _is_given(context, name):
            raise typer.BadParameter(
                f"{as_option(name)} has no use here: the recipe says everything"
            )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _require_vacant(folder: Path) -> None:
    from attunement.runs import Run

    Run.require_vacant(folder)


def _recipe(groups: Iterable[Options], **resolved: object) -> TuneRecipe:
    """What was asked: every option that was given has the name of its setting or entry."""
    from attunement.recipes import TuneRecipe
    from attunement.tuning import TuningSettings

    given = {name: value for group in groups for name, value in group.given().items()} | {
        name: value for name, value in resolved.items() if value is not None
    }
    settings = {name: given[name] for name in TuningSettings.model_fields if name in given}
    return TuneRecipe.model_validate(
        {name: given[name] for name in TuneRecipe.model_fields if name in given}
        | {
            "settings": TuningSettings.model_validate(settings),
            "command": shlex.join(["attune", *sys.argv[1:]]),
        }
    )


def _repeated(path: Path, output_dir: Path) -> _Job:
    """The job of an earlier run, with its contexts and the held-out ones."""
    from attunement.contexts import read_contexts
    from attunement.recipes import TuneRecipe
    from attunement.runs import read_json

    recipe = TuneRecipe.parse(read_json(path), path)
    command = shlex.join(["attune", "tune", "--recipe", str(path), "--output-dir", str(output_dir)])
    contexts, held_out = (
        None if file is None else read_contexts(path.parent / file)
        for file in (recipe.prompts, recipe.evaluation_prompts)
    )
    recipe = recipe.model_copy(update={"command": command})
    return _Job(recipe, contexts, held_out, path.parent)


def _resume(folder: Path) -> Run:
    from attunement import jobs
    from attunement.console import show_progress
    from attunement.runs import Run

    with usage():
        asked = jobs.read_recipe(Run.open(folder))
    with show_progress(asked.settings.max_steps) as callbacks:
        return jobs.resume(folder, callbacks)


def _conclude(run: Run, as_json: bool) -> None:
    """Write the page and print what was measured, on the main process."""
    from attunement import jobs, processes
    from attunement.console import print_measurement
    from attunement.measuring import MeasuredOn
    from attunement.report import write_report
    from attunement.runs import MEASUREMENT, REPORT, read_json

    if not processes.is_main():
        return
    report = run.folder / REPORT
    write_report([run], report)
    if as_json:
        print_json(read_json(run.folder / MEASUREMENT) | {"report": str(report.resolve())})
    else:
        on = jobs.measured_on(jobs.read_recipe(run))
        for place in (on, MeasuredOn.TUNING) if on is MeasuredOn.HELD_OUT else (on,):
            before, after = (
                jobs.read_measurement(run, half, on_tuning=place is not on)
                for half in ("before", "after")
            )
            print_measurement(after, before, on=place)
        typer.echo(f"report: {report.resolve()}")
