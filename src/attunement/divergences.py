"""One table of f-divergences between a policy π and a target p (arXiv 2302.08215).

With the ratio t = π/p and a convex generator f, f(1) = 0,

    D_f(π‖p) = Σ_{p>0} p f(π/p) + f'(∞) π{p = 0},
    ∇_θ D_f(π_θ‖p) = E_{x~π}[ f'(t) ∇log π(x) ]          (f' taken as f'(∞) where p = 0).

A row of the table is the generator, its derivative and its slope at infinity, f'(∞), which is the
price of putting mass where the target has none. Everything is computed from u = log t: t itself
over- and underflows for sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from attunement.core import AttunementError

_LOG2 = math.log(2.0)


@dataclass(frozen=True)
class Divergence:
    """One row: every function takes u = log(π/p), elementwise.

    Attributes:
        name: As on the command line.
        generator: f(t), accurate for u <= 0.
        perspective: f(t)/t, accurate for u >= 0.
        derivative: f'(t).
        slope_at_infinity: f'(∞), the derivative where p = 0.
        derivative_at_one: f'(1).
    """

    name: str
    generator: Callable[[Tensor], Tensor]
    perspective: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    slope_at_infinity: float
    derivative_at_one: float

    @property
    def allows_forbidden(self) -> bool:
        """Whether the divergence is finite for a policy with mass where the target has none."""
        return math.isfinite(self.slope_at_infinity)

    def integrand(self, log_policy: Tensor, log_target: Tensor) -> Tensor:
        """p f(π/p), elementwise, and f'(∞) π where p = 0.

        Both arguments may be densities with respect to any common measure, e.g. log π - log q.

        Args:
            log_policy: [...] log π.
            log_target: [...] log p of the normalised target; minus infinity where it forbids.

        Returns:
            [...] the summands of D_f; differentiable in both.
        """
        forbidden = torch.isneginf(log_target)
        log_ratio = torch.where(forbidden, 0.0, log_policy - log_target)
        below = log_target.exp() * self.generator(log_ratio.clamp(max=0.0))
        above = log_policy.exp() * self.perspective(log_ratio.clamp(min=0.0))
        allowed = torch.where(log_ratio <= 0, below, above)
        mass = log_policy.exp()
        if self.allows_forbidden:
            outside = self.slope_at_infinity * mass
        else:
            outside = torch.where(mass > 0, math.inf, 0.0).to(mass.dtype)
        return torch.where(forbidden, outside, allowed)

    def slope(self, log_policy: Tensor, log_target: Tensor) -> Tensor:
        """f'(π/p), elementwise, and f'(∞) where p = 0; the pseudo-reward is its negative."""
        forbidden = torch.isneginf(log_target)
        log_ratio = torch.where(forbidden, 0.0, log_policy - log_target)
        outside = torch.full_like(log_ratio, self.slope_at_infinity)
        return torch.where(forbidden, outside, self.derivative(log_ratio))

    def least(self, allowed: float) -> float:
        """The least that D_f(π‖p) can be for a policy with so little mass where p > 0.

        To forget everything of a sample but whether p allows it can only lower a divergence (data
        processing), and leaves f(u) + f'(∞)(1 - u), which falls in u.

        Args:
            allowed: u, the policy's mass on what the target allows, or an upper bound of it.
        """
        inside = float(self.generator(torch.tensor(allowed, dtype=torch.float64).log()))
        return inside if allowed >= 1 else inside + self.slope_at_infinity * (1 - allowed)

    @property
    def most(self) -> float:
        """The most that D_f(π‖p) can be, f(0) + f'(∞): π and p have nothing in common."""
        return self.least(0.0)

    def exact(self, log_policy: Tensor, log_target: Tensor) -> Tensor:
        """D_f(π‖p) on a finite support.

        Args:
            log_policy: [K] log-probabilities of the policy.
            log_target: [K] log-probabilities of the normalised target.

        Returns:
            A scalar in nats (or the row's own unit), differentiable.
        """
        return self.integrand(log_policy, log_target).sum()


def _reverse_generator(u: Tensor) -> Tensor:
    t = u.exp()
    return torch.where(t > 0, t * u.clamp(min=-1e3), 0.0)


forward_kl = Divergence(
    name="forward_kl",
    generator=lambda u: -u,
    perspective=lambda u: -u * (-u).exp(),
    derivative=lambda u: -(-u).exp(),
    slope_at_infinity=0.0,
    derivative_at_one=-1.0,
)
"""KL(p‖π): covers the target; the gradient of distributional policy gradients (GDC, DPG)."""

