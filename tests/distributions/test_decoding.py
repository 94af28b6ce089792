import torch

from attunement.core import Outcomes, Stop
from attunement.distributions import decoding
from attunement.distributions.decoding import decode
from attunement.distributions.drawing import Reshape
from attunement.distributions.reading import CausalReader

AS_IT_IS = Reshape(torch.tensor([], dtype=torch.int64))
PROMPTS = [(0,), (0, 5, 6, 7), (0,), (0, 9)] * 5


def uniforms(rows, steps, seed=0):
    return torch.rand(
        rows, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def no_text(rows):
    raise AssertionError(f"a stop that reads no text needs no decoder of {rows}")


def run(model, outcomes, prompts=PROMPTS, decoder=no_text, seed=0):
    noise = uniforms(len(prompts), outcomes.max_new_tokens, seed)
    reader = CausalReader(model, prompts, outcomes.max_new_tokens)
    return decode(reader, noise, outcomes, decoder, AS_IT_IS)


def test_compaction_changes_nothing(model, monkeypatch):
    stop = Stop(0, further_tokens=frozenset(range(1, 40)))
    outcomes = Outcomes(0, stop, 12)
    compacted = run(model, outcomes)
    assert compacted.lengths.unique().numel() > 3
    monkeypatch.setattr(decoding, "_DENSE", 0.0)
    held = run(model, outcomes)
    torch.testing.assert_close(compacted.tokens, held.tokens)
    torch.testing.assert_close(compacted.lengths, held.lengths)
    torch.testing.assert_close(compacted.log_prob, held.log_prob, atol=1e-4, rtol=0)


def test_a_row_depends_on_its_prompt_and_uniforms_only(model):
    outcomes = Outcomes(0, Stop(0, further_tokens=frozenset(range(1, 20))), 8)
    noise = uniforms(len(PROMPTS), 8)
    together = decode(CausalReader(model, PROMPTS, 8), noise, outcomes, no_text, AS_IT_IS)
    for row, prompt in enumerate(PROMPTS):
        reader = CausalReader(model, [prompt], 8)
        alone = decode(reader, noise[row : row + 1], outcomes, no_text, AS_IT_IS)
        torch.testing.assert_close(alone.tokens[0], together.tokens[row])
        torch.testing.assert_close(alone.log_prob[0], together.log_prob[row], atol=1e-4, rtol=0)


def test_a_completion_ends_at_its_first_end_token(model):
    ends = frozenset(range(30))
    result = run(model, Outcomes(0, Stop(0, further_tokens=ends), 10))
    for row, length in zip(result.tokens.tolist(), result.lengths.tolist(), strict=True):
        assert not ends & set(row[: length - 1])
        assert set(row[length:]) <= {0}
        assert (row[length - 1] in ends) or length == 10
    last = result.tokens[torch.arange(len(PROMPTS)), result.lengths - 1]
    assert result.finished.tolist() == [token in ends for token in last.tolist()]
    assert result.finished.any()


def test_without_a_stop_everything_is_cut(model):
    result = run(model, Outcomes(0, Stop(), 6))
    assert result.lengths.tolist() == [6] * len(PROMPTS)
    assert not result.finished.any()


def test_a_text_stop_ends_at_the_first_token_that_meets_it(model):
    def decoder(rows):
        return ["".join(chr(97 + token % 3) for token in row) for row in rows]

    free = run(model, Outcomes(0, Stop(), 10))
    stopped = run(model, Outcomes(0, Stop(strings=("ab", "cc")), 10), decoder=decoder)
    for row, length in enumerate(stopped.lengths.tolist()):
        whole = free.tokens[row].tolist()
        meets = [
            any(stop in decoder([whole[:end]])[0] for stop in ("ab", "cc")) for end in range(1, 11)
        ]
        first = meets.index(True) + 1 if any(meets) else 10
        assert length == first
        assert stopped.tokens[row, :length].tolist() == whole[:length]
        assert bool(stopped.finished[row]) == any(meets)
    assert stopped.finished.any()
