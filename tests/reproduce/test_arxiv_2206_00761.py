import pytest

from attunement.reproduce import arxiv_2206_00761 as paper
from attunement.reproduce.claims import Verdict


def test_the_quick_study_runs_and_its_identities_hold_at_any_size(tiny, smoke):
    result = smoke("2206.00761", paper.quick(tiny))
    for claim in result.claims[:3]:
        assert claim.verdict is Verdict.HOLDS
        assert claim.difference.value < 1e-12


@pytest.mark.slow
def test_the_study_of_a_language_model_runs(shrunk, smoke):
    smoke("2206.00761", paper.on_language(shrunk(paper.EMBEDDED)))
