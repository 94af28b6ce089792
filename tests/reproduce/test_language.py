import ast

import pytest
import torch

from attunement.distributions.causal import Causal
from attunement.reproduce import arxiv_2106_04985, language
from attunement.reproduce.arxiv_2106_04985 import EMBEDDED, PAPER
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


def test_signatures_are_different_headers_of_functions():
    found = [str(context.prompt) for context in language.signatures(8)]
    assert len(set(found)) == 8
    for prompt in found:
        assert prompt.startswith("def ")
        assert prompt.endswith(":")
    assert any(_parses(f"{prompt} pass") for prompt in found)


def _parses(text: str) -> bool:
    try:
        return bool(ast.parse(text))
    except SyntaxError:
        return False


def test_a_hub_model_needs_a_gpu_and_the_embedded_one_does_not():
    assert not arxiv_2106_04985.on_language(EMBEDDED).needs_gpu
    assert arxiv_2106_04985.on_language(PAPER).needs_gpu


def test_samples_are_counted_as_different_once(base):
    found = language.spread(base, 0, 64)
    assert 0.3 < found["distinct"] <= 1
    assert found["entropy"] > 5
