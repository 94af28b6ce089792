import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from attunement.core import AttunementError, Context, Outcomes, Samples, Stop, TokenWise
from attunement.distributions.causal import Causal
from attunement.distributions.drawing import Warp
from attunement.distributions.language import LanguageModel, Warped
from attunement.distributions.seq2seq import Seq2Seq
from attunement.laws import check_distribution, check_goodness_of_fit
from attunement.sampling import rejection
from attunement.targets import Target

PROMPTS = ["", "abc", "aabbccddeeffgg"]
SOURCES = ((1,), (2, 3, 4, 1), (2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def seq2seq(encoder_decoder, letters) -> Seq2Seq:
    return Seq2Seq.load(encoder_decoder, tokenizer=letters, max_new_tokens=12)


def plainly(
    model: PreTrainedModel, source: Sequence[int], start: int, row: Sequence[int]
) -> Tensor:
    """[T, V] log-probabilities by a plain pass over one source and one completion."""
    ids = torch.tensor([[start, *row[:-1]]])
    logits = model(input_ids=torch.tensor([source]), decoder_input_ids=ids).logits
    return logits[0].double().log_softmax(1)


def plain_log_prob(seq2seq: Seq2Seq, samples: Samples) -> Tensor:
    total = []
    for row, index in zip(samples.token_lists, samples.context_index.tolist(), strict=True):
        table = plainly(seq2seq.module, samples.source_tokens[index], seq2seq.start, row)
        total.append(table[torch.arange(len(row)), torch.tensor(row)].sum())
    return torch.stack(total)


def every_outcome(outcomes: Outcomes, source: tuple[int, ...]) -> Samples:
    """All completions of a four-token model that no forbidden token is part of."""
    steps = outcomes.max_new_tokens
    ordinary = [token for token in (0, 2, 3) if token not in outcomes.forbidden]
    rows = [[*row, 1] for length in range(steps) for row in product(ordinary, repeat=length)]
    rows += [list(row) for row in product(ordinary, repeat=steps)]
    lengths = torch.tensor([len(row) for row in rows])
    return Samples(
        tokens=torch.tensor([row + [0] * (steps - len(row)) for row in rows]),
        mask=torch.arange(steps) < lengths[:, None],
        context_index=torch.zeros(len(rows), dtype=torch.int64),
        contexts=(Context("ab"),),
        context_tokens=((outcomes.start,),),
        source_tokens=(source,),
        log_prob=torch.zeros(len(rows), dtype=torch.float64),
        finished=torch.tensor([row[-1] == 1 for row in rows]),
        outcomes=outcomes,
    )


def test_it_is_a_language_model(seq2seq):
    assert isinstance(seq2seq, TokenWise)
    assert isinstance(seq2seq, LanguageModel)
    assert isinstance(seq2seq.warped(Warp()), Warped)


@pytest.mark.parametrize("forbidden", [frozenset(), frozenset({0, 5})])
@pytest.mark.parametrize("stop", [None, Stop(strings=("cc", "k"))])
def test_it_keeps_the_laws(encoder_decoder, letters, forbidden, stop):
    model = Seq2Seq.load(
        encoder_decoder,
        tokenizer=letters,
        max_new_tokens=12,
        stop=stop,
        forbidden=forbidden,
        batch_size=50,
    )
    check_distribution(model, PROMPTS)
    check_distribution(model)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("forbidden", [frozenset(), frozenset({2})])
@pytest.mark.parametrize("warp", [None, Warp(temperature=0.6)])
def test_probabilities_are_those_of_plain_passes_and_samples_fit_them(
    four_token_model, letters, start, forbidden, warp
):
    outcomes = Outcomes(start, Stop(1), 3, forbidden)
    model = Seq2Seq(four_token_model, letters, outcomes, batch_size=10_000)
    support = every_outcome(outcomes, (2, 3, 1))
    expected = []
    with torch.no_grad():
        for row in support.token_lists:
            table = plainly(four_token_model, (2, 3, 1), start, row)
            table[:, sorted(forbidden)] = -math.inf
            table = (table if warp is None else warp(table)).log_softmax(1)
            expected.append(table[torch.arange(len(row)), torch.tensor(row)].sum())
        found = model.log_prob(support, warp=warp)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)
    check_goodness_of_fit(model if warp is None else model.warped(warp), support, n=4000)


def test_the_gradient_is_that_of_transformers_loss(seq2seq):
    samples = seq2seq.sample(PROMPTS, 6, generator=generator())
    assert samples.lengths.unique().numel() > 2
    (-seq2seq.log_prob(samples).sum()).backward()
    ours = {name: part.grad.clone() for name, part in seq2seq.module.named_parameters()}
    seq2seq.module.zero_grad()
    sources = [torch.tensor(samples.source_tokens[c]) for c in samples.context_index.tolist()]
    padded = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True)
    lengths = torch.tensor([len(source) for source in sources])
    result = seq2seq.module(
        input_ids=padded,
        attention_mask=(torch.arange(padded.shape[1]) < lengths[:, None]).long(),
        labels=samples.tokens.masked_fill(~samples.mask, -100),
    )
    (result.loss * samples.mask.sum()).backward()
    for name, parameter in seq2seq.module.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-3, rtol=1e-3)
    reached = [name for name in ours if ".encoder." in f".{name}" and ours[name].abs().sum() > 0]
    assert len(reached) > 5


