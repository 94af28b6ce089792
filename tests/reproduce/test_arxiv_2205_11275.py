from attunement.reproduce import arxiv_2205_11275 as paper
from attunement.reproduce.claims import Verdict


def test_the_quick_study_runs_and_its_identity_holds_at_any_size(tiny, smoke):
    first, *_ = smoke("2205.11275", paper.quick(tiny)).claims
    assert first.verdict is Verdict.HOLDS
    assert first.difference.value < 1e-12


def test_the_study_of_a_language_model_runs(shrunk, smoke):
    smoke("2205.11275", paper.on_language(shrunk(paper.EMBEDDED)))
