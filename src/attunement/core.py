"""The words of the project, as types.

A language is a *distribution* over token sequences; a *sample* is a completion drawn from one,
with the log-probability that it was drawn with; a *scorer* computes one number a sample (a
feature); a *target* is an energy-based model

    log P(x|c) = log a(x|c) + log-potential(x, c),

a base `a` times factors; an *estimate* is a number with its standard error, interval and the
evidence behind it. Everything else in the project takes and returns these.

The sample space is part of every distribution (`Outcomes`): where a sequence starts, what ends it
and after how many tokens it is cut. Two distributions can only be compared on the same outcomes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Decoder: TypeAlias = Callable[[Sequence[Sequence[int]]], list[str]]
"""Token ids to texts, special tokens left out: `decoder([[1, 2], [3]]) == ["ab", "c"]`."""

StopFunction: TypeAlias = Callable[[str], int | None]
"""Where in a decoded completion it ends (a character offset), or None while it goes on."""

Message: TypeAlias = Mapping[str, str]
"""One turn of a conversation: `{"role": ..., "content": ...}`."""


class AttunementError(ValueError):
    """Something that the user gave can't be used; the message names the thing and the mend."""


class MissingExtraError(AttunementError):
    """A feature needs a package that isn't installed; the message names the extra."""

    def __init__(self, feature: str, extra: str):
        """Say that `feature` needs `pip install 'attunement[extra]'`."""
        super().__init__(f"{feature} needs an extra: pip install 'attunement[{extra}]'")


@dataclass(frozen=True)
class Stop:
    """What ends a completion.

    A completion ends at the first token at which it is the end token, or at which the decoded
    text meets a stop. That token counts in the probability; the stop text is cut from `texts`.

    Attributes:
        token: The end token's id, or None where there is none.
        further_tokens: Other ids that end a completion; many chat models have several.
        strings: Texts that end a completion where they begin.
        function: A function from the decoded completion to the offset at which it ends, or None.
    """

    token: int | None = None
    strings: tuple[str, ...] = ()
    function: StopFunction | None = None
    further_tokens: frozenset[int] = frozenset()

    @property
    def tokens(self) -> frozenset[int]:
        """Every id that ends a completion."""
        return self.further_tokens | (frozenset() if self.token is None else {self.token})

    @property
    def reads_text(self) -> bool:
        """Whether a sampler has to decode the text to know where to stop."""
        return bool(self.strings) or self.function is not None

    def find(self, text: str) -> int | None:
        """The offset at which `text` ends, or None if no stop occurs in it."""
        found = [at for string in self.strings if (at := text.find(string)) >= 0]
        if self.function is not None and (at := self.function(text)) is not None:
            found.append(at)
        return min(found, default=None)


@dataclass(frozen=True)
class Outcomes:
    """The sample space of a distribution: equal for base, policy, proposal and target.

    Attributes:
        start: Id of the token that stands before everything, or None where the context is enough.
        stop: What ends a completion.
        max_new_tokens: The length at which a completion is cut; such a completion is an outcome
            like any other, whose probability is the product of its tokens.
        forbidden: Ids that are never drawn; the rest is renormalised.
    """

    start: int | None
    stop: Stop
    max_new_tokens: int
    forbidden: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise AttunementError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")

    def to_json(self) -> dict[str, object]:
        """A description for recipes; a stop function appears by its name."""
        function = self.stop.function
        return {
            "start": self.start,
            "stop_token": self.stop.token,
            "further_stop_tokens": sorted(self.stop.further_tokens),
            "stop_strings": list(self.stop.strings),
            "stop_function": None if function is None else getattr(function, "__name__", "custom"),
            "max_new_tokens": self.max_new_tokens,
            "forbidden": sorted(self.forbidden),
        }


def require_proposal(target: Target, proposal: Distribution) -> None:
    """Raise an error unless samples of a proposal can be weighed by P/q.

    Raises:
        AttunementError: The outcomes differ from those of the target's base, or the proposal cuts
            something off.
    """
    require_same_outcomes(target.base, proposal)
    if not proposal.full_support:
        raise AttunementError(
            "the proposal can't draw everything that the target holds (top-k or top-p cut it off), "
            "so its samples can't be weighed: use a temperature instead"
        )


