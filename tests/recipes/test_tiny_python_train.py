"""The training of the embedded model: packing changes nothing, the schedule, the same seed."""

import importlib.util
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "tiny_python"


def _load(name: str):
    spec = importlib.util.spec_from_file_location(f"tiny_python_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


train = _load("train")
evaluate = _load("evaluate")

SMALL = replace(
    train.Settings(),
    vocabulary=50,
    width=16,
    heads=2,
    layers=2,
    rows=2,
    row_tokens=64,
)


def some_documents(n: int, longest: int = 40) -> list[list[int]]:
    draw = random.Random(0)
    lengths = [draw.randrange(longest) for _ in range(n)]
    return [[*(draw.randrange(1, 50) for _ in range(length)), 0] for length in lengths]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 40), st.integers(1, 5))
def test_packing_keeps_every_document_whole_and_no_row_overflows(lengths, room, open_rows):
    documents = [[index] * length for index, length in enumerate(lengths)]
    rows = train.pack(documents, room, open_rows)
    assert sorted(document for row in rows for document in row) == documents
    assert all(0 < sum(map(len, row)) <= room for row in rows)


def test_a_packed_document_has_the_probability_that_it_has_alone():
    documents = some_documents(30)
    model = train.new_model(SMALL, end=0).eval()
    batch = train.collate(train.pack(documents, 64), 64, end=0)
    with torch.no_grad():
        logits = model(batch.tokens, attention_mask=batch.mask, position_ids=batch.positions).logits
    packed = float(cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"))
    alone = sum(evaluate.bits_of(model, documents, rows=7)) * math.log(2)
    assert packed == pytest.approx(alone, rel=1e-5)


def test_the_same_seed_and_steps_give_the_same_weights_and_learn():
    documents = some_documents(8) * 10

    def trained():
        model = train.new_model(SMALL, end=0)
        done = train.train(
            model,
            documents,
            SMALL,
            end=0,
            minutes=1.0,
            max_steps=30,
            compiled=False,
            bfloat16=False,
        )
        assert done.steps == 30
        return model

    first, second = trained(), trained()
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    before = sum(evaluate.bits_of(train.new_model(SMALL, end=0).eval(), documents))
    assert sum(evaluate.bits_of(first.eval(), documents)) < 0.9 * before


@settings(deadline=None)
@given(st.floats(0, 1))
def test_learning_rate_is_a_trapezoid(progress):
    factor = train.learning_rate_factor(progress, SMALL)
    assert 0 <= factor <= 1
    if SMALL.warm_up <= progress <= 1 - SMALL.decay - 1e-9:
        assert factor == 1
    assert train.learning_rate_factor(0.0, SMALL) == train.learning_rate_factor(1.0, SMALL) == 0


def test_ratio_interval_covers_the_ratio():
    draw = random.Random(1)
    repetitions, hits = 400, 0
    for _ in range(repetitions):
        sizes = [draw.uniform(1, 5) for _ in range(40)]
        bits = [2 * size + draw.gauss(0, 1) for size in sizes]
        _, low, high = evaluate.ratio_interval(bits, sizes)
        hits += low <= 2 <= high
    assert evaluate.wilson_interval(hits, repetitions)[1] > 0.93
    with pytest.raises(ValueError, match="two files"):
        evaluate.ratio_interval([1.0], [1.0])


def test_samples_end_where_they_end():
    model = train.new_model(SMALL, end=0).eval()
    tokens = evaluate.sample(model, 0, 200, 30, torch.Generator().manual_seed(0))
    again = evaluate.sample(model, 0, 200, 30, torch.Generator().manual_seed(0))
    assert torch.equal(tokens, again)
    ended = (tokens == 0).cumsum(dim=1) > 0
    assert bool((tokens[ended] == 0).all())


def test_a_training_goes_on_from_what_it_saved(tmp_path):
    tokenizer = train.train_tokenizer(["def f():\n    pass\n"] * 3, 300, longest=64)
    model = train.new_model(replace(SMALL, vocabulary=len(tokenizer)), tokenizer.eos_token_id)
    train.save(model, tokenizer, tmp_path, {"legs": [{"steps": 3}]})
    again, same, legs = train.load(tmp_path)
    assert legs == [{"steps": 3}]
    assert same.get_vocab() == tokenizer.get_vocab()
    assert again.dtype == torch.float32
    for before, after in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(before.float(), after)
