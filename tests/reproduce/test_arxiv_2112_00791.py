import pytest

from attunement.reproduce import arxiv_2112_00791 as paper
from attunement.reproduce.language import Tasks


def test_the_quick_study_runs(tiny, smoke):
    smoke("2112.00791", paper.quick(tiny))


def test_every_task_says_what_its_completions_do():
    for tasks in (paper.EMBEDDED, paper.PAPER):
        study = paper.on_language(tasks)
        assert study.needs_gpu is (tasks is paper.PAPER)
        assert len(study.claims) == 4 * len(tasks)
        assert study.conditions == tuple(f"{n}/{w}" for n in tasks for w in paper.WAYS)


@pytest.mark.slow
def test_the_study_of_a_language_model_runs(shrunk, smoke):
    tasks = Tasks({name: shrunk(sizes) for name, sizes in paper.EMBEDDED.items()})
    smoke("2112.00791", paper.on_language(tasks))
