"""What a person asked for, as a file: from a recipe alone a run can be repeated.

A recipe holds the grammar of the command line (model, factors by scorer SPEC, settings) and what
was resolved on the way: λ, versions, hashes of scorer files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attunement import runs
from attunement.conflicts import require_compatible
from attunement.contexts import require_held_out
from attunement.core import AttunementError, Context, Scorer, Stop, as_contexts
from attunement.distributions.adapters import (
    AdapterSettings,
    adapter_base,
    is_base,
    load_adapter,
)
from attunement.distributions.language import LanguageModel
from attunement.distributions.models import load
from attunement.distributions.stopping import STOPS
from attunement.factors import (
    Constraint,
    ContextLambdas,
    Factor,
    Lambda,
    Moment,
    MomentEach,
    Tilt,
    shown,
)
from attunement.objectives import Objective
from attunement.scorers import parse_scorer
from attunement.targets import Target
from attunement.tuning import Proposal, TuningSettings, require_finite, require_reward


class ModelSettings(BaseModel):
    """Which model, and the sample space that everything is measured on.

    Attributes:
        base: A hub id, a folder, or `tiny-python`.
        max_new_tokens: The length at which completions are cut; 64 for `tiny-python`.
        stop: Texts that end a completion.
        stop_preset: The name of a stop function, e.g. `python-function`.
        dtype: What weights are loaded as.
        device: Where to compute; a GPU if there is one when None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    max_new_tokens: int | None = Field(default=None, ge=1)
    stop: tuple[str, ...] = ()
    stop_preset: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str | None = None

    @field_validator("stop_preset")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in STOPS:
            raise AttunementError(f"there is no stop preset {name!r}; there is {', '.join(STOPS)}")
        return name

    def load(
        self, model: str | Path | None = None, *, base: LanguageModel | None = None
    ) -> LanguageModel:
        """The base, or another model on the same outcomes.

        Args:
            model: What to load; the base where None.
            base: A model at hand, whose weights an adapter that was made for it shares.

        Raises:
            AttunementError: There is no such model.
        """
        source = self.base if model is None else model
        below = adapter_base(source)
        if below is not None:
            over = base if base is not None and is_base(base, below) else self.load(below)
            return load_adapter(over, source)
        function = None if self.stop_preset is None else STOPS[self.stop_preset]
        return load(
            source,
            max_new_tokens=self.max_new_tokens,
            stop=Stop(strings=self.stop, function=function),
            dtype=getattr(torch, self.dtype),
            device=self.device,
        )

    def resolved(self, base: LanguageModel) -> ModelSettings:
        """The same with what the base decided, so that other models get its outcomes too."""
        return self.model_copy(update={"max_new_tokens": base.outcomes.max_new_tokens})


