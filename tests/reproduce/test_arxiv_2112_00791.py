import pytest

from attunement.reproduce import arxiv_2112_00791 as paper


def test_the_quick_study_runs(tiny, smoke):
    smoke("2112.00791", paper.quick(tiny))


@pytest.mark.slow
def test_the_study_of_a_language_model_runs(shrunk, smoke):
    smoke("2112.00791", paper.on_language(shrunk(paper.EMBEDDED)))
