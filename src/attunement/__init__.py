"""Say what you want from a language as a target, move it there, and know how far it still is.

The public names in reading order; each is loaded when it is first used, so that the command line
starts quickly and can set up threads before torch loads.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attunement.core import (
        AttunementError,
        Context,
        Distribution,
        Estimate,
        Outcomes,
        Samples,
        Scorer,
        Scores,
        Stop,
        Trainable,
    )
    from attunement.distributions.adapters import (
        AdapterSettings,
        load_adapter,
        merge_adapter,
        with_adapter,
    )
    from attunement.distributions.causal import Causal
    from attunement.distributions.models import load
    from attunement.distributions.seq2seq import Seq2Seq
    from attunement.distributions.tabular import Tabular
    from attunement.divergences import DIVERGENCES, Divergence, alpha, parse_divergence
    from attunement.evidence import Evidence
    from attunement.laws import (
        check_distribution,
        check_goodness_of_fit,
        check_scorer,
        check_target,
    )
    from attunement.measuring import Measurement, measure
    from attunement.objectives import Baseline
    from attunement.sampling import importance_resampling, quasi_rejection, rejection
    from attunement.scorers import as_scorer, parse_scorer
    from attunement.targets import Target
    from attunement.tuning import Proposal, Tuned, TuningSettings, init, step, tune

_ROOMS = {
    # The words.
    "AttunementError": "core",
    "Context": "core",
    "Samples": "core",
    "Outcomes": "core",
    "Stop": "core",
    "Estimate": "core",
    "Scores": "core",
    "Distribution": "core",
    "Trainable": "core",
    "Scorer": "core",
    # Models.
    "load": "distributions.models",
    "Causal": "distributions.causal",
    "Seq2Seq": "distributions.seq2seq",
    "Tabular": "distributions.tabular",
    "AdapterSettings": "distributions.adapters",
    "with_adapter": "distributions.adapters",
    "load_adapter": "distributions.adapters",
    "merge_adapter": "distributions.adapters",
    # What is wanted.
    "as_scorer": "scorers",
    "parse_scorer": "scorers",
    "Target": "targets",
    # Sampling from it as it is.
    "rejection": "sampling",
    "quasi_rejection": "sampling",
    "importance_resampling": "sampling",
    # Moving towards it.
    "Divergence": "divergences",
    "DIVERGENCES": "divergences",
    "alpha": "divergences",
    "parse_divergence": "divergences",
    "Baseline": "objectives",
    "Proposal": "tuning",
    "TuningSettings": "tuning",
    "Tuned": "tuning",
    "init": "tuning",
    "step": "tuning",
    "tune": "tuning",
    # How far it is.
    "Evidence": "evidence",
    "Measurement": "measuring",
    "measure": "measuring",
    # Laws for your own.
    "check_distribution": "laws",
    "check_goodness_of_fit": "laws",
    "check_scorer": "laws",
    "check_target": "laws",
}

__all__ = [*_ROOMS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'attunement' has no attribute {name!r}")
    return getattr(import_module(f"attunement.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
