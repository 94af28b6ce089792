import math
from functools import partial

import pytest

from attunement.reproduce import arxiv_2302_08215 as paper
from attunement.reproduce.claims import Figures
from attunement.reproduce.language import Tasks


def test_the_quick_study_runs(tiny, smoke):
    smoke("2302.08215", paper.quick(tiny))


@pytest.mark.slow
def test_the_study_of_a_language_model_runs(shrunk, smoke):
    tasks = Tasks({kind: shrunk(sizes) for kind, sizes in paper.EMBEDDED.items()})
    smoke("2302.08215", paper.on_language(tasks))


def figures(left):
    """One seed's figures, from the distance left by kind and row."""
    return {f"{kind}/{row}": Figures({"d": d}) for (kind, row), d in left.items()}


def test_the_best_is_picked_on_one_half_and_judged_on_the_other():
    picked = {("k", "one"): 1.0, ("k", "two"): 4.0, ("l", "one"): 3.0, ("l", "two"): 2.0}
    fresh = {("k", "one"): 9.0, ("k", "two"): 9.0, ("l", "one"): 6.0, ("l", "two"): 2.0}
    differ = partial(paper.best_against_rival, kinds=("k", "l"), rows=("one", "two"), distance="d")
    assert differ([figures(picked), figures(fresh)]) == [pytest.approx(math.log(3.0))]


def test_where_one_row_is_best_everywhere_nothing_beats_it():
    left = {("k", "one"): 1.0, ("k", "two"): 4.0, ("l", "one"): 1.0, ("l", "two"): 2.0}
    differ = partial(paper.best_against_rival, kinds=("k", "l"), rows=("one", "two"), distance="d")
    assert differ([figures(left), figures(left)]) == [0.0]
