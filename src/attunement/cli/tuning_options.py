"""The options of `attune tune` that no other command has, in groups.

None is an option that wasn't given: the default is that of the settings or the recipe, and the help
says it. Where an option is a setting it has the setting's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from attunement.cli.grouping import Options
from attunement.cli.options import PROMPTS, Json, TargetOptions, as_option, read_source

if TYPE_CHECKING:
    from attunement.core import Context
    from attunement.distributions.adapters import AdapterSettings


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """What is tuned."""

    panel: ClassVar[str] = "Model"

    base: Annotated[str, typer.Option(help="A hub id, a folder, or tiny-python.")] = "tiny-python"
    policy: Annotated[
        str | None,
        typer.Option(
            help="Where the policy starts: a run, a folder or a hub id.", show_default="the base"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class AdapterOptions(Options):
    """An adapter that is trained instead of all weights."""

    panel: ClassVar[str] = "Model"

    lora_rank: Annotated[
        int | None,
        typer.Option(
            help="Train a LoRA adapter of this rank, not all weights.", show_default="all weights"
        ),
    ] = None
    lora_alpha: Annotated[
        int | None,
        typer.Option(help="The adapter counts alpha / rank times.", show_default="16"),
    ] = None
    lora_target_modules: Annotated[
        list[str] | None,
        typer.Option(
            help="A linear layer that gets one; may be repeated.", show_default="all but the head"
        ),
    ] = None

    def settings(self) -> AdapterSettings | None:
        """The adapter that was asked for, or None.

        Raises:
            BadParameter: Something is said of an adapter that wasn't asked for.
        """
        from attunement.distributions.adapters import AdapterSettings

        given = self.given()
        if given and self.lora_rank is None:
            raise typer.BadParameter(
                f"{as_option(next(iter(given)))} has no use without --lora-rank"
            )
        return AdapterSettings.model_validate(given) if given else None


@dataclass(frozen=True, kw_only=True)
class FittingOptions(Options):
    """How the target's λ is solved."""

    panel: ClassVar[str] = TargetOptions.panel

    fit_size: Annotated[
        int | None,
        typer.Option(help="Samples of each context that λ is solved on.", show_default="8192"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions(Options):
    """Contexts that no step draws from."""

    panel: ClassVar[str] = "Contexts"

    evaluation_prompts: Annotated[
        str | None,
        typer.Option(
            metavar=PROMPTS,
            help="Held-out contexts that the distance is followed and reported on.",
            show_default="those of tuning",
        ),
    ] = None
    max_evaluation_prompts: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many held-out prompts, chosen by the seed."),
    ] = None

    def read(self, column: str | None, seed: int) -> tuple[Context, ...] | None:
        """The held-out contexts; None where there are none.

        Args:
            column: The column of the prompts, which is that of the contexts of tuning.
            seed: Of the choice among them.

        Raises:
            BadParameter: An option lacks another.
        """
        if self.evaluation_prompts is None:
            if self.max_evaluation_prompts is not None:
                raise typer.BadParameter("--max-evaluation-prompts needs --evaluation-prompts")
            return None
        return read_source(self.evaluation_prompts, column, self.max_evaluation_prompts, seed)


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Options):
    """What a step goes down."""

    panel: ClassVar[str] = "Objective"

    objective: Annotated[
        str | None,
        typer.Option(
            help="policy_gradient, trajectory_balance or reward.", show_default="policy_gradient"
        ),
    ] = None
    divergence: Annotated[
        str | None,
        typer.Option(
            help="forward_kl, reverse_kl, total_variation, jensen_shannon, pearson_chi2, "
            "neyman_chi2, squared_hellinger or alpha:NUMBER.",
            show_default="forward_kl",
        ),
    ] = None
    baseline: Annotated[
        str | None,
        typer.Option(
            help="none, analytic or leave_one_out.",
            show_default="analytic; of the objective reward leave_one_out",
        ),
    ] = None
    reward_to_go: Annotated[
        bool | None,
        typer.Option("--reward-to-go", help="A token answers for what follows it; reverse_kl."),
    ] = None
    closed_form_kl: Annotated[
        bool | None,
        typer.Option("--closed-form-kl", help="KL summed over the vocabulary; reverse_kl."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProposalOptions(Options):
    """What a step draws from."""

    panel: ClassVar[str] = "Proposal"

    proposal: Annotated[
        str | None,
        typer.Option(
            help="policy, base, mixture (of both), kl_adaptive or other.", show_default="mixture"
        ),
    ] = None
    proposal_model: Annotated[
        str | None, typer.Option(help="What --proposal other draws from: a run, folder or hub id.")
    ] = None
    proposal_temperature: Annotated[
        float | None, typer.Option(help="Temperature of what is drawn from.", show_default="1")
    ] = None
    proposal_top_p: Annotated[
        float | None,
        typer.Option(help="Top-p of the policy's half of a mixture.", show_default="1"),
    ] = None
    replay: Annotated[
        int | None,
        typer.Option(help="Earlier batches that a step learns from again.", show_default="0"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class OptimisationOptions(Options):
    """How parameters move."""

    panel: ClassVar[str] = "Optimisation"

    max_steps: Annotated[int | None, typer.Option(help="Updates.", show_default="80")] = None
    batch_size: Annotated[
        int | None, typer.Option(help="Samples in a step.", show_default="256")
    ] = None
    samples_per_context: Annotated[
        int | None, typer.Option(help="Samples of each context in a step.", show_default="32")
    ] = None
    micro_batch_size: Annotated[
        int | None,
        typer.Option(help="Samples in one forward and backward pass.", show_default="64"),
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the schedule.", show_default="5e-5")
    ] = None
    warmup_steps: Annotated[
        int | None, typer.Option(help="Steps of linear increase.", show_default="5")
    ] = None
    max_grad_norm: Annotated[
        float | None, typer.Option(help="Where gradients are cut.", show_default="1")
    ] = None
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's.", show_default="0")] = None
    averaging: Annotated[
        float | None,
        typer.Option(
            help="Weight of the past in the delivered average; 0 is none.", show_default="0.95"
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random.", show_default="0")
    ] = None
    fully_shard: Annotated[
        bool | None,
        typer.Option("--fully-shard", help="Split parameters among several processes (FSDP2)."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """How the distance is followed and measured."""

    panel: ClassVar[str] = "Evaluation"

    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations.", show_default="20")
    ] = None
    bank_size: Annotated[
        int | None,
        typer.Option(help="Base samples on which the distance is followed.", show_default="2048"),
    ] = None
    evaluation_size: Annotated[
        int | None,
        typer.Option(help="Fresh policy samples at each evaluation.", show_default="512"),
    ] = None
    gradient_variance: Annotated[
        bool | None,
        typer.Option("--gradient-variance", help="Estimate the gradient's variance as well."),
    ] = None
    measure_size: Annotated[
        int | None, typer.Option(help="Samples of the final measurement.", show_default="4096")
    ] = None


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """The run on disk."""

    panel: ClassVar[str] = "Output"

    output_dir: Annotated[Path, typer.Option(help="A new folder for the run.")]
    keep: Annotated[
        str | None,
        typer.Option(
            help="Which weights are delivered: best (lowest KL(p‖π) on the way) or last.",
            show_default="best",
        ),
    ] = None
    save_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints.", show_default="20")
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output-dir.")
    ] = False
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.json to run again; nothing else is asked then.")
    ] = None
    as_json: Json = False
