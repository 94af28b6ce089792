from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import AttunementError, Context, Outcomes, Samples, Stop
from attunement.distributions.tabular import Tabular

OUTCOMES = Outcomes(start=None, stop=Stop(token=0), max_new_tokens=6)


def letters(rows: object) -> list[str]:
    return ["".join("_abcdefg"[token] for token in row if token) for row in rows]  # pyright: ignore


@st.composite
def samples(draw: st.DrawFn, outcomes: Outcomes = OUTCOMES, encoder: bool | None = None) -> Samples:
    count = draw(st.integers(0, 5))
    width = draw(st.integers(1, 6))
    prompts = draw(st.lists(st.text("xyz", max_size=3), min_size=1, max_size=3, unique=True))
    lengths = torch.tensor(
        draw(st.lists(st.integers(1, width), min_size=count, max_size=count)), dtype=torch.long
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    mask = torch.arange(width) < lengths.unsqueeze(1)
    tokens = torch.randint(1, 8, (count, width), generator=generator) * mask
    encoded = draw(st.booleans()) if encoder is None else encoder
    return Samples(
        tokens=tokens,
        mask=mask,
        context_index=torch.randint(len(prompts), (count,), generator=generator),
        contexts=tuple(Context(prompt, {"length": len(prompt)}) for prompt in prompts),
        context_tokens=tuple(tuple("xyz".index(c) + 1 for c in prompt) for prompt in prompts),
        log_prob=-torch.rand(count, generator=generator, dtype=torch.float64),
        finished=torch.rand(count, generator=generator) < 0.5,
        outcomes=outcomes,
        decoder=letters,
        source_tokens=tuple(tuple(map(ord, prompt)) for prompt in prompts) if encoded else (),
    )


def rows(found: Samples) -> list[tuple[object, ...]]:
    """Everything that a reader can see of each sample, padding and table order aside."""
    return list(
        zip(
            [tuple(row) for row in found.token_lists],
            [(context.prompt, context.columns["length"]) for context in found.sample_contexts],
            [found.context_tokens[index] for index in found.context_index.tolist()],
            [found.source_tokens[index : index + 1] for index in found.context_index.tolist()],
            found.log_prob.tolist(),
            found.finished.tolist(),
            found.texts,
            found.full_texts,
            strict=True,
        )
    )


@given(found=samples(), data=st.data())
@settings(deadline=None)
def test_indexing_is_that_of_the_rows(found: Samples, data: st.DataObject):
    whole = rows(found)
    count = len(found)
    index = data.draw(st.lists(st.integers(0, count - 1), max_size=6)) if count else []
    flags = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    assert rows(found[torch.tensor(index, dtype=torch.long)]) == [whole[at] for at in index]
    assert rows(found[torch.tensor(flags, dtype=torch.bool)]) == [
        row for row, keep in zip(whole, flags, strict=True) if keep
    ]
    assert rows(found[1:3]) == whole[1:3]
    assert rows(found[:]) == whole
    if index:
        assert rows(found[index]) == [whole[at] for at in index]


@given(
    parts=st.booleans().flatmap(
        lambda encoder: st.lists(samples(encoder=encoder), min_size=1, max_size=4)
    )
)
@settings(deadline=None)
def test_concatenation_is_that_of_the_rows(parts: list[Samples]):
    joined = Samples.concatenate(parts)
    assert rows(joined) == [row for part in parts for row in rows(part)]
    assert joined.lengths.tolist() == [n for part in parts for n in part.lengths.tolist()]


@given(found=samples(), cut=st.integers(0, 5))
@settings(deadline=None)
def test_splitting_and_concatenating_keeps_one_context_table(found: Samples, cut: int):
    joined = Samples.concatenate([found[:cut], found[cut:]])
    assert rows(joined) == rows(found)
    assert joined.contexts == found.contexts


@given(found=samples())
@settings(deadline=None)
def test_save_and_load(found: Samples, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("samples") / "bank.safetensors"
    found.save(path)
    again = Samples.load(path, OUTCOMES, letters)
    assert rows(again) == rows(found)
    assert again.contexts == found.contexts
    assert torch.equal(again.tokens, found.tokens)


def test_conversations_survive_a_file(tmp_path: Path):
    tabular = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    prompt = ({"role": "user", "content": "hello"},)
    found = replace(tabular.enumerate(), contexts=(Context(prompt, {"row": 3}),))
    found.save(tmp_path / "bank")
    again = Samples.load(tmp_path / "bank", found.outcomes)
    assert again.contexts == found.contexts
    with pytest.raises(AttunementError, match="load them with decoder="):
        _ = again.texts


def test_unreadable_samples(tmp_path: Path):
    (tmp_path / "text").write_text("no samples")
    for path in (tmp_path / "text", tmp_path / "missing"):
        with pytest.raises(AttunementError, match="not a readable file of samples"):
            Samples.load(path, OUTCOMES)


def test_concatenation_errors():
    tabular = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    found = tabular.enumerate()
    other = replace(found, outcomes=OUTCOMES)
    with pytest.raises(AttunementError, match="no samples to concatenate"):
        Samples.concatenate([])
    with pytest.raises(AttunementError, match="different outcomes"):
        Samples.concatenate([found, other])
    read = replace(found, source_tokens=((1,),))
    with pytest.raises(AttunementError, match="with an encoder and of one without"):
        Samples.concatenate([found, read])


def test_stop_strings_are_cut_from_texts_and_full_texts():
    outcomes = Outcomes(None, Stop(strings=("ef", "c")), 6)
    found = Samples(
        tokens=torch.tensor([[1, 2, 3], [1, 1, 2]]),
        mask=torch.ones(2, 3, dtype=torch.bool),
        context_index=torch.tensor([0, 0]),
        contexts=(Context("c"),),
        context_tokens=((3,),),
        log_prob=torch.zeros(2, dtype=torch.float64),
        finished=torch.tensor([True, False]),
        outcomes=outcomes,
        decoder=letters,
    )
    assert found.texts == ["ab", "aab"]
    assert found.full_texts == ["cab", "caab"]
