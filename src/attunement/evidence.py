"""What a bank of samples says of base, policy and target, and how far it can be trusted.

Evidence is log-probabilities: of N samples under the proposal q that they were drawn from, the
base a and the policy π, and the target's log-potential. Importance weights are w = P/q for the
target and v = π/q for the policy.

From which samples? A distance estimated from policy samples alone is silently wrong exactly when
the policy has collapsed, for it never sees what it lost. So evidence should be half from the base
and half from the policy, weighed by the mixture m = ½a + ½π: then P/m ≤ 2P/a and π/m ≤ 2, and
since E_m[π/m] = 1 is known, π/m - 1 serves as a control variate (Owen & Zhou 2000). It enters as a
calibration (Deville & Särndal 1992): every sample counts a little more or less, so that the mean
of π/m is 1 exactly; whatever is computed from the calibrated bank is then controlled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from arviz_stats.base import array_stats  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor

from attunement import intervals
from attunement.core import AttunementError

KHAT_LIMIT = 0.7
"""Above it the interval isn't to be trusted (Vehtari et al. 2024, Pareto smoothed IS)."""
BASE, POLICY = 0, 1
"""The parts of a bank: samples drawn from the base and from the policy."""


def log_mixture(log_base: Tensor, log_policy: Tensor, share: float) -> Tensor:
    """log m of the mixture m = share·a + (1 - share)·π: [N] from [N], in nats."""
    log_shares = torch.tensor([share, 1 - share], dtype=torch.float64).log()
    return torch.logaddexp(log_base + log_shares[BASE], log_policy + log_shares[POLICY])


