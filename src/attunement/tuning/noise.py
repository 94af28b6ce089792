"""How noisy is a step's gradient? What a baseline, a proposal or a batch size is worth, measured.

For a step's gradient g, the mean of N samples' gradients, the estimate is of

    tr Cov(g) = E‖g - E g‖²,

the number that baselines lower (arXiv 2206.00761) and by which learning rates are bounded. A fresh
batch is cut into groups of equal size; of two groups' gradients, half the squared distance is an
unbiased estimate of tr Cov of one of them, and that of the whole step is so many times smaller as
there are groups. Pairs are independent of each other, so their spread gives the interval, and no
more than two gradients are held at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attunement import estimators
from attunement.core import AttunementError, Estimate
from attunement.tuning.drawing import draw
from attunement.tuning.learning import Lesson, lesson
from attunement.tuning.problem import NOISE, Problem, TuningState

GROUPS = 32
"""Into how many a batch is cut, or as many as it has samples or, of several contexts, contexts."""


def gradient_variance(problem: Problem, state: TuningState) -> Estimate:
    """tr Cov of the gradient that the next step would have, before it is clipped.

    The fresh batch is drawn from a random stream of its own, so that no step depends on whether its
    noise was looked at; replayed samples, which aren't independent of the policy, are left out. The
    unit is the sample or, where a step draws from several contexts, the context.

    Args:
        problem: The problem.
        state: Not changed.

    Returns:
        In squared units of the gradient; n counts pairs of groups.

    Raises:
        AttunementError: The batch is too small for two groups of a pair.
    """
    drawn = draw(problem, state, NOISE)
    taught = lesson(problem, state, drawn)
    groups = _groups(drawn.context, problem.settings.seed)
    if len(groups) < 4:
        raise AttunementError(
            "the gradient's variance needs four samples or, of several contexts, four contexts in "
            "a step: raise --batch-size"
        )
    parameters = [p for p in state.policy.module.parameters() if p.requires_grad]
    distances = []
    for first, second in zip(groups[::2], groups[1::2], strict=True):
        gradients = [
            _gradient(problem, taught, rows, parameters, len(drawn) / len(rows))
            for rows in (first, second)
        ]
        distance = sum(
            float((a - b).double().square().sum()) for a, b in zip(*gradients, strict=True)
        )
        distances.append(distance / 2 / len(groups))
    return estimators.sample_mean(torch.tensor(distances, dtype=torch.float64))


def _groups(context: Tensor, seed: int) -> list[Tensor]:
    """Rows of an even number of groups of equally many units, at random; the surplus is left."""
    generator = torch.Generator().manual_seed(seed)
    units = context.unique()
    if len(units) == 1:
        rows = torch.randperm(len(context), generator=generator)
        size = max(1, len(rows) // GROUPS)
        parts = list(rows[: len(rows) // size * size].split(size))
    else:
        units = units[torch.randperm(len(units), generator=generator)]
        size = max(1, len(units) // GROUPS)
        chosen = units[: len(units) // size * size].split(size)
        parts = [torch.isin(context, part).nonzero()[:, 0] for part in chosen]
    return parts[: len(parts) // 2 * 2]


def _gradient(
    problem: Problem, taught: Lesson, rows: Tensor, parameters: Sequence[Tensor], scale: float
) -> list[Tensor]:
    """The mean gradient of some rows; `scale` makes it that from their share of the step's."""
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for part in rows.split(problem.settings.micro_batch_size):
        found = torch.autograd.grad(taught.loss_of(part) * scale, parameters, allow_unused=True)
        for total, gradient in zip(totals, found, strict=True):
            if gradient is not None:
                total += gradient
    return totals
