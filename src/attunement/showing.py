"""The log of samples: completions of base, policy and target, drawn to be looked at.

Nothing is estimated from them. Each is written with its prompt, with its features and with its
log-probabilities under base and policy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attunement.core import AttunementError, Distribution, Samples, Scores
from attunement.runs import SAMPLES, Run, generator_for
from attunement.sampling import rejection
from attunement.targets import Target
from attunement.tuning import Problem

_SHOWN, _SHOWN_DURING = 40, 8
_SHOW = 103
"""The random stream, another than those of jobs and of tuning."""


def show_all(
    run: Run, problem: Problem, policy: Distribution, on_stage: Callable[[str], None]
) -> None:
    """Add samples of base, policy and, where they come exactly, of the target to the log.

    Those of the target come from contexts in which the bank has something that is allowed: to look
    for one elsewhere may take forever. Where the base almost never meets the constraint they are
    left out: a run that has come this far doesn't fail for want of something to show.

    Args:
        run: The run.
        problem: Its problem; with held-out contexts samples are of those.
        policy: The delivered policy.
        on_stage: Told where the target's are left out.
    """
    target, last = problem.target, problem.settings.max_steps
    _log(run, target, target.base, "before", 0, _draw(problem, target.base, 0, _SHOWN))
    _log(run, target, policy, "after", last, _draw(problem, policy, last, _SHOWN))
    if target.is_dominated:
        allowed = torch.isfinite(problem.bank_potential)
        numbers = problem.bank.context_index[allowed].unique()[:_SHOWN]
        contexts = [problem.evaluation_contexts[number] for number in numbers.tolist()]
        generator = generator_for(problem.settings.seed, _SHOW, last + 1)
        each = max(1, _SHOWN // len(contexts))
        try:
            exact = rejection(target, contexts, each, generator=generator).samples
        except AttunementError as error:
            on_stage(f"no samples of the target are shown: {error}")
        else:
            _log(run, target, policy, "target", last, exact, numbers)


def show_some(run: Run, problem: Problem, policy: Distribution, step: int) -> None:
    """Add a few samples of the policy after a step to the log."""
    samples = _draw(problem, policy, step, _SHOWN_DURING)
    _log(run, problem.target, policy, "during", step, samples)


def _draw(problem: Problem, model: Distribution, step: int, count: int) -> Samples:
    contexts = problem.evaluation_contexts[:count]
    generator = generator_for(problem.settings.seed, _SHOW, step)
    return model.sample(contexts, max(1, count // len(contexts)), generator=generator)


def _log(
    run: Run,
    target: Target,
    policy: Distribution,
    when: str,
    step: int,
    samples: Samples,
    numbers: Tensor | None = None,
) -> None:
    """Add samples, scored by base and policy, to the log of samples.

    Args:
        run: The run.
        target: Its target.
        policy: The policy.
        when: `before`, `during`, `after` or `target`.
        step: Steps made.
        samples: What is logged.
        numbers: The number in the problem of each of their contexts; their own where None.
    """
    context = samples.context_index if numbers is None else numbers[samples.context_index]
    scores = target.features(samples)
    potential = target.log_potential(samples, scores)
    with torch.no_grad():
        log_base, log_policy = target.base.log_prob(samples), policy.log_prob(samples)
    for index, text in enumerate(samples.texts):
        row = {
            "when": when,
            "step": step,
            "context": int(context[index]),
            "prompt": samples.contexts[int(samples.context_index[index])].prompt,
            "text": text,
            "finished": bool(samples.finished[index]),
            "allowed": bool(torch.isfinite(potential[index])),
            "log_base": float(log_base[index]),
            "log_policy": float(log_policy[index]),
            "features": {name: _feature(column, index) for name, column in scores.items()},
        }
        run.append(SAMPLES, row)


def _feature(scores: Scores, index: int) -> float | None:
    return float(scores.values[index]) if bool(scores.applicable[index]) else None
