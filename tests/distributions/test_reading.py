import pytest
import torch

from attunement.distributions.reading import CausalReader, EncoderDecoderReader

PROMPTS = [(1,), (5, 6, 7, 1), (1,), (9, 1), (5, 6, 7, 1)]
DRAWN = torch.randint(1, 14, (5, 4), generator=torch.Generator().manual_seed(0))


def causal_logits(model, prompt, row):
    return model(input_ids=torch.tensor([[*prompt, *row]])).logits[0, -1]


def encoder_decoder_logits(model, prompt, row):
    ids = torch.tensor([[3, *row]])
    return model(input_ids=torch.tensor([prompt]), decoder_input_ids=ids).logits[0, -1]


def require_plain_logits(reader, model, plainly):
    """Read step by step, with rows leaving on the way, against a plain pass over each row."""
    held = torch.arange(len(PROMPTS))
    with torch.no_grad():
        logits = reader.begin()
        for step in range(DRAWN.shape[1]):
            assert logits.dtype == torch.float32
            for found, row in zip(logits, held.tolist(), strict=True):
                expected = plainly(model, PROMPTS[row], DRAWN[row, :step].tolist())
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            if step == 1:
                kept = torch.tensor([4, 0, 3])
                held = held[kept]
                reader.keep(kept)
            logits = reader.read(DRAWN[held, step])


def test_a_causal_model_is_read_step_by_step(model):
    require_plain_logits(CausalReader(model, PROMPTS, 5), model, causal_logits)


def test_a_model_with_an_encoder_is_read_step_by_step(encoder_decoder):
    reader = EncoderDecoderReader(encoder_decoder, PROMPTS, 3, 5)
    require_plain_logits(reader, encoder_decoder, encoder_decoder_logits)


@pytest.mark.parametrize("steps", [1, 9])
def test_the_cache_has_the_decoders_layers(make_t5, steps):
    reader = EncoderDecoderReader(make_t5(), PROMPTS, 0, steps)
    assert len(reader.cache.self_attention_cache) == 2