def test_the_recorded_log_prob_is_that_of_plain_passes(seq2seq):
    samples = seq2seq.sample(PROMPTS, 20, generator=generator())
    assert 0.05 < samples.finished.double().mean() < 0.95
    with torch.no_grad():
        plain = plain_log_prob(seq2seq, samples)
    torch.testing.assert_close(samples.log_prob, plain, atol=1e-4, rtol=0)


def test_a_score_does_not_depend_on_what_else_is_in_the_batch(seq2seq):
    samples = seq2seq.sample(PROMPTS, 6, generator=generator())
    order = torch.randperm(len(samples), generator=generator(1))
    with torch.no_grad():
        whole = seq2seq.log_prob(samples)
        shuffled = seq2seq.log_prob(samples[order])
        alone = torch.cat([seq2seq.log_prob(samples[[row]]) for row in range(len(samples))])
    torch.testing.assert_close(shuffled, whole[order], atol=1e-4, rtol=0)
    torch.testing.assert_close(alone, whole, atol=1e-4, rtol=0)


def test_a_completion_is_a_function_of_its_context_and_row_of_uniforms(
    seq2seq, encoder_decoder, letters
):
    samples = seq2seq.sample(PROMPTS, 8, generator=generator(5))
    assert len(set(map(tuple, samples.token_lists))) > 12
    for batch_size in (1, 7, 24):
        other = Seq2Seq(encoder_decoder, letters, seq2seq.outcomes, batch_size=batch_size)
        again = other.sample(PROMPTS, 8, generator=generator(5))
        assert torch.equal(again.tokens, samples.tokens)
        torch.testing.assert_close(again.log_prob, samples.log_prob, atol=1e-4, rtol=0)


def test_the_context_matters(seq2seq):
    samples = seq2seq.sample(["abc"], 30, generator=generator())
    other = Samples(**{**vars(samples), "source_tokens": SOURCES[2:]})
    with torch.no_grad():
        difference = seq2seq.log_prob(other) - seq2seq.log_prob(samples)
    assert difference.abs().mean() > 0.1


def test_every_different_prompt_is_encoded_once(seq2seq):
    read = []
    handle = seq2seq.module.get_encoder().register_forward_hook(
        lambda _, __, output: read.append(len(output.last_hidden_state))
    )
    samples = seq2seq.sample([*PROMPTS, "abc"], 10, generator=generator())
    assert read == [3]
    seq2seq.log_prob(samples)
    assert read == [3, 3]
    handle.remove()


def test_the_encoder_reads_what_its_tokenizer_adds(seq2seq):
    samples = seq2seq.sample(PROMPTS, 1, generator=generator())
    assert samples.source_tokens == SOURCES
    assert samples.context_tokens == ((seq2seq.start,),) * 3
    assert seq2seq.sample(None, 1, generator=generator()).source_tokens == ((1,),)


def test_a_completion_is_a_text_of_its_own(seq2seq):
    samples = seq2seq.sample(["abc"], 20, generator=generator())
    assert samples.full_texts == samples.texts
    assert any(samples.texts)


def test_the_start_is_the_decoders(encoder_decoder, letters):
    model = Seq2Seq.load(encoder_decoder, tokenizer=letters, max_new_tokens=4)
    assert model.outcomes.start == encoder_decoder.config.decoder_start_token_id
    assert model.outcomes.stop == Stop(1)
    for settings in (encoder_decoder.config, encoder_decoder.generation_config):
        settings.decoder_start_token_id = None
    with pytest.raises(AttunementError, match="set decoder_start_token_id"):
        Seq2Seq.load(encoder_decoder, tokenizer=letters, max_new_tokens=4)
    with pytest.raises(AttunementError, match="needs a token to start from"):
        Seq2Seq(encoder_decoder, letters, Outcomes(None, Stop(1), 4))


def test_a_drawn_padding_token_counts_and_padding_does_not(make_t5, letters):
    model = Seq2Seq.load(make_t5(), tokenizer=letters, max_new_tokens=12)
    assert model.start == letters.pad_token_id == 0
    samples = model.sample(PROMPTS, 40, generator=generator())
    with torch.no_grad():
        tokenwise = model.token_log_probs(samples)
    drawn = (samples.tokens == 0) & samples.mask
    assert drawn.any()
    assert (tokenwise[drawn] < 0).all()
    assert not samples.mask.all()
    assert not tokenwise[~samples.mask].any()