class TargetSettings(BaseModel):
    """The factors of a target, by scorer SPEC.

    Attributes:
        constrain: Features that must be 1.
        floor: The factor of what violates a constraint; hard where None.
        match: Feature to the mean that it shall have on average over contexts.
        match_each: Feature to the mean that it shall have in every context.
        tilt: Feature to its weight in the reward.
        beta: The reward's temperature; needed with tilt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    constrain: tuple[str, ...] = ()
    floor: float | None = Field(default=None, gt=0, lt=1)
    match: dict[str, float] = Field(default_factory=dict)
    match_each: dict[str, float] = Field(default_factory=dict)
    tilt: dict[str, float] = Field(default_factory=dict)
    beta: float | None = Field(default=None, gt=0)

    @property
    def has_factors(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.constrain or self.is_matched or self.tilt)

    @property
    def is_matched(self) -> bool:
        """Whether there are moments, and so λ to be fitted."""
        return bool(self.match or self.match_each)

    def check(self, scorer_of: Callable[[str], Scorer] = parse_scorer) -> None:
        """Find what is wrong without loading a model.

        Args:
            scorer_of: From SPEC to scorer.

        Raises:
            AttunementError: A scorer is unknown, an option lacks or has no use for another, or two
                factors contradict each other.
        """
        if self.floor is not None and not self.constrain:
            raise AttunementError("--floor has no use without --constrain")
        if (self.beta is None) != (not self.tilt):
            raise AttunementError(
                "--tilt and --beta need each other, e.g. --tilt pep8_per_line=-1 --beta 0.1"
            )
        require_compatible(self.factors(scorer_of))

    def factors(self, scorer_of: Callable[[str], Scorer] = parse_scorer) -> tuple[Factor, ...]:
        """The factors, not yet fitted.

        Args:
            scorer_of: From SPEC to scorer.

        Raises:
            AttunementError: A scorer is unknown, or a number is out of its range.
        """
        found: list[Factor] = [Constraint(scorer_of(spec), self.floor) for spec in self.constrain]
        found += [Moment(scorer_of(spec), mean) for spec, mean in self.match.items()]
        found += [MomentEach(scorer_of(spec), mean) for spec, mean in self.match_each.items()]
        for spec, weight in self.tilt.items():
            if self.beta is None:
                raise AttunementError("--tilt needs --beta, e.g. --beta 0.1")
            found.append(Tilt(scorer_of(spec), self.beta, weight))
        return tuple(found)

    def build(
        self, base: LanguageModel, scorer_of: Callable[[str], Scorer] = parse_scorer
    ) -> Target:
        """The target, not yet fitted.

        Args:
            base: The base.
            scorer_of: From SPEC to scorer.

        Raises:
            AttunementError: A number is out of its range, or two factors contradict each other.
        """
        return Target(base, self.factors(scorer_of))


EstimateRow: TypeAlias = dict[str, float | int | str | None]
"""An estimate as JSON."""


class ContextFit(BaseModel):
    """What a fit found for one context.

    Attributes:
        context: The context's number in the run's file of contexts.
        digest: Of the context itself, so that λ is never used for another one.
        lambdas: λ_c by SPEC.
        moments: The reached moments by SPEC, as JSON estimates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int
    digest: str
    lambdas: dict[str, float]
    moments: dict[str, EstimateRow]