@dataclass(frozen=True)
class Evidence:
    """What a bank of N samples says of base, policy and target; all float64, in nats.

    Attributes:
        log_proposal: [N] log q, q the proposal of the whole bank (the mixture where it has parts).
        log_base: [N] log a.
        log_policy: [N] log π.
        log_potential: [N] log P - log a; minus infinity where the target forbids the sample.
        part: [N] int64, which part of the bank a sample was drawn in: `BASE`, `POLICY` or another
            number for any other proposal.
        context: [N] int64, all 0 for an unconditional model.
    """

    log_proposal: Tensor
    log_base: Tensor
    log_policy: Tensor
    log_potential: Tensor
    part: Tensor
    context: Tensor

    def __post_init__(self) -> None:
        for item in fields(self):
            tensor = getattr(self, item.name)
            if tensor.shape != self.log_proposal.shape or tensor.ndim != 1:
                raise AttunementError(f"evidence needs tensors of one shape [N]: {item.name} isn't")
            if tensor.isnan().any():
                where = int(tensor.isnan().nonzero()[0])
                raise AttunementError(f"{item.name} of sample {where} is NaN")
        if len(self) == 0:
            raise AttunementError("there is no sample to estimate from")

    @classmethod
    def of_mixture(
        cls,
        log_base: Tensor,
        log_policy: Tensor,
        log_potential: Tensor,
        part: Tensor,
        context: Tensor | None = None,
    ) -> Evidence:
        """Evidence of samples drawn partly from the base and partly from the policy.

        The proposal is the mixture in the proportions in which `part` says that samples were
        drawn; the proportions must be the same in every context.
        """
        share = float((part == BASE).double().mean())
        return cls(
            log_proposal=log_mixture(log_base, log_policy, share),
            log_base=log_base,
            log_policy=log_policy,
            log_potential=log_potential,
            part=part,
            context=torch.zeros_like(part) if context is None else context,
        )

    def __len__(self) -> int:
        return self.log_proposal.shape[0]

    def __getitem__(self, rows: Tensor) -> Evidence:
        """The evidence at an index or boolean tensor."""
        return replace(self, **{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    @cached_property
    def log_weights(self) -> Tensor:
        """[N] log w = log P/q."""
        return self.log_base + self.log_potential - self.log_proposal

    @cached_property
    def log_ratios(self) -> Tensor:
        """[N] log v = log π/q."""
        return self.log_policy - self.log_proposal

    @cached_property
    def parts(self) -> tuple[int, ...]:
        """The parts that occur."""
        return tuple(self.part.unique().tolist())

    @cached_property
    def is_mixture(self) -> bool:
        """Whether both base and policy were drawn from: then π/q and a/q are bounded."""
        return self.parts == (BASE, POLICY)

    @cached_property
    def target_weights(self) -> Weights:
        """w = P/q, with a bound of the order of one over the base's share of the bank."""
        bounded = BASE in self.parts and bool((self.log_potential <= 0).all())
        return Weights(self.log_weights, bounded)

    @cached_property
    def policy_weights(self) -> Weights:
        """v = π/q, with a bound of one over the policy's share of the bank."""
        return Weights(self.log_ratios, POLICY in self.parts)

    @cached_property
    def control(self) -> tuple[Tensor, Tensor] | None:
        """[N] π/q - 1 and its deviations within the parts.

        None where it isn't of use: it hardly varies, or some sample would count for nothing.
        """
        if not self.is_mixture or not self.single:
            return None
        control = self.log_ratios.exp() - 1
        deviation = intervals.centred(control, self.part)
        spread = deviation.square().mean()
        if float(spread) < 1e-12 or bool((control.mean() * deviation >= spread).any()):
            return None
        return control, deviation

    @cached_property
    def calibrated(self) -> Evidence:
        """The same bank with counts g_i in place of 1 so that the mean of g π/q is 1.

        A count divides q, for every statistic is a mean of something over q.
        """
        if self.control is None:
            return self
        control, deviation = self.control
        slope = control.mean() / deviation.square().mean()
        return replace(self, log_proposal=self.log_proposal - torch.log1p(-slope * deviation))

    @cached_property
    def single(self) -> bool:
        """Whether all samples belong to one context."""
        return bool((self.context == self.context[0]).all())

    @cached_property
    def blocks(self) -> tuple[tuple[Tensor, tuple[int, ...]], ...]:
        """Rows [C, M] of contexts with equal numbers of samples in each part, and those numbers."""
        context, part = (x.unique(return_inverse=True)[1] for x in (self.context, self.part))
        cells = context * len(self.parts) + part
        order = cells.argsort(stable=True)
        counts = cells.bincount(minlength=(int(context.max()) + 1) * len(self.parts))
        counts = counts.reshape(-1, len(self.parts))
        starts = counts.sum(1).cumsum(0) - counts.sum(1)
        blocks = []
        for row in counts.unique(dim=0):
            alike = (counts == row).all(1)
            positions = starts[alike].unsqueeze(1) + torch.arange(int(row.sum()))
            blocks.append((order[positions], tuple(row[row > 0].tolist())))
        return tuple(blocks)

    @cached_property
    def lost_mass(self) -> str | None:
        """What the function `lost_mass` says of this evidence."""
        return lost_mass(self)


@dataclass(frozen=True)
class Weights:
    """Importance weights and what they are worth.

    Attributes:
        log: [N] log-weights.
        bounded: Whether a bound on them is known; then there is no tail to look at.
    """

    log: Tensor
    bounded: bool

    @cached_property
    def ess(self) -> float:
        """Effective sample size."""
        return effective_sample_size(self.log)

    @cached_property
    def khat(self) -> tuple[float | None, str | None]:
        """k̂, or None and the reason why there is none."""
        return (None, None) if self.bounded else pareto_khat(self.log)


def effective_sample_size(log_weights: Tensor) -> float:
    """(Σw)²/Σw², from log-weights; 0 where all weights are zero."""
    if torch.isneginf(log_weights).all():
        return 0.0
    total = torch.logsumexp(log_weights, 0)
    return float((2 * total - torch.logsumexp(2 * log_weights, 0)).exp())


def pareto_khat(log_values: Tensor) -> tuple[float | None, str | None]:
    """The shape k̂ of the right tail of positive values (Vehtari et al. 2024).

    Args:
        log_values: [N] logs of the values; minus infinity (a zero) isn't part of the tail.

    Returns:
        k̂ and None, or None and the reason why there is none; None twice where the largest values
        are all the same, for then there is no tail.
    """
    positive = log_values[torch.isfinite(log_values)]
    if positive.numel() < 25:
        return None, f"k̂ needs 25 positive weights, there are {positive.numel()}"
    length = int(min(positive.numel() / 5, 3 * math.sqrt(positive.numel())))
    tail = positive.topk(length).values
    if float(tail[0] - tail[-1]) < 1e-9:
        return None, None
    with np.errstate(all="ignore"):
        _, khat = array_stats.psislw(-positive.numpy())
    return (float(khat), None) if np.isfinite(khat) else (None, None)


def lost_mass(evidence: Evidence) -> str | None:
    """A sentence if the bank shows that its proposal, or the policy, has lost part of the rest.

    With both parts, Z from the base's samples and Z from the policy's must agree. With one, the
    mean of the other's density ratio must be 1.
    """
    if evidence.is_mixture:
        return _halves_disagree(evidence)
    names = {"base": evidence.log_base, "policy": evidence.log_policy}
    for name, log_density in names.items():
        ratios = (log_density - evidence.log_proposal).exp()
        mean = mean_over_contexts(ratios, evidence.context)
        if abs(mean.value - 1) > 3 * mean.stderr and float(ratios.std()) > 1e-6:
            return f"the proposal has lost part of the {name}: its samples don't see all of it"
    return None


def _halves_disagree(evidence: Evidence) -> str | None:
    score = evidence.log_base + evidence.log_potential
    in_base, in_policy = evidence.part == BASE, evidence.part == POLICY
    of_base = (score - evidence.log_base)[in_base].exp()
    of_policy = (score - evidence.log_policy)[in_policy].exp()
    first = mean_over_contexts(of_base, evidence.context[in_base])
    second = mean_over_contexts(of_policy, evidence.context[in_policy])
    if first.low > second.high:
        return "the policy has lost part of the target: Z from its samples is too small"
    if second.low > first.high:
        return "the base's samples miss part of the target: Z from the policy's is larger"
    return None


def mean_over_contexts(values: Tensor, context: Tensor) -> intervals.Interval:
    """The mean of values, the unit being the context where there are several.

    Args:
        values: [N] float64.
        context: [N] int64.
    """
    return intervals.mean_interval(context_means(values, context))


def context_means(values: Tensor, context: Tensor) -> Tensor:
    """[C] the mean of each context's values; the [N] values themselves where there is one context.

    Args:
        values: [N] float64.
        context: [N] int64.
    """
    if bool((context == context[0]).all()):
        return values
    _, index, counts = context.unique(return_inverse=True, return_counts=True)
    return torch.zeros(len(counts), dtype=values.dtype).index_add(0, index, values) / counts
