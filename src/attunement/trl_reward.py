"""A target as a reward function in TRL's form, for whoever trains with TRL.

KL-regularised RL maximises E_π[r] - β KL(π‖a), whose optimum is a·exp(r/β)/Z. With the
log-potential as r and β = 1 that is the target (arXiv 2205.11275). TRL's `RLOOTrainer` does so with
`beta=1, temperature=1, top_p=1, normalize_advantages=False`, the base being its reference model.

TRL draws completions in its own way and hands over their token ids. They are cut here where the
target's outcomes end: at the first stop, or at `max_new_tokens`. What TRL draws beyond has no say
in the reward, so at the optimum what comes before is distributed as the target and the rest as the
base goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from attunement.core import AttunementError, Context, Distribution, Message, Samples, Target
from attunement.distributions.causal import Causal
from attunement.distributions.prompts import tokenize_contexts
from attunement.factors import shown

_TRAINERS_OWN = frozenset({"trainer_state", "log_extra", "log_metric"})
"""What TRL passes to a reward function beside the columns of the data set."""


@dataclass(frozen=True)
class TargetReward:
    """The log-potential of a target, in nats, as a reward function in TRL's form.

    Attributes:
        target: The target, finite everywhere: at β = 1 the optimum of the training.
        base: Its base, whose outcomes and tokenizer the completions are read by.
    """

    target: Target
    base: Causal

    def __call__(
        self,
        prompts: Sequence[str | Sequence[Message]],
        completions: Sequence[object],  # noqa: ARG002
        completion_ids: Sequence[Sequence[int]],
        **columns: object,
    ) -> list[float]:
        """The reward of each of N completions.

        Args:
            prompts: N texts or conversations.
            completions: Not read: decoding and tokenising again may change the tokens.
            completion_ids: N rows of token ids, the end token included.
            columns: Of the data set, N values each, and what the trainer adds.

        Raises:
            AttunementError: A completion ends where it can't in the target's outcomes, or TRL
                reads a prompt as other tokens than the base does.
        """
        names = columns.keys() - _TRAINERS_OWN
        rows = {name: columns[name] for name in sorted(names)}
        samples = rebuild(self.base, prompts, completion_ids, rows)
        return self.target.log_potential(samples).tolist()


def rebuild(
    base: Causal,
    prompts: Sequence[str | Sequence[Message]],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, object],
) -> Samples:
    """Completions that a trainer drew, as samples of the base's outcomes.

    Args:
        base: The base.
        prompts: N texts or conversations.
        completion_ids: N rows of token ids.
        columns: N values of each column of the data set.

    Returns:
        N samples; which log-probability they were drawn with isn't known, and NaN.

    Raises:
        AttunementError: See `TargetReward`.
    """
    contexts, index = _contexts(prompts, columns)
    context_tokens = tokenize_contexts(base.tokenizer, contexts, base.outcomes.start)
    for context, tokens in zip(contexts, context_tokens, strict=True):
        _require_same_tokens(base, context, tokens)
    ends = [_end(base, row, ids) for row, ids in enumerate(completion_ids)]
    width = max((length for length, _ in ends), default=0)
    tokens = torch.zeros(len(ends), width, dtype=torch.long)
    for row, ((length, _), ids) in enumerate(zip(ends, completion_ids, strict=True)):
        tokens[row, :length] = torch.tensor(list(ids[:length]))
    lengths = torch.tensor([length for length, _ in ends])
    return Samples(
        tokens=tokens,
        mask=torch.arange(width) < lengths[:, None],
        context_index=index,
        contexts=contexts,
        context_tokens=context_tokens,
        log_prob=torch.full((len(ends),), math.nan, dtype=torch.float64),
        finished=torch.tensor([finished for _, finished in ends]),
        outcomes=base.outcomes,
        decoder=base.decoder,
    )


def rewardable(base: Distribution) -> Causal:
    """The base, if a trainer of TRL can train it and draws from its outcomes.

    Raises:
        AttunementError: It is no causal model, or some tokens are forbidden.
    """
    if not isinstance(base, Causal):
        raise AttunementError("TRL's RLOOTrainer trains causal language models: this base is none")
    if base.outcomes.forbidden:
        raise AttunementError(
            f"the base never draws its {len(base.outcomes.forbidden)} forbidden tokens and a "
            "trainer of TRL draws them all the same: load the base without forbidden tokens"
        )
    return base


def _contexts(
    prompts: Sequence[str | Sequence[Message]], columns: Mapping[str, object]
) -> tuple[tuple[Context, ...], torch.Tensor]:
    """The contexts, those of a prompt's completions once, and [N] which each belongs to."""
    found: list[Context] = []
    index = []
    for row, prompt in enumerate(prompts):
        own = {name: values[row] for name, values in columns.items()}  # pyright: ignore[reportIndexIssue]
        context = Context(prompt if isinstance(prompt, str) else tuple(prompt), own)
        if not found or found[-1] != context:
            found.append(context)
        index.append(len(found) - 1)
    return tuple(found), torch.tensor(index, dtype=torch.long)


def _require_same_tokens(base: Causal, context: Context, tokens: tuple[int, ...]) -> None:
    """A text must be the same tokens to TRL, which adds what the tokenizer adds by itself."""
    if not isinstance(context.prompt, str):
        return
    theirs = tuple(base.tokenizer(context.prompt)["input_ids"])  # pyright: ignore[reportArgumentType]
    if theirs != tokens:
        start = base.tokenizer.decode(list(tokens[:1]))
        raise AttunementError(
            f"TRL reads the prompt {shown(context)} as {len(theirs)} tokens and the base as "
            f"{len(tokens)}, the start token included: begin the prompt with {start!r}"
        )


def _end(base: Causal, row: int, ids: Sequence[int]) -> tuple[int, bool]:
    """How many tokens of a completion the outcomes hold, and whether it ended by itself."""
    outcomes = base.outcomes
    stop, limit = outcomes.stop, outcomes.max_new_tokens
    seen = list(ids[:limit])
    texts = base.decoder([seen[: at + 1] for at in range(len(seen))]) if stop.reads_text else []
    for at, token in enumerate(seen):
        if token in stop.tokens or (texts and stop.find(texts[at]) is not None):
            return at + 1, True
    if len(seen) < limit:
        raise AttunementError(
            f"completion {row} has {len(seen)} tokens and is neither ended nor cut at the target's "
            f"max_new_tokens = {limit}: set max_completion_length to {limit} or more"
        )
    return limit, False
