from dataclasses import replace

import pytest
import torch

from attunement.core import AttunementError
from attunement.distributions.causal import Causal
from attunement.reproduce import arxiv_2106_04985, language
from attunement.reproduce.arxiv_2106_04985 import EMBEDDED, PAPER
from attunement.reproduce.language import Prompts
from attunement.scorers import evaluate, pep8_per_line


@pytest.fixture(scope="module")
def base():
    return Causal.load("tiny-python", max_new_tokens=32)


def test_what_keeps_pep8_has_ended_without_a_violation(base):
    samples = base.sample(None, 32, generator=torch.Generator().manual_seed(0))
    kept = evaluate(language.keeps_pep8, samples).values
    violations = evaluate(pep8_per_line, samples).values
    rows = zip(samples.finished.tolist(), violations.tolist(), strict=True)
    assert kept.tolist() == [float(finished and number == 0) for finished, number in rows]
    assert 0 < kept.sum() < len(samples)


def test_prompts_keep_their_source_when_something_is_put_around_them():
    prompts = Prompts(
        "tiny-python-signatures", "tiny-python-signatures:held-out", 3, 2, before="# ", after="\n"
    )
    tuning, held_out = prompts.read()
    assert (len(tuning), len(held_out)) == (3, 2)
    for context in (*tuning, *held_out):
        assert context.prompt == f"# {context.columns['source']}\n"
        assert str(context.columns["source"]).startswith("def ")


def test_prompts_of_tuning_are_not_measured_on():
    both = "tiny-python-signatures"
    with pytest.raises(AttunementError, match="among those of tuning"):
        Prompts(both, both, 3, 3).read()


def test_a_context_that_is_not_there_is_missed_beforehand(tmp_path):
    nowhere = Prompts(str(tmp_path / "none.jsonl"), "tiny-python-signatures", 3, 3)
    with pytest.raises(AttunementError, match=r"none.jsonl can't be read"):
        replace(EMBEDDED, prompts=nowhere).prepare()


def test_sizes_without_prompts_have_no_contexts():
    with pytest.raises(AttunementError, match="no prompts"):
        EMBEDDED.contexts()


@pytest.mark.parametrize(
    ("docstring", "faithful", "names_its_source"),
    [
        ("Write `indent` spaces before ``header``.", 1, 1),
        ("Write some spaces.", 1, 0),
        ("Write `indent` spaces by write_all(text).", 0, 0),
    ],
)
def test_a_faithful_docstring_names_what_its_function_has(
    make_samples, docstring, faithful, names_its_source
):
    columns = {"source": "def dump(indent, header):"}
    for finished in (True, False):
        samples = make_samples([docstring], columns=[columns], finished=[finished])
        for scorer, value in (
            (language.faithful, faithful),
            (language.names_its_source, names_its_source),
        ):
            assert evaluate(scorer, samples).values.tolist() == [value * finished]


def test_a_hub_model_needs_a_gpu_and_the_embedded_one_does_not():
    assert not arxiv_2106_04985.on_language(EMBEDDED).needs_gpu
    assert arxiv_2106_04985.on_language(PAPER).needs_gpu


def test_samples_are_counted_as_different_once(base):
    found = language.spread(base, 0, 64)
    assert 0.3 < found["distinct"] <= 1
    assert found["entropy"] > 5
