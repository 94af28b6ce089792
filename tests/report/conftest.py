"""Small synthetic runs, written through the project's own types so that their form can't drift."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attunement.conditional import ContextRow
from attunement.contributions import Contribution
from attunement.core import Estimate
from attunement.measuring import MeasuredOn, Measurement
from attunement.recipes import ContextFit, ModelSettings, TargetSettings, TuneRecipe
from attunement.runs import Run, write_json
from attunement.training import UpdateInfo
from attunement.tuning import Evaluation, StepInfo, TuningSettings

Writer = Callable[..., Run]

GOOD = "def area(width, height):\n    return width * height\n"
BAD = "def area(width, height:\n    return width *\n"


def estimate(value: float, stderr: float = 0.01, **further) -> Estimate:
    if math.isinf(value):
        return Estimate(value, None, value, value, 4096, 4096.0)
    low, high = value - 1.96 * stderr, value + 1.96 * stderr
    defaults = {"n": 4096, "ess": 3100.0, "khat": None}
    return Estimate(value, stderr, low, high, **(defaults | further))


def contributions_of(target: TargetSettings, violated: float) -> tuple[Contribution, ...]:
    """What each factor does, where half of the completions have a matched or rewarded feature."""

    def row(kind: str, spec: str, slope: float) -> Contribution:
        factor = {"kind": kind, "scorer": spec}
        base, reached = (estimate(slope * share, 0.01) for share in (0.4, 0.5))
        return Contribution(factor, base, reached, reached)

    def constraint(spec: str) -> Contribution:
        factor = {"kind": "constrain", "scorer": spec, "floor": target.floor}
        if target.floor is not None:
            costs = [estimate(math.log(target.floor) * share) for share in (0.58, violated, 0.0)]
            return Contribution(factor, *costs)
        return Contribution(
            factor,
            estimate(-math.inf),
            estimate(-math.inf),
            estimate(0.0, 0.0),
            estimate(0.58),
            estimate(violated),
        )

    return (
        *(constraint(spec) for spec in target.constrain),
        *(row("match", spec, 1.0) for spec in target.match),
        *(row("match_each", spec, -1.0) for spec in target.match_each),
        *(row("tilt", spec, weight / (target.beta or 1)) for spec, weight in target.tilt.items()),
    )


def measurement(
    target: TargetSettings,
    features: Mapping[str, tuple[float, float, float]],
    at_policy: bool,
    generator: np.random.Generator,
    warnings: tuple[str, ...] = (),
) -> Measurement:
    """Base or policy measured, with figures of the size that such runs have."""
    left = 0.21 if at_policy else 0.86
    return Measurement(
        n=4096,
        base={name: estimate(row[0]) for name, row in features.items()},
        policy={name: estimate(row[1 if at_policy else 0]) for name, row in features.items()},
        target={name: estimate(row[2], 1e-4) for name, row in features.items()},
        divergences={
            "forward_kl": estimate(left, 0.012, khat=0.31),
            "reverse_kl": estimate(math.inf),
            "reverse_kl_allowed": estimate(left / 2, 0.02),
            "jensen_shannon": estimate(left / 5, 0.004),
            "total_variation": estimate(left / 3, 0.006),
            "kl_policy_base": estimate(0.94 if at_policy else 0.0, 0.03 if at_policy else 0.0),
        },
        log_z=estimate(-0.862, 0.021),
        forbidden=estimate(0.069 if at_policy else 0.578, 0.005),
        diversity={
            who: {
                "distinct_1": estimate(0.41),
                "distinct_2": estimate(0.78),
                "self_bleu": estimate(0.52 + shift),
                "length": estimate(48.2 - 30 * shift, 0.4),
            }
            for who, shift in (("base", 0.0), ("policy", 0.02), ("target", 0.04))
        },
        log_ratios=torch.from_numpy(generator.normal(-0.05, 0.35, 900)),
        warnings=warnings,
        factors=contributions_of(target, 0.069 if at_policy else 0.578),
    )


def steps_of(run: Run, steps: int, names: tuple[str, ...], generator: np.random.Generator) -> None:
    """Steps and an evaluation every ten, as a run that goes well."""
    rows = []
    for at in range(steps + 1):
        done = 1 - math.exp(-at / 25)
        if at:
            update = UpdateInfo(0.1, float(generator.gamma(4, 0.1)), at == 7, 1e-4 * (1 - done))
            info = StepInfo(
                at,
                256,
                0,
                9000,
                0.42 + 0.5 * done + float(generator.normal(0, 0.01)),
                0.4,
                0.3 * math.exp(-at / 20) + 0.01,
                0,
                0,
                update,
                1.5,
            )
            rows.append(info.to_json())
        if at % 10 == 0:
            found = {
                "forward_kl": estimate(0.86 - 0.63 * done, 0.03),
                "jensen_shannon": estimate(0.17 - 0.12 * done, 0.008),
                "total_variation": estimate(0.3 - 0.2 * done, 0.01),
                "kl_policy_base": estimate(0.95 * done, 0.04),
                "log_z": estimate(-0.86, 0.02),
            }
            found |= {name: estimate(0.42 + 0.5 * done, 0.015) for name in names}
            rows.append(Evaluation(at, found).to_json())
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sample_row(when: str, step: int, text: str, features: Mapping[str, float | None], **further):
    row = {
        "when": when,
        "step": step,
        "context": 0,
        "prompt": "",
        "text": text,
        "finished": True,
        "allowed": True,
        "log_base": -41.37,
        "log_policy": -40.2,
        "features": dict(features),
    }
    return row | further


def samples_of(run: Run, names: tuple[str, ...]) -> None:
    good, bad = dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.0)
    for at in range(6):
        ok = at % 2 == 0
        run.append(
            "samples.jsonl",
            sample_row("before", 0, GOOD if ok else BAD, good if ok else bad, allowed=ok),
        )
        run.append("samples.jsonl", sample_row("after", 40, GOOD, good))
        run.append("samples.jsonl", sample_row("target", 40, GOOD, good))
        run.append(
            "samples.jsonl",
            sample_row("during", 10 * (1 + at % 3), BAD, bad, allowed=False, finished=False),
        )


@pytest.fixture
def write_run(tmp_path: Path) -> Writer:
    """A function that writes a run: name, target, whether it is finished, and more samples."""

    def write(
        name: str = "compiles",
        target: TargetSettings | None = None,
        *,
        finished: bool = True,
        steps: int = 40,
        max_new_tokens: int | None = 64,
        lambdas: Mapping[str, float] | None = None,
        moments: Mapping[str, Estimate] | None = None,
        context_fits: tuple[ContextFit, ...] = (),
        fit_ess: float | None = None,
        fit_khat: float | None = None,
        warnings: tuple[str, ...] = (),
        measured_on: MeasuredOn = MeasuredOn.EMPTY,
        contexts: tuple[ContextRow, ...] = (),
        prompts: str | None = None,
        seed: int = 0,
    ) -> Run:
        target = TargetSettings(constrain=("compiles",)) if target is None else target
        names = (*target.constrain, *target.match, *target.match_each, *target.tilt)
        recipe = TuneRecipe(
            model=ModelSettings(base="tiny-python", max_new_tokens=max_new_tokens),
            target=target,
            settings=TuningSettings(max_steps=steps, evaluate_every=10, seed=seed),
            prompts=prompts,
            lambdas=dict(lambdas or {}),
            moments={key: value.to_json() for key, value in (moments or {}).items()},
            context_fits=context_fits,
            fit_ess=fit_ess,
            fit_khat=fit_khat,
            versions={"python": "3.11", "attunement": "0.1.0"},
            command=f"attune tune tiny-python --constrain {' '.join(names)} --seed {seed}",
        )
        generator = np.random.default_rng(seed)
        run = Run.create(tmp_path / name, recipe.model_dump(mode="json"))
        steps_of(run, steps if finished else steps // 2, names, generator)
        features = {name: (0.42, 0.93, 1.0 if name in target.constrain else 0.5) for name in names}
        samples_of(run, names)
        if finished:
            before = measurement(target, features, False, generator)
            after = measurement(target, features, True, generator, warnings)
            after = replace(after, contexts=contexts)
            write_json(
                run.folder / "measurement.json",
                {
                    "before": before.to_json(str(run.folder)),
                    "after": after.to_json(str(run.folder)),
                    "log_weights": after.log_weights_json(),
                    "measured_on": measured_on,
                    "on_contexts_of_tuning": {
                        "before": before.to_json(str(run.folder)),
                        "after": before.to_json(str(run.folder)),
                    }
                    if measured_on is MeasuredOn.HELD_OUT
                    else None,
                },
            )
        return run

    return write


@pytest.fixture
def append_sample() -> Callable[..., None]:
    """A function that adds a sample with a text of one's own to a run."""

    def append(run: Run, text: str, when: str = "after", **further) -> None:
        row = {"step": 40, "features": {"compiles": 0.0}} | further
        run.append("samples.jsonl", sample_row(when, text=text, **row))

    return append


@pytest.fixture
def edit() -> Callable[[Path, Callable[[dict], None]], None]:
    """A function that changes a JSON file in place."""

    def change(path: Path, how: Callable[[dict], None]) -> None:
        content = json.loads(path.read_text())
        how(content)
        path.write_text(json.dumps(content))

    return change
