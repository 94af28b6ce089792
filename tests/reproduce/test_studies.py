import pickle

import pytest

from attunement.reproduce.papers import PAPERS
from attunement.reproduce.studies import Scale

HERE = [paper for paper in PAPERS if paper.studies]


@pytest.mark.parametrize("paper", HERE, ids=lambda paper: paper.number)
@pytest.mark.parametrize("scale", Scale)
def test_another_process_can_be_told_what_to_run(paper, scale):
    run = paper.studies[scale]().run
    told = pickle.loads(pickle.dumps(run))
    assert told.func is run.func
    assert told.args == run.args
