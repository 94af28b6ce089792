import torch

from attunement.distributions.encoding import encode

SOURCES = [(2, 3, 1), (1,), (2, 3, 1), (4, 4, 5, 6, 7, 1), (1,)]


def test_every_different_source_is_read_once_and_as_if_alone(encoder_decoder):
    with torch.no_grad():
        encoded, rows = encode(encoder_decoder, SOURCES)
        assert len(encoded) == 3
        assert rows.tolist() == [0, 1, 0, 2, 1]
        assert encoded.mask.sum(1).tolist() == [3, 1, 6]
        for row, source in zip(encoded[rows].states, SOURCES, strict=True):
            alone, _ = encode(encoder_decoder, [source])
            torch.testing.assert_close(row[: len(source)], alone.states[0], atol=1e-5, rtol=1e-4)


def test_what_stands_for_padding_changes_no_logits(encoder_decoder):
    tokens = torch.tensor([[encoder_decoder.config.decoder_start_token_id, 5, 0, 0]] * len(SOURCES))
    with torch.no_grad():
        encoded, rows = encode(encoder_decoder, SOURCES)
        together = encoder_decoder(**encoded[rows].inputs(tokens, 4)).logits
        for row, source in enumerate(SOURCES):
            alone = encoder_decoder(
                input_ids=torch.tensor([source]), decoder_input_ids=tokens[:1]
            ).logits
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)


def test_a_gradient_reaches_the_encoder(encoder_decoder):
    encoded, rows = encode(encoder_decoder, SOURCES)
    inputs = encoded[rows].inputs(torch.zeros(len(SOURCES), 2, dtype=torch.long), 2)
    encoder_decoder(**inputs).logits.square().sum().backward()
    layer = encoder_decoder.get_encoder()
    assert any(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())
