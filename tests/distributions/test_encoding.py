import pytest
import torch

from attunement.distributions.encoding import decoder_inputs, encoded_once, source_inputs

SOURCES = [(2, 3, 1), (1,), (2, 3, 1), (4, 4, 5, 6, 7, 1), (1,)]
TOKENS = torch.tensor([[0, 5, 0, 0], [0, 1, 7, 7], [0, 2, 2, 2], [0, 9, 0, 8], [0, 5, 3, 4]])


@pytest.fixture
def read(encoder_decoder) -> list[int]:
    """How many sources each pass of the encoder has read."""
    counts = []
    encoder_decoder.get_encoder().register_forward_hook(
        lambda _, __, output: counts.append(len(output.last_hidden_state))
    )
    return counts


def test_every_different_source_is_read_once_and_as_if_alone(encoder_decoder, read):
    with torch.no_grad():
        with encoded_once(encoder_decoder, SOURCES) as inputs:
            together = encoder_decoder(**inputs, **decoder_inputs(TOKENS, 4)).logits
        assert read == [3]
        for row, source in enumerate(SOURCES):
            alone = encoder_decoder(
                input_ids=torch.tensor([source]), decoder_input_ids=TOKENS[[row]]
            ).logits
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)


def test_afterwards_the_encoder_reads_every_row_again(encoder_decoder, read):
    def fail_inside():
        with encoded_once(encoder_decoder, SOURCES):
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    inputs = source_inputs(SOURCES, encoder_decoder.device)
    encoder_decoder(**inputs, **decoder_inputs(TOKENS, 4))
    assert read == [5]


def test_the_gradient_is_that_of_a_plain_pass(encoder_decoder):
    def gradients(inputs):
        encoder_decoder.zero_grad()
        result = encoder_decoder(**inputs, **decoder_inputs(TOKENS, 4))
        result.logits.log_softmax(2)[:, :, 3].sum().backward()
        return [parameter.grad.clone() for parameter in encoder_decoder.parameters()]

    with encoded_once(encoder_decoder, SOURCES) as inputs:
        ours = gradients(inputs)
    plain = gradients(source_inputs(SOURCES, encoder_decoder.device))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
