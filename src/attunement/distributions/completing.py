"""Drawing and scoring completions: what causal models and those with an encoder have in common.

    log p(x | c) = sum_t log softmax(logits(c, x_<t))[x_t]

over the tokens of the completion, the end token included, with forbidden tokens left out of the
softmax. `Causal` and `Seq2Seq` tokenise contexts and read them in their own way; from there on
both do what stands here, so what is recorded while sampling is what scoring gives: the same
outcomes and the same softmax in float32, in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attunement import processes
from attunement.core import AttunementError, Samples
from attunement.distributions.attending import single_queries
from attunement.distributions.decoding import Completions, Reader, decode
from attunement.distributions.drawing import Reshape, Warp
from attunement.distributions.forward import evaluating, vocabulary_of
from attunement.distributions.language import LanguageModel
from attunement.distributions.prompts import Prompts, check_scored_lengths
from attunement.distributions.scoring import chosen_log_prob, every_log_prob, score
from attunement.sharding import whole


def draw_samples(
    model: LanguageModel,
    prompts: Prompts,
    n: int,
    reader_of: Callable[[Sequence[int]], Reader],
    generator: torch.Generator,
    warp: Warp | None,
) -> Samples:
    """Draw n completions for each context, those of one context next to each other.

    The uniforms [N, max_new_tokens] of all completions are drawn first; each completion is a
    function of its context and its own row of them, whatever the model's `batch_size` is.

    Args:
        model: The model.
        prompts: C contexts.
        n: Completions for each.
        reader_of: A reader of rows, given each row's number of context.
        generator: The source of randomness.
        warp: A reshaping of each token's distribution, or None.

    Raises:
        AttunementError: n is below 1, or the model's logits aren't finite.
    """
    if n < 1:
        raise AttunementError(f"n must be at least 1, not {n}")
    context_index = torch.arange(len(prompts.contexts)).repeat_interleave(n)
    order = prompts.lengths[context_index].argsort(stable=True)
    drawn = _decode(model, context_index, order, reader_of, generator, warp)
    if not drawn.log_prob.isfinite().all():
        row = int((~drawn.log_prob.isfinite()).nonzero()[0, 0])
        raise AttunementError(
            f"the model's logits aren't finite while sampling from context "
            f"{int(context_index[row])}: its parameters have diverged, or need float32"
        )
    width = int(drawn.lengths.max())
    return Samples(
        tokens=drawn.tokens[:, :width],
        mask=torch.arange(width) < drawn.lengths[:, None],
        context_index=context_index,
        contexts=prompts.contexts,
        context_tokens=prompts.heads,
        source_tokens=prompts.sources,
        log_prob=drawn.log_prob,
        finished=drawn.finished,
        outcomes=model.outcomes,
        decoder=model.decoder,
    )


def _decode(
    model: LanguageModel,
    context_index: Tensor,
    order: Tensor,
    reader_of: Callable[[Sequence[int]], Reader],
    generator: torch.Generator,
    warp: Warp | None,
) -> Completions:
    """All completions, `batch_size` at a time, in an order that puts like lengths together.

    Several processes share the rows out and have all of them in the end.
    """
    uniforms = torch.rand(
        (len(context_index), model.outcomes.max_new_tokens),
        generator=generator,
        dtype=torch.float64,
        device=generator.device,
    )
    own = order[processes.own_rows(len(order))]
    with whole(model.module), evaluating(model.module), single_queries(model.module):
        parts = [
            decode(
                reader_of(context_index[rows].tolist()),
                uniforms[rows],
                model.outcomes,
                model.decoder,
                _reshape(model, warp),
            )
            for rows in (own.split(model.batch_size) if len(own) else ())
        ]
    drawn = Completions.concatenate(parts, model.outcomes.max_new_tokens)
    back = order.argsort()
    return Completions(
        *(processes.gather_rows(column, len(order))[back] for column in vars(drawn).values())
    )


def score_samples(
    model: LanguageModel, samples: Samples, limit: int | None, warp: Warp | None
) -> Tensor:
    """[N, T] float32: log-probability of each token, 0 where the mask is false.

    Args:
        model: The model.
        samples: Completions on its outcomes.
        limit: How many tokens it can read in one sequence, or None.
        warp: A reshaping of each token's distribution, or None.

    Raises:
        AttunementError: The samples have other outcomes, exceed the limit, or were read by an
            encoder where the model has none, or the reverse.
    """
    result = torch.zeros(samples.tokens.shape)
    return _score(model, samples, limit, warp, chosen_log_prob, result)


def score_vocabulary(model: LanguageModel, samples: Samples, limit: int | None) -> Tensor:
    """[N, T, V] float32: log-probability of every token at each place, 0 where the mask is false.

    Args:
        model: The model.
        samples: Completions on its outcomes.
        limit: How many tokens it can read in one sequence, or None.

    Raises:
        AttunementError: As `score_samples`.
    """
    result = torch.zeros(*samples.tokens.shape, vocabulary_of(model.module))
    return _score(model, samples, limit, None, every_log_prob, result)


def _score(
    model: LanguageModel,
    samples: Samples,
    limit: int | None,
    warp: Warp | None,
    log_probs_of: Callable[[Tensor, Tensor], Tensor],
    result: Tensor,
) -> Tensor:
    """Log-probabilities put into a result of zeros, at the places of the mask.

    Several processes share the rows out where no gradient is wanted.
    """
    _require_own(model, samples)
    check_scored_lengths(samples, limit)
    if processes.is_shared() and not torch.is_grad_enabled():
        own = processes.own_rows(len(samples))
        with whole(model.module), processes.alone():
            part = _score(model, samples[own], limit, warp, log_probs_of, result[own])
        return processes.gather_rows(part, len(samples))
    if not samples.mask.any():
        return result
    index = samples.context_index.tolist()
    heads = [samples.context_tokens[context] for context in index]
    sources = (
        [samples.source_tokens[context] for context in index] if samples.source_tokens else None
    )
    with evaluating(model.module):
        rows, columns, values = score(
            model.module,
            heads,
            samples.token_lists,
            _reshape(model, warp),
            log_probs_of,
            sources,
        )
    return result.index_put((rows, columns), values.cpu())


def _require_own(model: LanguageModel, samples: Samples) -> None:
    if samples.outcomes != model.outcomes:
        mine, theirs = model.outcomes.to_json(), samples.outcomes.to_json()
        different = [key for key in mine if mine[key] != theirs[key]] or ["stop_function"]
        raise AttunementError(
            "samples of other outcomes can't be scored; they differ in "
            + ", ".join(f"{key}: {theirs[key]!r} against {mine[key]!r}" for key in different)
        )
    if bool(samples.source_tokens) != model.module.config.is_encoder_decoder:
        raise AttunementError(
            "samples of a model with an encoder can't be scored by one without, nor the reverse"
        )


def _reshape(model: LanguageModel, warp: Warp | None) -> Reshape:
    forbidden = torch.tensor(sorted(model.outcomes.forbidden), device=model.module.device)
    return Reshape(forbidden, warp)
