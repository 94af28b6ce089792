from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from attunement.core import Context, Message, Outcomes, Samples, Stop

END = 0x110000
"""The end token; every other token is the code point of a character."""

MakeSamples = Callable[..., Samples]


def _decode(rows: Sequence[Sequence[int]]) -> list[str]:
    return ["".join(chr(token) for token in row if token != END) for row in rows]


def _content(prompt: str | tuple[Message, ...]) -> str:
    return prompt if isinstance(prompt, str) else "".join(turn["content"] for turn in prompt)


def _make_samples(
    texts: Sequence[str],
    prompts: Sequence[str | tuple[Message, ...]] | None = None,
    columns: Sequence[Mapping[str, object]] | None = None,
    finished: Sequence[bool] | None = None,
    decoded: bool = True,
) -> Samples:
    """Samples whose completions read as given, one context a sample."""
    count = len(texts)
    prompts = [""] * count if prompts is None else prompts
    columns = [{}] * count if columns is None else columns
    finished = [True] * count if finished is None else finished
    ends = [[END] if done else [] for done in finished]
    rows = [[*map(ord, text), *end] for text, end in zip(texts, ends, strict=True)]
    width = max(map(len, rows), default=0)
    return Samples(
        tokens=torch.tensor(
            [[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.int64
        ).reshape(count, width),
        mask=torch.tensor(
            [[position < len(row) for position in range(width)] for row in rows], dtype=torch.bool
        ).reshape(count, width),
        context_index=torch.arange(count),
        contexts=tuple(
            Context(prompt, fields) for prompt, fields in zip(prompts, columns, strict=True)
        ),
        context_tokens=tuple(tuple(map(ord, _content(prompt))) for prompt in prompts),
        log_prob=torch.zeros(count, dtype=torch.float64),
        finished=torch.tensor(finished, dtype=torch.bool),
        outcomes=Outcomes(start=None, stop=Stop(token=END), max_new_tokens=max(1, width)),
        decoder=_decode if decoded else None,
    )


@pytest.fixture(scope="session")
def make_samples() -> MakeSamples:
    return _make_samples