def test_a_stop_string_ends_a_completion_and_is_cut_from_its_text(encoder_decoder, letters):
    options = {"tokenizer": letters, "max_new_tokens": 12}
    free = Seq2Seq.load(encoder_decoder, **options).sample(PROMPTS, 30, generator=generator())
    stop = Stop(strings=("d", "gg"))
    model = Seq2Seq.load(encoder_decoder, **options, stop=stop)
    samples = model.sample(PROMPTS, 30, generator=generator())
    assert model.outcomes.stop.token == 1
    assert any(len(a) < len(b) for a, b in zip(samples.texts, free.texts, strict=True))
    for text, whole, finished in zip(
        samples.texts, free.texts, samples.finished.tolist(), strict=True
    ):
        assert text == whole[: stop.find(whole)]
        assert finished or len(text) <= 12


def test_warped_proposals_know_their_log_prob(seq2seq):
    for warp in (Warp(temperature=0.7), Warp(top_k=3), Warp(temperature=1.3, top_p=0.9)):
        proposal = seq2seq.warped(warp)
        samples = proposal.sample(PROMPTS, 20, generator=generator())
        with torch.no_grad():
            fresh = proposal.log_prob(samples)
            unwarped = seq2seq.log_prob(samples)
        torch.testing.assert_close(fresh, samples.log_prob, atol=1e-4, rtol=0)
        assert (fresh - unwarped).abs().mean() > 0.1


def test_dropout_is_off_and_the_mode_is_kept(seq2seq):
    seq2seq.module.train()
    samples = seq2seq.sample(PROMPTS, 10, generator=generator())
    torch.testing.assert_close(
        seq2seq.log_prob(samples).detach(), samples.log_prob, atol=1e-4, rtol=0
    )
    assert seq2seq.module.training


def test_a_copy_is_independent(seq2seq):
    samples = seq2seq.sample(PROMPTS, 5, generator=generator())
    policy = seq2seq.copy()
    with torch.no_grad():
        before = seq2seq.log_prob(samples)
        assert torch.equal(policy.log_prob(samples), before)
        for parameter in policy.module.parameters():
            parameter.mul_(0.5)
        assert torch.equal(seq2seq.log_prob(samples), before)
        assert not torch.equal(policy.log_prob(samples), before)


def test_what_is_saved_is_loaded_again_here_and_by_transformers(seq2seq, tmp_path):
    samples = seq2seq.sample(PROMPTS, 10, generator=generator())
    seq2seq.save(tmp_path)
    again = Seq2Seq.load(tmp_path, max_new_tokens=12, device="cpu")
    assert again.outcomes == seq2seq.outcomes
    with torch.no_grad():
        torch.testing.assert_close(again.log_prob(samples), samples.log_prob, atol=1e-4, rtol=0)
        theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(tensor, seq2seq.module.state_dict()[name])


def test_samples_come_back_from_a_file(seq2seq, tmp_path):
    samples = seq2seq.sample(PROMPTS, 5, generator=generator())
    samples.save(tmp_path / "bank")
    again = Samples.load(tmp_path / "bank", seq2seq.outcomes, seq2seq.decoder)
    joined = Samples.concatenate([again, samples])
    with torch.no_grad():
        torch.testing.assert_close(seq2seq.log_prob(joined), joined.log_prob, atol=1e-4, rtol=0)


def test_a_target_is_drawn_from_context_by_context(seq2seq):
    target = Target(seq2seq).constrain("contains:d")
    samples = rejection(target, PROMPTS, 12, generator=generator()).samples
    assert all("d" in text for text in samples.texts)
    with torch.no_grad():
        torch.testing.assert_close(seq2seq.log_prob(samples), samples.log_prob, atol=1e-4, rtol=0)


def test_samples_of_the_other_family_are_refused(seq2seq, five_token_model, letters):
    causal = Causal(five_token_model, letters, seq2seq.outcomes)
    mine = seq2seq.sample(None, 2, generator=generator())
    theirs = causal.sample(None, 2, generator=generator())
    for model, samples in ((seq2seq, theirs), (causal, mine)):
        with pytest.raises(AttunementError, match="of a model with an encoder can't be scored"):
            model.log_prob(samples)
    with pytest.raises(AttunementError, match="with an encoder and of one without"):
        Samples.concatenate([mine, theirs])


@pytest.mark.parametrize(
    ("length", "prompt", "message"),
    [(12, "a" * 32, "prompt 1 has 33 tokens, beyond the 32"), (33, "a", "max_new_tokens=33")],
)
@pytest.mark.parametrize("make_encoder_decoder", ["bart"], indirect=True)
def test_what_a_model_has_no_positions_for_is_named(
    encoder_decoder, letters, length, prompt, message
):
    model = Seq2Seq.load(encoder_decoder, tokenizer=letters, max_new_tokens=length)
    with pytest.raises(AttunementError, match=message):
        model.sample(["", prompt], 1, generator=generator())


@pytest.mark.parametrize("make_encoder_decoder", ["t5"], indirect=True)
def test_relative_positions_have_no_limit(encoder_decoder, letters):
    model = Seq2Seq.load(encoder_decoder, tokenizer=letters, max_new_tokens=40)
    samples = model.sample(["a" * 600], 2, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(samples), samples.log_prob, atol=1e-4, rtol=0)
