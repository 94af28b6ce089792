"""What both families share; how each reads its contexts is tested beside it."""

from dataclasses import replace

import pytest
import torch

from attunement.core import AttunementError
from attunement.distributions.causal import Causal
from attunement.distributions.pretrained import Pretrained
from attunement.distributions.seq2seq import Seq2Seq


@pytest.fixture(params=[Causal, Seq2Seq])
def pretrained(request, model, byte_tokenizer, encoder_decoder, letters) -> Pretrained:
    if request.param is Seq2Seq:
        return Seq2Seq.load(encoder_decoder, tokenizer=letters, max_new_tokens=5)
    return Causal.load(model, tokenizer=byte_tokenizer, max_new_tokens=5)


def test_scores_by_sample_token_and_vocabulary_agree(pretrained):
    samples = pretrained.sample(["ab", "c"], 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = pretrained.token_log_probs(samples)
        every = pretrained.next_token_log_probs(samples)
        torch.testing.assert_close(pretrained.log_prob(samples), tokens.double().sum(1))
    chosen = every.gather(2, samples.tokens[:, :, None])[:, :, 0]
    torch.testing.assert_close(chosen[samples.mask], tokens[samples.mask])
    assert bool((tokens[~samples.mask] == 0).all())


def test_a_copy_keeps_everything_but_the_parameters(pretrained):
    policy = pretrained.copy()
    assert type(policy) is type(pretrained)
    assert policy.outcomes is pretrained.outcomes
    assert policy.tokenizer is pretrained.tokenizer
    assert policy.batch_size == pretrained.batch_size
    pairs = zip(policy.module.parameters(), pretrained.module.parameters(), strict=True)
    assert all(first is not second and torch.equal(first, second) for first, second in pairs)


def test_a_family_says_how_it_reads_and_only_then_is_a_model():
    assert [family.has_encoder for family in (Causal, Seq2Seq)] == [False, True]
    assert Pretrained.__abstractmethods__ == {"sample"}


def test_a_decoder_needs_a_start(encoder_decoder, letters):
    loaded = Seq2Seq.load(encoder_decoder, tokenizer=letters, max_new_tokens=5)
    with pytest.raises(AttunementError, match="needs a token to start from"):
        Seq2Seq(loaded.module, letters, replace(loaded.outcomes, start=None))