def require_same_outcomes(first: Distribution, second: Distribution) -> None:
    """Raise an error that shows the difference unless both have the same outcomes.

    Raises:
        AttunementError: The two sample spaces differ.
    """
    if first.outcomes == second.outcomes:
        return
    pairs = zip(first.outcomes.to_json().items(), second.outcomes.to_json().items(), strict=True)
    differences = [f"{key} {a!r} against {b!r}" for (key, a), (_, b) in pairs if a != b]
    raise AttunementError(
        "the distributions have different outcomes and can't be compared: "
        + ("; ".join(differences) or "their stop functions differ")
    )


@dataclass(frozen=True)
class Context:
    """What a completion is conditioned on.

    Attributes:
        prompt: A text, or a conversation (a tuple of messages) for a tokenizer's chat template.
        columns: Further fields of the data set's row, which scorers may read.
    """

    prompt: str | tuple[Message, ...] = ""
    columns: Mapping[str, object] = field(default_factory=dict)


UNCONDITIONAL: tuple[Context, ...] = (Context(),)
"""The single empty context of an unconditional model."""


def as_contexts(contexts: Sequence[Context | str] | None) -> tuple[Context, ...]:
    """Contexts from contexts or plain prompts; None is the empty context.

    Raises:
        AttunementError: There is none, or a bare string was given where a list is meant.
    """
    if contexts is None:
        return UNCONDITIONAL
    if isinstance(contexts, str):
        raise AttunementError("contexts must be a list of prompts, not one string")
    if len(contexts) == 0:
        raise AttunementError("there is no context: give at least one prompt, or [''] for none")
    return tuple(c if isinstance(c, Context) else Context(c) for c in contexts)


