"""Scoring: the log-probability of each token of given completions.

    log p(x_t | c, x_<t) = l_t[x_t] - log sum_v exp l_t[v]

Rows are sorted by length and scored a bounded number of tokens at a time, padded at the right,
where causal attention needs no mask; the head sees the completion's positions only. Where a model
has an encoder, it reads every different source of such a pass once. The [M, V] logits are kept
once, in the model's dtype, and the backward pass forms the gradient in their place, so that memory
for a large vocabulary is half of what a saved log-softmax takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from attunement.distributions.encoding import decoder_inputs, encoded_once
from attunement.distributions.forward import causal_inputs, logits_at, vocabulary_of
from attunement.sharding import is_sharded

_TOKENS_A_PASS = 8192
_LOGITS_A_PASS = 2**26
_LOGITS_A_CHUNK = 2**19


def score(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    reshape: Callable[[Tensor], Tensor],
    log_probs_of: Callable[[Tensor, Tensor], Tensor],
    sources: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities at all M tokens of N completions, in an order of the function's own.

    Args:
        model: A language model in eval mode.
        contexts: N rows of ids that the completions go on from, none empty.
        completions: N rows of ids.
        reshape: The logits that the tokens were drawn from, given the model's.
        log_probs_of: `chosen_log_prob` or `every_log_prob`.
        sources: N rows of ids for the encoder, none empty; None where the model has no encoder.

    Returns:
        rows [M] and columns [M], int64 on the CPU: which token of which completion; and the
        log-probabilities [M] or [M, V], float32 on the model's device, differentiable if grad is
        enabled.
    """
    rows, columns, parts = [], [], []
    # A sharded network's passes are made in step with other processes: one a micro-batch.
    together = is_sharded(model) and torch.is_grad_enabled()
    for batch in _batches(contexts, completions, sources, vocabulary_of(model), together):
        whole = [[*contexts[row], *completions[row]] for row in batch]
        width = max(map(len, whole)) - 1
        tokens = torch.tensor([ids[:-1] + ids[:1] * (width + 1 - len(ids)) for ids in whole])
        first = torch.tensor([len(contexts[row]) - 1 for row in batch])[:, None]
        counts = torch.tensor([len(completions[row]) for row in batch])[:, None]
        places = torch.arange(width)
        chosen = (places >= first) & (places < first + counts)
        drawn = torch.tensor([token for row in batch for token in completions[row]])
        device = model.device
        read = sources and [sources[row] for row in batch]
        logits = _logits(model, chosen.to(device), tokens.to(device), read)
        parts.append(log_probs_of(reshape(logits), drawn.to(device)))
        within = chosen.nonzero()
        rows.append(torch.tensor(batch)[within[:, 0]])
        columns.append(within[:, 1] - first[within[:, 0], 0])
    return torch.cat(rows), torch.cat(columns), torch.cat(parts)


def _logits(
    model: PreTrainedModel,
    chosen: Tensor,
    tokens: Tensor,
    sources: Sequence[Sequence[int]] | None,
) -> Tensor:
    """[M, V] logits at the chosen of [B, W] tokens, with B sources where there is an encoder."""
    if sources is None:
        return logits_at(model, chosen, causal_inputs(tokens))
    with encoded_once(model, sources) as inputs:
        return logits_at(model, chosen, inputs | decoder_inputs(tokens, tokens.shape[1]))


def _batches(
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int]] | None,
    vocabulary: int,
    together: bool,
) -> Iterator[list[int]]:
    """Row numbers, longest first, so many at a time as the bounds on memory allow, or all."""
    read = contexts if sources is None else sources
    lengths = [len(r) + len(x) for r, x in zip(read, completions, strict=True)]
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    if together:
        yield order
        return
    batch: list[int] = []
    logits = 0
    for row in order:
        logits += len(completions[row]) * vocabulary
        too_wide = batch and lengths[batch[0]] * (len(batch) + 1) > _TOKENS_A_PASS
        if too_wide or (batch and logits > _LOGITS_A_PASS):
            yield batch
            batch, logits = [], len(completions[row]) * vocabulary
        batch.append(row)
    if batch:
        yield batch


def chosen_log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-softmax of logits at one token a row, keeping nothing but the logits.

    Its backward pass overwrites the logits, so a graph can be walked once.

    Args:
        logits: [M, V], any float dtype; minus infinity where a token is impossible.
        tokens: [M] int64.

    Returns:
        [M] float32, minus infinity (and without gradient) where the token is impossible.
    """
    return _ChosenLogProb.apply(logits, tokens)


def every_log_prob(logits: Tensor, _: Tensor) -> Tensor:
    """Log-softmax of logits [M, V] at every token, [M, V] float32."""
    return logits.float().log_softmax(1)


class _ChosenLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        size = max(1, _LOGITS_A_CHUNK // logits.shape[1])
        normaliser = torch.cat([part.float().logsumexp(1) for part in logits.split(size)])
        log_prob = logits.gather(1, tokens[:, None])[:, 0].float() - normaliser
        ctx.save_for_backward(tokens, normaliser, log_prob)
        ctx.logits = logits.detach()
        return log_prob

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.logits is None:
            raise RuntimeError("this graph was walked already: compute log_prob again")
        tokens, normaliser, log_prob = ctx.saved_tensors
        logits, ctx.logits = ctx.logits, None
        weights = gradients[0].masked_fill(log_prob == -math.inf, 0)
        size = max(1, _LOGITS_A_CHUNK // logits.shape[1])
        pieces = (tensor.split(size) for tensor in (logits, tokens, normaliser, weights))
        for part, token, offset, weight in zip(*pieces, strict=True):
            softmax = part.float().sub_(offset[:, None]).exp_()
            softmax.scatter_add_(1, token[:, None], -torch.ones_like(weight)[:, None])
            part.copy_(softmax.mul_(-weight[:, None]))
        return logits, None
