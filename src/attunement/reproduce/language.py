"""The embedded and the paper's scale: one code path, on `tiny-python` or on a model of the hub.

Figures are estimates on fresh samples here, so a seed's figure has sampling noise in it as well;
both are in the spread over seeds, which alone makes the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from attunement.contexts import read_contexts, require_held_out
from attunement.core import AttunementError, Context, Distribution, Samples, Scorer
from attunement.distributions.language import LanguageModel
from attunement.distributions.tiny import TINY_PYTHON
from attunement.measuring import Measurement, measure
from attunement.recipes import ModelSettings, TargetSettings
from attunement.reproduce.claims import Row
from attunement.reproduce.methods import Method
from attunement.runs import generator_for
from attunement.scorers import (
    ast_nodes,
    evaluate,
    identifiers_in_source,
    parse_scorer,
    pep8_per_line,
)
from attunement.scorers.base import NamedScorer
from attunement.targets import Target
from attunement.tuning import Keep, TuningSettings, tune

GPT_NEO = ModelSettings(
    base="EleutherAI/gpt-neo-125m", max_new_tokens=128, stop_preset="python-function"
)
"""The model of code in arXiv 2112.00791, and its length."""
GPT2 = ModelSettings(base="gpt2", max_new_tokens=40)
"""The model of sentences in arXiv 2012.11635 and 2206.00761, and their length."""
_FIT, _MEASURE, _ENTROPY = 300, 301, 303


@dataclass(frozen=True)
class Prompts:
    """Contexts to tune on, and others on which it is measured.

    What a prompt was before something was put around it stays in the column `source`.

    Attributes:
        tuning: Where those of tuning come from, as `--prompts` names it.
        held_out: Where the others come from.
        most: So many of them at most, the same for all seeds.
        most_held_out: So many of the others.
        column: The column of the prompts.
        before: What is put before each of them.
        after: What is put behind.
    """

    tuning: str
    held_out: str
    most: int
    most_held_out: int
    column: str = "prompt"
    before: str = ""
    after: str = ""

    @cache  # noqa: B019  a handful of them, as long as the program
    def read(self) -> tuple[tuple[Context, ...], tuple[Context, ...]]:
        """Those of tuning, and the others, read once.

        Raises:
            AttunementError: They can't be read, or some are among both.
        """
        tuning = read_contexts(self.tuning, self.column, self.most)
        held_out = read_contexts(self.held_out, self.column, self.most_held_out)
        require_held_out(tuning, held_out)
        return tuple(map(self._around, tuning)), tuple(map(self._around, held_out))

    def _around(self, context: Context) -> Context:
        columns = {**context.columns, "source": context.prompt}
        return Context(f"{self.before}{context.prompt}{self.after}", columns)


SIGNATURES = Prompts(
    "tiny-python-signatures", "tiny-python-signatures:held-out", most=200, most_held_out=100
)
"""All signatures that are shipped."""


@dataclass(frozen=True)
class LanguageSizes:
    """What was chosen for a study of a language model, before it was run.

    Attributes:
        model: The base and its sample space.
        seeds: Units of replication.
        settings: What the runs of all conditions have in common.
        targets: The targets, by what they are called in the study.
        measure_size: Fresh samples of a measurement, half of the base and half of the policy.
        fit_size: Base samples that λ is solved on.
        prompts: The contexts, where a target is conditional.
    """

    model: ModelSettings
    seeds: int
    settings: TuningSettings
    targets: Mapping[str, TargetSettings]
    measure_size: int
    fit_size: int = 4096
    prompts: Prompts | None = None

    @property
    def needs_gpu(self) -> bool:
        """Whether the base is another one than the embedded model."""
        return self.model.base != TINY_PYTHON

    def prepare(self) -> None:
        """Load the model and read the contexts, if there are any.

        Raises:
            AttunementError: Something isn't there.
        """
        _loaded(self.model.model_dump_json())
        if self.prompts is not None:
            self.contexts()

    def target(self, name: str, seed: int) -> Target:
        """A target on the loaded base, fitted where it matches moments, once for all conditions."""
        model, settings = self.model.model_dump_json(), self.targets[name].model_dump_json()
        return _fitted(model, settings, self.fit_size, seed)

    def contexts(self) -> tuple[tuple[Context, ...], tuple[Context, ...]]:
        """Contexts to tune on, and others to measure on; the same for all seeds.

        Raises:
            AttunementError: There are none, or they can't be read.
        """
        if self.prompts is None:
            raise AttunementError("these sizes name no prompts")
        return self.prompts.read()

    def measured(
        self,
        target: Target,
        policy: Distribution,
        seed: int,
        contexts: Sequence[Context] | None = None,
        features: Sequence[Scorer] = (),
    ) -> Row:
        """Where a policy stands on fresh samples."""
        generator = generator_for(seed, _MEASURE)
        found = measure(
            target,
            policy,
            contexts,
            n=self.measure_size,
            features=features,
            generator=generator,
        )
        return _figures(found)

    def to_json(self) -> dict[str, object]:
        """For the recipe."""
        return {
            **vars(self),
            "model": self.model.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "targets": {name: t.model_dump(mode="json") for name, t in self.targets.items()},
            "prompts": None if self.prompts is None else vars(self.prompts),
        }


class Tasks(dict[str, LanguageSizes]):
    """The sizes of each task of a study, by its name, where tasks differ in model or contexts.

    A study asks of them what it asks of the sizes of a single task.
    """

    @property
    def seeds(self) -> int:
        """The units of replication, which all tasks have in common."""
        (seeds,) = {sizes.seeds for sizes in self.values()}
        return seeds

    @property
    def needs_gpu(self) -> bool:
        """Whether some task does."""
        return any(sizes.needs_gpu for sizes in self.values())

    def prepare(self) -> None:
        """Load every model and read all contexts.

        Raises:
            AttunementError: Something isn't there.
        """
        for sizes in self.values():
            sizes.prepare()

    def to_json(self) -> dict[str, object]:
        """For the recipe."""
        return {name: sizes.to_json() for name, sizes in self.items()}


def embedded_settings(max_steps: int, evaluate_every: int) -> TuningSettings:
    """`tiny-python` within the hour: the defaults of `attune tune`, delivered as they end."""
    return TuningSettings(
        max_steps=max_steps,
        evaluate_every=evaluate_every,
        batch_size=256,
        samples_per_context=16,
        bank_size=512,
        evaluation_size=256,
        keep=Keep.LAST,
    )


def paper_settings(
    batch_size: int, learning_rate: float, warmup_steps: int, samples_per_context: int = 64
) -> TuningSettings:
    """A paper's settings; the number of steps isn't theirs: 1,000."""
    return TuningSettings(
        max_steps=1000,
        evaluate_every=10,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        samples_per_context=samples_per_context,
        bank_size=4096,
        evaluation_size=512,
        averaging=0.0,
        keep=Keep.LAST,
    )


def follow(
    target: Target, settings: TuningSettings, contexts: Sequence[Context] | None = None
) -> tuple[Distribution, list[Row]]:
    """Tune a copy of the base.

    Returns:
        The last policy, and the values of every evaluation with `samples`, the fresh samples drawn
        until then; the base comes first.
    """
    tuned = tune(target, contexts, settings)
    path: list[Row] = [
        {name: estimate.value for name, estimate in evaluation.estimates.items()}
        | {"samples": float(evaluation.step * settings.batch_size)}
        for evaluation in tuned.evaluations
    ]
    return tuned.policy, path


def reached(
    target: Target,
    method: Method | None,
    sizes: LanguageSizes,
    seed: int,
    contexts: Sequence[Context] | None = None,
) -> Distribution:
    """The last policy of a method, or the base where there is none."""
    if method is None:
        return target.base
    policy, _ = follow(target, method.settings(sizes.settings, seed), contexts)
    return policy


def spread(policy: Distribution, seed: int, count: int) -> Row:
    """`entropy` in nats and `distinct`, the share of different ones, of unconditional samples."""
    samples = policy.sample(None, count, generator=generator_for(seed, _ENTROPY))
    return {
        "entropy": -float(samples.log_prob.mean()),
        "distinct": len({tuple(row) for row in samples.token_lists}) / count,
    }


def _keeps_pep8(samples: Samples) -> Tensor:
    violations = evaluate(pep8_per_line, samples).values
    return (samples.finished & (violations == 0)).double()


keeps_pep8 = NamedScorer("keeps_pep8", _keeps_pep8)
"""1 where a completion has finished and its full text has no violation of PEP 8."""


def _faithful(minimum: int) -> Callable[[Samples], Tensor]:
    named = identifiers_in_source(column="source", minimum=minimum)
    return lambda samples: samples.finished * evaluate(named, samples).values


faithful = NamedScorer("faithful", _faithful(0))
"""1 where a docstring has ended and nothing that it names as code does is absent in its source."""
names_its_source = NamedScorer("names_its_source", _faithful(1))
"""1 where a faithful docstring names something."""

OWN_SCORERS: Mapping[str, Scorer] = {scorer.name: scorer for scorer in (keeps_pep8, faithful)}
"""Scorers of studies; what is judged in them is the whole completion, so it must have ended."""

WATCHED: tuple[Scorer, ...] = (ast_nodes, pep8_per_line)
"""Features of code that are measured beside those of the target."""


def _scorer(spec: str) -> Scorer:
    return OWN_SCORERS[spec] if spec in OWN_SCORERS else parse_scorer(spec)


@cache
def _fitted(model: str, settings: str, fit_size: int, seed: int) -> Target:
    built = TargetSettings.model_validate_json(settings).build(_loaded(model), _scorer)
    return built.fit(n=fit_size, generator=generator_for(seed, _FIT))


@cache
def _loaded(model: str) -> LanguageModel:
    """The model of some settings as JSON, loaded once; a base is never changed."""
    return ModelSettings.model_validate_json(model).load()


def _figures(found: Measurement) -> Row:
    """The values of a measurement; what is the target's is called `target_...`.

    Statistics of sets are NaN where there are too few samples for them.
    """
    missing = dict.fromkeys(("distinct_1", "self_bleu"), math.nan)
    tables = (found.policy, found.divergences, found.diversity["policy"])
    own = {name: e.value for table in tables for name, e in table.items()}
    beside = {**found.target, **found.diversity.get("target", {})}
    of_target = missing | {name: e.value for name, e in beside.items()}
    return missing | own | {f"target_{name}": x for name, x in of_target.items()}