@dataclass(frozen=True)
class Samples:
    """Completions with the log-probabilities that they were drawn with.

    Attributes:
        tokens: [N, T] int64, completion tokens, padded at the right.
        mask: [N, T] bool, true on completion tokens, the end token included.
        context_index: [N] int64, the row of `contexts` that each sample belongs to.
        contexts: The C contexts.
        context_tokens: The token ids that the completions of each context go on from, C rows; the
            start token is part of them.
        log_prob: [N] float64, in nats, under the distribution that drew them.
        finished: [N] bool, false where the completion was cut at `max_new_tokens`.
        outcomes: The sample space that they were drawn from.
        decoder: Token ids to text, or None where the tokens stand for no text.
        source_tokens: The token ids that an encoder reads of each context, C rows; none where the
            model has no encoder and the completion goes on from the context itself.
    """

    tokens: Tensor
    mask: Tensor
    context_index: Tensor
    contexts: tuple[Context, ...]
    context_tokens: tuple[tuple[int, ...], ...]
    log_prob: Tensor
    finished: Tensor
    outcomes: Outcomes
    decoder: Decoder | None = field(default=None, repr=False, compare=False)
    source_tokens: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Samples:
        """The samples at a slice, a list of positions, or an index or boolean tensor."""
        rows = torch.arange(len(self))[index]
        names = ("tokens", "mask", "context_index", "log_prob", "finished")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @cached_property
    def lengths(self) -> Tensor:
        """[N] int64: completion tokens, the end token included."""
        return self.mask.sum(1)

    @cached_property
    def token_lists(self) -> list[list[int]]:
        """The N completions as lists of ids, without padding."""
        return [
            row[:length]
            for row, length in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        ]

    @cached_property
    def texts(self) -> list[str]:
        """The N completions decoded, what follows a stop cut off.

        Raises:
            AttunementError: The samples have no decoder.
        """
        stop = self.outcomes.stop
        texts = self._decode(self.token_lists)
        if not stop.reads_text:
            return texts
        return [text[: stop.find(text)] for text in texts]

    @cached_property
    def full_texts(self) -> list[str]:
        """Context and completion decoded at once (a token may straddle), cut like `texts`.

        What an encoder read isn't part of it: a translation is a text of its own.
        """
        heads = [self.context_tokens[index] for index in self.context_index.tolist()]
        whole = self._decode([[*h, *t] for h, t in zip(heads, self.token_lists, strict=True)])
        if not self.outcomes.stop.reads_text:
            return whole
        uncut = self._decode(self.token_lists)
        surplus = [len(u) - len(t) for u, t in zip(uncut, self.texts, strict=True)]
        return [text[: len(text) - extra] for text, extra in zip(whole, surplus, strict=True)]

    @property
    def sample_contexts(self) -> list[Context]:
        """The context of each of the N samples."""
        return [self.contexts[index] for index in self.context_index.tolist()]

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        if self.decoder is None:
            raise AttunementError("these samples have no decoder: load them with decoder=...")
        return self.decoder(rows)

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """One `Samples` of all parts, in order; equal context tables are kept once.

        Raises:
            AttunementError: Nothing to concatenate, the outcomes differ, or only some of the
                samples have an encoder's tokens.
        """
        if not parts:
            raise AttunementError("there are no samples to concatenate")
        first = parts[0]
        if any(part.outcomes != first.outcomes for part in parts):
            raise AttunementError("samples of different outcomes can't be concatenated")
        if any(bool(part.source_tokens) != bool(first.source_tokens) for part in parts):
            raise AttunementError(
                "samples of a model with an encoder and of one without can't be concatenated"
            )
        contexts, context_tokens, index = first.contexts, first.context_tokens, []
        source_tokens = first.source_tokens
        for part in parts:
            known = (
                part.contexts == first.contexts
                and part.context_tokens == first.context_tokens
                and part.source_tokens == first.source_tokens
            )
            index.append(part.context_index + (0 if known else len(contexts)))
            if not known:
                contexts += part.contexts
                context_tokens += part.context_tokens
                source_tokens += part.source_tokens
        width = max(part.tokens.shape[1] for part in parts)

        def padded(tensor: Tensor) -> Tensor:
            return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))

        return replace(
            first,
            tokens=torch.cat([padded(part.tokens) for part in parts]),
            mask=torch.cat([padded(part.mask) for part in parts]),
            context_index=torch.cat(index),
            contexts=contexts,
            context_tokens=context_tokens,
            source_tokens=source_tokens,
            log_prob=torch.cat([part.log_prob for part in parts]),
            finished=torch.cat([part.finished for part in parts]),
        )

    def save(self, path: Path | str) -> None:
        """Write a safetensors file; contexts travel as JSON in its header, the decoder does not."""
        contexts = [{"prompt": c.prompt, "columns": dict(c.columns)} for c in self.contexts]
        header = {
            "contexts": contexts,
            "context_tokens": self.context_tokens,
            "source_tokens": self.source_tokens,
        }
        names = ("tokens", "mask", "context_index", "log_prob", "finished")
        tensors = {name: getattr(self, name).contiguous() for name in names}
        save_file(tensors, str(path), metadata={"samples": json.dumps(header)})

    @classmethod
    def load(cls, path: Path | str, outcomes: Outcomes, decoder: Decoder | None = None) -> Self:
        """Read what `save` wrote.

        Raises:
            AttunementError: The file isn't a file of samples.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["samples"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
            raise AttunementError(f"{path} is not a readable file of samples: {error}") from error
        return cls(
            **tensors,
            contexts=tuple(
                Context(_frozen_prompt(row["prompt"]), row["columns"]) for row in header["contexts"]
            ),
            context_tokens=tuple(tuple(row) for row in header["context_tokens"]),
            source_tokens=tuple(tuple(row) for row in header["source_tokens"]),
            outcomes=outcomes,
            decoder=decoder,
        )


def _frozen_prompt(prompt: str | list[Message]) -> str | tuple[Message, ...]:
    return prompt if isinstance(prompt, str) else tuple(prompt)


@dataclass(frozen=True)
class Estimate:
    """A number with its error bar and the evidence behind it.

    Attributes:
        value: The estimate; infinite where the quantity is, NaN where it could not be estimated.
        stderr: Standard error, or None where it has no meaning.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        n: Samples (or contexts, or seeds) that it rests on.
        ess: Effective sample size of the importance weights; n where there are none.
        khat: Pareto shape of the weights' tail; above 0.7 the interval isn't to be trusted. None
            where there are no weights or they are bounded.
        warnings: What a reader should know before trusting it.
    """

    value: float
    stderr: float | None
    low: float
    high: float
    n: int
    ess: float
    khat: float | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, float | int | str | None]:
        """The seven documented keys as strict JSON: infinite is "inf", absent is None."""
        return {
            item.name: _strict(getattr(self, item.name))
            for item in fields(self)
            if item.name != "warnings"
        }

    @classmethod
    def from_json(cls, row: Mapping[str, float | int | str | None]) -> Estimate:
        """Read what `to_json` wrote; absent numbers are NaN again."""

        def number(key: str) -> float:
            entry = row[key]
            return math.nan if entry is None else float(entry)

        return cls(
            value=number("value"),
            stderr=None if row["stderr"] is None else number("stderr"),
            low=number("low"),
            high=number("high"),
            n=int(number("n")),
            ess=number("ess"),
            khat=None if row["khat"] is None else number("khat"),
        )

    def __str__(self) -> str:
        return f"{self.value:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"


def _strict(number: float | int | None) -> float | int | str | None:
    if number is None or math.isnan(number):
        return None
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return number


class Scores(NamedTuple):
    """What a scorer says of N samples.

    Attributes:
        values: [N] float64; 0 where not applicable.
        applicable: [N] bool, false where the scorer has nothing to say of the sample.
    """

    values: Tensor
    applicable: Tensor


@runtime_checkable
class Distribution(Protocol):
    """Anything that can be sampled from and knows the log-probability of a sample."""

    @property
    def outcomes(self) -> Outcomes:
        """The sample space."""
        ...

    @property
    def full_support(self) -> bool:
        """Whether nothing that the sample space holds is cut off, as by top-p.

        Importance weights need it: what a proposal can't draw is missing from every estimate, and
        no diagnostic shows it.
        """
        ...

    def sample(
        self, contexts: Sequence[Context | str] | None, n: int, *, generator: torch.Generator
    ) -> Samples:
        """Draw n completions for each context, those of one context next to each other."""
        ...

    def log_prob(self, samples: Samples) -> Tensor:
        """[N] float64: log-probability in nats of each completion; differentiable in a policy."""
        ...


@runtime_checkable
class Trainable(Distribution, Protocol):
    """A distribution with parameters: what can be a policy."""

    @property
    def module(self) -> torch.nn.Module:
        """The network; those of its parameters that require a gradient are trained."""
        ...

    def copy(self) -> Self:
        """An independent copy, parameters included."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the distribution so that it can be loaded again."""
        ...


@runtime_checkable
class TokenWise(Trainable, Protocol):
    """A policy that also says its log-probabilities token by token."""

    def token_log_probs(self, samples: Samples) -> Tensor:
        """[N, T]: log-probability of each token, 0 where the mask is false; differentiable."""
        ...

    def next_token_log_probs(self, samples: Samples) -> Tensor:
        """[N, T, V]: log-probability of every token at each place of the mask; differentiable.

        Minus infinity for a forbidden token; what stands outside the mask has no meaning.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Computes a feature: one number a sample."""

    @property
    def name(self) -> str:
        """How the feature is called in tables and recipes, e.g. `uses_name:self`."""
        ...

    def __call__(self, samples: Samples) -> Tensor | Scores:
        """[N] numbers, or `Scores` where some samples are out of the scorer's scope."""
        ...


@runtime_checkable
class Target(Protocol):
    """An energy-based model: base times exp(log-potential)."""

    @property
    def base(self) -> Distribution:
        """The pretrained model a(x|c)."""
        ...

    def log_potential(self, samples: Samples) -> Tensor:
        """[N] float64: log P(x|c) - log a(x|c); minus infinity where the target forbids x."""
        ...