class TuneRecipe(BaseModel):
    """Everything needed to run a tuning job again.

    Attributes:
        kind: Always `tune`.
        model: Base and sample space.
        target: What is wanted.
        settings: How it is approached.
        policy: Where the policy starts: a run, a folder or a hub id; the base where None.
        adapter: The adapter that is trained over the base; all of the policy's weights where None.
        proposal_model: What the proposal `other` draws from: a run, a folder or a hub id.
        prompts: File of the contexts inside the run, or None for the empty context.
        evaluation_prompts: File of the held-out contexts inside the run, or None without any.
        fit_size: Samples for each context on which λ is solved: the base's, or where the policy
            starts elsewhere half the base's and half that policy's.
        measure_size: Samples of the final measurement.
        lambdas: λ by SPEC, once fitted, of what is matched on average over contexts.
        moments: The reached moments by SPEC, averaged over contexts, as JSON estimates.
        context_fits: λ_c and the moments of what is matched in every context.
        fit_ess: Effective sample size of the weights that λ was solved on.
        fit_khat: Their Pareto k̂; None where they are bounded or too few.
        scorer_files: SHA-256 of each user's file that a scorer reads, by SPEC; copies lie in
            `scorers/`.
        versions: Of the software.
        command: The command that asked for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["tune"] = "tune"
    model: ModelSettings
    target: TargetSettings
    settings: TuningSettings = TuningSettings()
    policy: str | None = None
    adapter: AdapterSettings | None = None
    proposal_model: str | None = None
    prompts: str | None = None
    evaluation_prompts: str | None = None
    fit_size: int = Field(default=8192, ge=2)
    measure_size: int = Field(default=4096, ge=8)
    lambdas: dict[str, float] = Field(default_factory=dict)
    moments: dict[str, EstimateRow] = Field(default_factory=dict)
    context_fits: tuple[ContextFit, ...] = ()
    fit_ess: float | None = None
    fit_khat: float | None = None
    scorer_files: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=runs.versions)
    command: str = ""

    def check(self, scorer_of: Callable[[str], Scorer] = parse_scorer) -> None:
        """Find what is wrong without loading a model.

        Args:
            scorer_of: From SPEC to scorer.

        Raises:
            AttunementError: The target has no factor, or one of them can't be; or the divergence
                is infinite under the target's hard constraint.
        """
        target = self.target
        if not target.has_factors:
            raise AttunementError(
                "the target has no factor: give --constrain, --match, --match-each or --tilt, "
                "e.g. --constrain compiles"
            )
        target.check(scorer_of)
        if self.policy is not None and self.adapter is not None:
            raise AttunementError(
                "a new adapter starts from the base: leave out --policy or --lora-rank; a policy "
                "that is an adapter already is trained on as it is"
            )
        if (self.proposal_model is None) == (self.settings.proposal is Proposal.OTHER):
            raise AttunementError(
                "--proposal other and --proposal-model need each other, e.g. --proposal other "
                "--proposal-model runs/first"
            )
        if self.settings.objective is Objective.REWARD:
            require_reward(target.factors(scorer_of))
        hard = bool(target.constrain) and target.floor is None
        require_finite(self.settings, hard)

    def check_contexts(
        self, contexts: Sequence[Context] | None, held_out: Sequence[Context] | None
    ) -> None:
        """Find what is wrong with the contexts without loading a model.

        Args:
            contexts: Those of tuning; None for the empty one.
            held_out: Those that the distance is followed and reported on; None without any.

        Raises:
            AttunementError: Contexts are held out of nothing, from a target that knows its own
                contexts only, or stand among those of tuning.
        """
        if held_out is None:
            return
        if contexts is None:
            raise AttunementError(
                "--evaluation-prompts holds prompts out of tuning: give --prompts to tune on"
            )
        if self.target.match_each:
            raise AttunementError(
                "a moment that is held in every context is known for the contexts of its fit and "
                "no others: leave out --evaluation-prompts, or use --match"
            )
        require_held_out(contexts, held_out)

    def with_fit(self, target: Target, contexts: Sequence[Context] | None) -> TuneRecipe:
        """The same recipe with what a fit of its target found.

        Args:
            target: The fitted target.
            contexts: The contexts that it was fitted on; None for the empty one.
        """
        shared = {k: v for k, v in target.lambdas_.items() if isinstance(v, float)}
        each = {k: v for k, v in target.lambdas_.items() if isinstance(v, ContextLambdas)}
        fits = tuple(
            ContextFit(
                context=index,
                digest=_digest(context),
                lambdas={name: found.values[index] for name, found in each.items()},
                moments={n: rows[index].to_json() for n, rows in target.moments_each_.items()},
            )
            for index, context in enumerate(as_contexts(contexts) if each else ())
        )
        return self.model_copy(
            update={
                "lambdas": shared,
                "moments": {name: e.to_json() for name, e in target.moments_.items()},
                "context_fits": fits,
                "fit_ess": target.ess_,
                "fit_khat": target.khat_,
            }
        )

    def lambdas_on(self, contexts: Sequence[Context] | None) -> dict[str, Lambda]:
        """λ by SPEC, as `Target.with_lambdas` takes them.

        Args:
            contexts: The run's contexts; None for the empty one.

        Raises:
            AttunementError: A context isn't the one that its λ was fitted on.
        """
        if not self.context_fits:
            return dict(self.lambdas)
        known = as_contexts(contexts)
        if len(known) != len(self.context_fits):
            raise AttunementError(
                f"λ was fitted on {len(self.context_fits)} contexts and there are {len(known)}: "
                "restore the run's contexts, or fit anew in another run"
            )
        for row, context in zip(self.context_fits, known, strict=True):
            if row.digest != _digest(context):
                raise AttunementError(
                    f"context {row.context} ({shown(context)}) isn't the one that λ was fitted on: "
                    "restore the run's contexts, or fit anew in another run"
                )
        columns = {
            spec: ContextLambdas(known, tuple(row.lambdas[spec] for row in self.context_fits))
            for spec in self.target.match_each
        }
        return {**self.lambdas, **columns}

    @classmethod
    def parse(cls, content: Mapping[str, object], where: Path | str) -> Self:
        """A recipe from its JSON.

        Args:
            content: The JSON object.
            where: What it was read from, for the error.

        Raises:
            AttunementError: An entry is unknown or wrong; the message names it.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(str(part) for part in first["loc"])
            raise AttunementError(
                f"{where} is not a tuning recipe: {entry}: {first['msg']}"
            ) from error


def _digest(context: Context) -> str:
    """Of prompt and columns, the order of columns aside."""
    row = {"prompt": context.prompt, "columns": dict(context.columns)}
    text = json.dumps(row, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
