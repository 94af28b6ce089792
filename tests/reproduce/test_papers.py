import pytest
import torch

from attunement import processes
from attunement.core import AttunementError
from attunement.reproduce.cells import cell_path
from attunement.reproduce.papers import PAPERS, find_paper, reproduce
from attunement.reproduce.studies import Scale

HERE = [paper for paper in PAPERS if paper.studies]


def test_five_of_ten_papers_are_there_at_every_scale():
    assert len(PAPERS) == len({paper.number for paper in PAPERS}) == 10
    assert [set(paper.studies) for paper in HERE] == [set(Scale)] * 5


@pytest.mark.parametrize("paper", HERE, ids=lambda paper: paper.number)
@pytest.mark.parametrize("scale", Scale)
def test_every_claim_is_written_before_it_is_run(paper, scale):
    study = paper.studies[scale]()
    assert study.seeds >= 3
    assert len({claim.sentence for claim in study.claims}) == len(study.claims)
    for claim in study.claims:
        assert claim.quantity


@pytest.mark.parametrize("paper", HERE, ids=lambda paper: paper.number)
@pytest.mark.parametrize("scale", Scale)
def test_no_two_cells_share_a_file(paper, scale, tmp_path):
    study = paper.studies[scale]()
    files = {cell_path(tmp_path, condition, 0) for condition in study.conditions}
    assert len(files) == len(study.conditions)


def test_what_can_not_be_run_says_so():
    with pytest.raises(AttunementError, match="can't be run yet"):
        find_paper("2302.08582").study(Scale.QUICK)
    with pytest.raises(AttunementError, match="none of the papers"):
        find_paper("1234.56789")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_papers_scale_needs_a_gpu():
    with pytest.raises(AttunementError, match="needs a GPU"):
        find_paper("2106.04985").study(Scale.PAPER)


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(AttunementError, match="in one process"):
        reproduce(HERE[0], Scale.QUICK, tmp_path / "run", seed=0, on_cell=print)


@pytest.mark.slow
@pytest.mark.parametrize("paper", HERE, ids=lambda paper: paper.number)
def test_the_quick_scale_is_quick_and_judges_every_claim(paper, tmp_path):
    """At most 120 seconds a paper, measured and reported; here only that it ends."""
    result = reproduce(paper, Scale.QUICK, tmp_path / "run", seed=0, on_cell=print)
    assert len(result.claims) >= 4
