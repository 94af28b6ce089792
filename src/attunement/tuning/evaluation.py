"""Where a policy stands on the way, on the bank and on fresh samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attunement import estimators
from attunement.core import Estimate, Samples
from attunement.divergences import forward_kl, jensen_shannon, total_variation
from attunement.evidence import BASE, POLICY, Evidence
from attunement.runs import generator_for
from attunement.tuning.noise import gradient_variance
from attunement.tuning.problem import EVALUATION, Problem, TuningState


@dataclass(frozen=True)
class Evaluation:
    """Where the averaged policy stands after a step.

    Attributes:
        step: Steps made.
        estimates: Distances, log Z and the mean of each feature over the samples that it applies
            to, by name.
    """

    step: int
    estimates: Mapping[str, Estimate]

    def to_json(self) -> dict[str, object]:
        """A line of `metrics.jsonl`."""
        rows = {name: estimate.to_json() for name, estimate in self.estimates.items()}
        return {"step": self.step, "estimates": rows}


def evaluate(problem: Problem, state: TuningState) -> Evaluation:
    """Estimate where the averaged policy stands."""
    settings, target = problem.settings, problem.target
    generator = generator_for(settings.seed, EVALUATION, state.step)
    contexts = problem.evaluation_contexts
    each = max(2, settings.evaluation_size // len(contexts))
    fresh = state.average.sample(contexts, each, generator=generator)
    scores = target.features(fresh)
    evidence = _evaluation_evidence(problem, state, fresh, target.log_potential(fresh, scores))
    rows = (forward_kl, jensen_shannon, total_variation)
    estimates = {row.name: estimators.divergence(evidence, row) for row in rows}
    estimates["kl_policy_base"] = estimators.kl_policy_base(evidence)
    estimates["log_z"] = estimators.log_partition(evidence)
    everywhere = torch.ones(len(fresh), dtype=torch.bool)
    estimates |= estimators.applicable_means(scores, everywhere, fresh.context_index)
    if settings.gradient_variance:
        estimates["gradient_variance"] = gradient_variance(problem, state)
    return Evaluation(state.step, estimates)


def _evaluation_evidence(
    problem: Problem, state: TuningState, fresh: Samples, potential: Tensor
) -> Evidence:
    """Bank and fresh samples together, the bank's potential taken from the problem."""
    with torch.no_grad():
        log_base = torch.cat([problem.bank.log_prob, problem.target.base.log_prob(fresh)])
        log_policy = torch.cat([state.average.log_prob(problem.bank), fresh.log_prob])
    sizes = (len(problem.bank), len(fresh))
    return Evidence.of_mixture(
        log_base,
        log_policy,
        torch.cat([problem.bank_potential, potential]),
        torch.tensor([BASE, POLICY]).repeat_interleave(torch.tensor(sizes)),
        torch.cat([problem.bank.context_index, fresh.context_index]),
    )
