import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.distributions import scoring
from attunement.distributions.drawing import Reshape
from attunement.distributions.scoring import chosen_log_prob, every_log_prob, score

CONTEXTS = [(0,), (0, 5, 6, 7), (0, 5), (0,), (0, 9, 9, 9, 9, 9)]
COMPLETIONS = [[3, 4, 0], [8], [], [1, 2, 3, 4, 5, 6], [0]]
AS_IT_IS = Reshape(torch.tensor([], dtype=torch.int64))


def plainly(model, context, completion):
    ids = torch.tensor([[*context, *completion]])
    logits = model(input_ids=ids).logits[0, len(context) - 1 : -1].float()
    return logits.log_softmax(1)[torch.arange(len(completion)), torch.tensor(completion)]


@pytest.mark.parametrize("tokens_a_pass", [1, 12, 8192])
def test_scores_are_those_of_one_row_at_a_time(model, monkeypatch, tokens_a_pass):
    monkeypatch.setattr(scoring, "_TOKENS_A_PASS", tokens_a_pass)
    with torch.no_grad():
        rows, columns, values = score(model, CONTEXTS, COMPLETIONS, AS_IT_IS, chosen_log_prob)
        result = torch.zeros(5, 6).index_put((rows, columns), values)
        for row, (context, completion) in enumerate(zip(CONTEXTS, COMPLETIONS, strict=True)):
            if completion:
                expected = plainly(model, context, completion)
                torch.testing.assert_close(
                    result[row, : len(completion)], expected, atol=1e-5, rtol=1e-5
                )
    assert len(rows) == sum(map(len, COMPLETIONS))


def test_the_gradient_is_that_of_plain_autograd(model):
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.1])
    _, _, values = score(model, CONTEXTS, COMPLETIONS, AS_IT_IS, chosen_log_prob)
    rows, _, _ = score(model, CONTEXTS, COMPLETIONS, AS_IT_IS, chosen_log_prob)
    (values * weights[rows]).sum().backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = sum(
        weight * plainly(model, context, completion).sum()
        for weight, context, completion in zip(weights, CONTEXTS, COMPLETIONS, strict=True)
        if completion
    )
    total.backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=2e-4, rtol=1e-3)


def test_every_token_is_scored_where_one_is(model):
    with torch.no_grad():
        first = score(model, CONTEXTS, COMPLETIONS, AS_IT_IS, chosen_log_prob)
        rows, columns, every = score(model, CONTEXTS, COMPLETIONS, AS_IT_IS, every_log_prob)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    tokens = torch.tensor([COMPLETIONS[row][column] for row, column in places])
    torch.testing.assert_close(every.gather(1, tokens[:, None])[:, 0], first[2])
    torch.testing.assert_close(every.exp().sum(1), torch.ones(len(rows)))


@pytest.mark.parametrize("tokens_a_pass", [1, 12, 8192])
def test_scores_of_a_model_with_an_encoder(encoder_decoder, monkeypatch, tokens_a_pass):
    monkeypatch.setattr(scoring, "_TOKENS_A_PASS", tokens_a_pass)
    sources = [(1,), (5, 6, 1), (1,), (7, 7, 7, 7, 7, 1)]
    completions = [[3, 4, 0], [8], [1, 2, 3, 4, 5, 6], [0]]
    with torch.no_grad():
        rows, columns, values = score(
            encoder_decoder, [(3,)] * 4, completions, AS_IT_IS, chosen_log_prob, sources
        )
        result = torch.zeros(4, 6).index_put((rows, columns), values)
        for row, (source, completion) in enumerate(zip(sources, completions, strict=True)):
            ids = torch.tensor([[3, *completion[:-1]]])
            passed = encoder_decoder(input_ids=torch.tensor([source]), decoder_input_ids=ids)
            chosen = torch.arange(len(completion)), torch.tensor(completion)
            expected = passed.logits[0].log_softmax(1)[chosen]
            torch.testing.assert_close(
                result[row, : len(completion)], expected, atol=1e-4, rtol=1e-5
            )
    assert len(rows) == sum(map(len, completions))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 7),
    vocabulary=st.integers(1, 9),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_chosen_log_prob_and_its_gradient_for_any_chunk(rows, vocabulary, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocabulary, generator=generator)
    tokens = torch.randint(vocabulary, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator)
    reference = logits.double().requires_grad_()
    expected = reference.log_softmax(1).gather(1, tokens[:, None])[:, 0]
    (expected * weights).sum().backward()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_LOGITS_A_CHUNK", chunk)
        leaf = logits.clone().requires_grad_()
        value = chosen_log_prob(leaf * 1, tokens)
        (value * weights).sum().backward()
    torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(leaf.grad.double(), reference.grad, atol=1e-5, rtol=1e-5)


def test_impossible_tokens_have_no_gradient():
    leaf = torch.zeros(2, 3, requires_grad=True)
    logits = leaf.masked_fill(torch.tensor([True, False, False]), -math.inf)
    value = chosen_log_prob(logits, torch.tensor([0, 1]))
    value[1].backward()
    assert value[0] == -math.inf
    torch.testing.assert_close(leaf.grad, torch.tensor([[0.0, 0, 0], [0, 0.5, -0.5]]))


def test_bfloat16_logits_are_normalised_in_float32():
    logits = torch.randn(50, 400, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.arange(50)
    exact = logits.double().log_softmax(1).gather(1, tokens[:, None])[:, 0]
    leaf = logits.clone().requires_grad_()
    value = chosen_log_prob(leaf * 1, tokens)
    torch.testing.assert_close(value.double(), exact, atol=1e-5, rtol=0)
    value.sum().backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_a_graph_is_walked_once():
    leaf = torch.zeros(2, 3, requires_grad=True)
    value = chosen_log_prob(leaf * 1, torch.tensor([0, 1])).sum()
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute log_prob again"):
        value.backward()
