"""What a person asked for, as a file: from a recipe alone a run can be repeated.

A recipe holds the grammar of the command line (model, factors by scorer SPEC, settings) and what
was resolved on the way: λ, versions, hashes of scorer files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attunement import runs
from attunement.core import AttunementError, Scorer, Stop
from attunement.distributions.causal import Causal
from attunement.distributions.stopping import STOPS
from attunement.objectives import Objective
from attunement.scorers import parse_scorer
from attunement.targets import Target
from attunement.tuning import Proposal, TuningSettings, require_finite


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

    def load(self, model: str | Path | None = None) -> Causal:
        """The base, or another model on the same outcomes.

        Raises:
            AttunementError: There is no such model.
        """
        function = None if self.stop_preset is None else STOPS[self.stop_preset]
        return Causal.load(
            self.base if model is None else model,
            max_new_tokens=self.max_new_tokens,
            stop=Stop(strings=self.stop, function=function),
            dtype=getattr(torch, self.dtype),
            device=self.device,
        )

    def resolved(self, base: Causal) -> ModelSettings:
        """The same with what the base decided, so that other models get its outcomes too."""
        return self.model_copy(update={"max_new_tokens": base.outcomes.max_new_tokens})


class TargetSettings(BaseModel):
    """The factors of a target, by scorer SPEC.

    Attributes:
        constrain: Features that must be 1.
        floor: The factor of what violates a constraint; hard where None.
        match: Feature to the mean that it shall have.
        tilt: Feature to its weight in the reward.
        beta: The reward's temperature; needed with tilt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    constrain: tuple[str, ...] = ()
    floor: float | None = Field(default=None, gt=0, lt=1)
    match: dict[str, float] = Field(default_factory=dict)
    tilt: dict[str, float] = Field(default_factory=dict)
    beta: float | None = Field(default=None, gt=0)

    @property
    def has_factors(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.constrain or self.match or self.tilt)

    def check(self, scorer_of: Callable[[str], Scorer] = parse_scorer) -> None:
        """Find what is wrong without loading a model.

        Args:
            scorer_of: From SPEC to scorer.

        Raises:
            AttunementError: A scorer is unknown, or an option lacks or has no use for another.
        """
        if self.floor is not None and not self.constrain:
            raise AttunementError("--floor has no use without --constrain")
        if (self.beta is None) != (not self.tilt):
            raise AttunementError(
                "--tilt and --beta need each other, e.g. --tilt pep8_per_line=-1 --beta 0.1"
            )
        for spec in (*self.constrain, *self.match, *self.tilt):
            scorer_of(spec)

    def build(self, base: Causal, scorer_of: Callable[[str], Scorer] = parse_scorer) -> Target:
        """The target, not yet fitted.

        Args:
            base: The base.
            scorer_of: From SPEC to scorer.

        Raises:
            AttunementError: A number is out of its range.
        """
        target = Target(base)
        for spec in self.constrain:
            target = target.constrain(scorer_of(spec), self.floor)
        if self.match:
            target = target.match({scorer_of(spec): mean for spec, mean in self.match.items()})
        for spec, weight in self.tilt.items():
            if self.beta is None:
                raise AttunementError("--tilt needs --beta, e.g. --beta 0.1")
            target = target.tilt(scorer_of(spec), self.beta, weight)
        return target


class TuneRecipe(BaseModel):
    """Everything needed to run a tuning job again.

    Attributes:
        kind: Always `tune`.
        model: Base and sample space.
        target: What is wanted.
        settings: How it is approached.
        policy: Where the policy starts: a run, a folder or a hub id; the base where None.
        proposal_model: What the proposal `other` draws from: a run, a folder or a hub id.
        prompts: File of the contexts inside the run, or None for the empty context.
        fit_size: Base samples for each context on which λ is solved.
        measure_size: Samples of the final measurement.
        lambdas: λ by SPEC, once fitted.
        moments: The reached moments by SPEC, as JSON estimates.
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
    proposal_model: str | None = None
    prompts: str | None = None
    fit_size: int = Field(default=8192, ge=2)
    measure_size: int = Field(default=4096, ge=8)
    lambdas: dict[str, float] = Field(default_factory=dict)
    moments: dict[str, dict[str, float | int | str | None]] = Field(default_factory=dict)
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
                "the target has no factor: give --constrain, --match or --tilt, "
                "e.g. --constrain compiles"
            )
        target.check(scorer_of)
        if (self.proposal_model is None) == (self.settings.proposal is Proposal.OTHER):
            raise AttunementError(
                "--proposal other and --proposal-model need each other, e.g. --proposal other "
                "--proposal-model runs/first"
            )
        if self.settings.objective is Objective.REWARD and target.match:
            raise AttunementError("a proportion is no reward: --objective reward takes no --match")
        hard = bool(target.constrain) and target.floor is None
        require_finite(self.settings, hard)

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
