"""What every objective refuses: an infinite price, and a signal that isn't finite."""

from __future__ import annotations

import torch
from torch import Tensor

from attunement.core import AttunementError
from attunement.divergences import Divergence


def require_allowed(divergence: Divergence, forbidden: Tensor) -> None:
    """Raise if samples are forbidden to which the divergence gives an infinite price.

    Args:
        divergence: The row.
        forbidden: [N] bool, the samples that count and that the target forbids.

    Raises:
        AttunementError: There are; the message offers a floor.
    """
    if not divergence.allows_forbidden and bool(forbidden.any()):
        raise AttunementError(
            f"{divergence.name} is infinite where the target forbids a sample: give the constraint "
            "a floor (--floor 0.01) or choose a divergence such as jensen_shannon"
        )


def require_finite_signal(
    signal: Tensor, log_policy: Tensor, log_target: Tensor, target: str
) -> None:
    """Raise unless every sample's signal is finite.

    Args:
        signal: [N].
        log_policy: [N] log π.
        log_target: [N] what the signal holds it against.
        target: How that is written: `p`, or `P` where it isn't normalised.

    Raises:
        AttunementError: One isn't; the message names the first such sample.
    """
    if not bool(torch.isfinite(signal).all()):
        at = int((~torch.isfinite(signal)).nonzero()[0])
        raise AttunementError(
            f"the training signal of sample {at} isn't finite: log π {float(log_policy[at]):.4g}, "
            f"log {target} {float(log_target[at]):.4g}; lower the learning rate"
        )
