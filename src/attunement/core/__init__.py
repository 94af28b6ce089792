"""The words of the project, as types.

A language is a *distribution* over token sequences; a *sample* is a completion drawn from one,
with the log-probability that it was drawn with; a *scorer* computes one number a sample (a
feature); a *target* is an energy-based model, a base times factors; an *estimate* is a number with
its standard error, interval and the evidence behind it. Everything else in the project takes and
returns these, and imports them from here. In reading order:

- `errors`: what is raised where something that was given can't be used;
- `outcomes`: the sample space, which is part of every distribution;
- `context`: what a completion is conditioned on;
- `samples`: completions with the log-probabilities that they were drawn with;
- `protocols`: what a distribution, a scorer and a target are;
- `estimate`: a number with its error bar.
"""

from attunement.core.context import UNCONDITIONAL, Context, Message, as_contexts
from attunement.core.errors import AttunementError, MissingExtraError
from attunement.core.estimate import Estimate
from attunement.core.outcomes import Outcomes, Stop, StopFunction
from attunement.core.protocols import (
    Distribution,
    Scorer,
    Scores,
    Target,
    TokenWise,
    Trainable,
    require_proposal,
    require_same_outcomes,
)
from attunement.core.samples import Decoder, Samples

__all__ = [
    "UNCONDITIONAL",
    "AttunementError",
    "Context",
    "Decoder",
    "Distribution",
    "Estimate",
    "Message",
    "MissingExtraError",
    "Outcomes",
    "Samples",
    "Scorer",
    "Scores",
    "Stop",
    "StopFunction",
    "Target",
    "TokenWise",
    "Trainable",
    "as_contexts",
    "require_proposal",
    "require_same_outcomes",
]