reverse_kl = Divergence(
    name="reverse_kl",
    generator=_reverse_generator,
    perspective=lambda u: u,
    derivative=lambda u: u + 1.0,
    slope_at_infinity=math.inf,
    derivative_at_one=1.0,
)
"""KL(π‖p): what KL-regularised RL minimises (arXiv 2205.11275)."""

total_variation = Divergence(
    name="total_variation",
    generator=lambda u: 0.5 * torch.expm1(u).abs(),
    perspective=lambda u: 0.5 * torch.expm1(-u).abs(),
    derivative=lambda u: 0.5 * torch.sign(u),
    slope_at_infinity=0.5,
    derivative_at_one=0.0,
)
"""½ Σ |π - p|."""

jensen_shannon = Divergence(
    name="jensen_shannon",
    generator=lambda u: (
        0.5 * (torch.where(u > -1e3, u, 0.0) * u.exp() - (1 + u.exp()) * (softplus(u) - _LOG2))
    ),
    perspective=lambda u: 0.5 * (u - (1 + (-u).exp()) * (softplus(u) - _LOG2)),
    derivative=lambda u: 0.5 * (_LOG2 - softplus(-u)),
    slope_at_infinity=0.5 * _LOG2,
    derivative_at_one=0.0,
)
"""½ KL(π‖m) + ½ KL(p‖m), m = (π + p)/2; at most log 2."""

pearson_chi2 = Divergence(
    name="pearson_chi2",
    generator=lambda u: torch.expm1(u) ** 2,
    perspective=lambda u: torch.expm1(u) * -torch.expm1(-u),
    derivative=lambda u: 2 * torch.expm1(u),
    slope_at_infinity=math.inf,
    derivative_at_one=0.0,
)
"""χ²(π‖p)."""

neyman_chi2 = Divergence(
    name="neyman_chi2",
    generator=lambda u: torch.expm1(u) * -torch.expm1(-u),
    perspective=lambda u: torch.expm1(-u) ** 2,
    derivative=lambda u: -torch.expm1(-2 * u),
    slope_at_infinity=1.0,
    derivative_at_one=0.0,
)
"""χ²(p‖π)."""

squared_hellinger = Divergence(
    name="squared_hellinger",
    generator=lambda u: torch.expm1(0.5 * u) ** 2,
    perspective=lambda u: torch.expm1(-0.5 * u) ** 2,
    derivative=lambda u: -torch.expm1(-0.5 * u),
    slope_at_infinity=1.0,
    derivative_at_one=0.0,
)
"""Σ (√π - √p)²."""


def alpha(order: float) -> Divergence:
    """The α-divergence, between KL(p‖π) (order → 0) and KL(π‖p) (order → 1).

    f(t) = (t^α - αt - (1-α)) / (α(α-1)).

    Args:
        order: α, any finite number but 0 and 1.

    Raises:
        AttunementError: The order is 0, 1 or not finite.
    """
    if not math.isfinite(order) or order in (0.0, 1.0):
        raise AttunementError(
            f"alpha:{order:g} is not a row: 0 is forward_kl, 1 is reverse_kl, others are finite"
        )
    scale = order * (order - 1)

    def generator(u: Tensor) -> Tensor:
        return (torch.expm1(order * u) - order * torch.expm1(u)) / scale

    def perspective(u: Tensor) -> Tensor:
        power = torch.expm1((order - 1) * u)
        return (power + (1 - order) * -torch.expm1(-u)) / scale

    return Divergence(
        name=f"alpha:{order:g}",
        generator=generator,
        perspective=perspective,
        derivative=lambda u: torch.expm1((order - 1) * u) / (order - 1),
        slope_at_infinity=1 / (1 - order) if order < 1 else math.inf,
        derivative_at_one=0.0,
    )


DIVERGENCES: dict[str, Divergence] = {
    row.name: row
    for row in (
        forward_kl,
        reverse_kl,
        total_variation,
        jensen_shannon,
        pearson_chi2,
        neyman_chi2,
        squared_hellinger,
    )
}
"""The rows without a parameter, by name."""


def parse_divergence(name: str) -> Divergence:
    """A row of the table by name, or `alpha:ORDER`.

    Raises:
        AttunementError: No such row; the message lists them.
    """
    if name in DIVERGENCES:
        return DIVERGENCES[name]
    head, _, order = name.partition(":")
    if head == "alpha":
        try:
            return alpha(float(order))
        except ValueError as error:
            if isinstance(error, AttunementError):
                raise
            raise AttunementError(f"{name!r} needs a number, e.g. alpha:0.5") from error
    known = ", ".join([*DIVERGENCES, "alpha:ORDER"])
    raise AttunementError(f"there is no divergence {name!r}; there are {known}")
