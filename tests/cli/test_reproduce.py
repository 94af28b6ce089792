import json

import pytest

from attunement.reproduce import papers
from attunement.reproduce.claims import Claim, Figures, Side
from attunement.reproduce.papers import Paper
from attunement.reproduce.studies import Scale, Study


def one(condition: str, _: int) -> Figures:
    return Figures({"x": float(condition == "a")})


@pytest.fixture
def stub(monkeypatch):
    """Two papers of no work: a claim that holds, and one that doesn't."""

    def study(effect):
        claim = Claim("c", "q", Side.ABOVE, effect, lambda _: [1.0, 1.0])
        return lambda: Study("s.", 2, ("a",), one, (claim,), ("x",), {})

    table = tuple(Paper(n, n, {Scale.QUICK: study(e)}) for n, e in (("1.1", 0.5), ("1.2", 2.0)))
    monkeypatch.setattr(papers, "PAPERS", table)


def test_all_papers_are_listed(attune):
    done = attune("reproduce")
    assert done.returncode == 0
    assert "2302.08215  quick, embedded, paper" in done.stdout
    assert "2201.06900  not yet" in done.stdout
    assert len(json.loads(attune("reproduce", "--json").stdout)) == 10


@pytest.mark.usefixtures("stub")
def test_the_status_says_whether_a_claim_is_contradicted(attune, tmp_path):
    held = attune("reproduce", "1.1", "--output-dir", str(tmp_path / "one"), "--jobs", "1")
    assert held.returncode == 0, held.stderr
    assert "HOLDS: c." in held.stdout
    assert (tmp_path / "one" / "report.html").is_file()
    failed = attune(
        "reproduce", "1.2", "--json", "--jobs", "1", "--output-dir", str(tmp_path / "two")
    )
    assert failed.returncode == 3
    printed = json.loads(failed.stdout)
    assert printed["claims"][0]["verdict"] == "does not hold"
    assert set(printed) >= {"paper", "scale", "seconds", "claims", "report"}
    assert printed["claims"][0]["difference"]["value"] == 1.0


def test_what_can_not_be_run_is_one_sentence(attune, tmp_path):
    assert attune("reproduce", "1").returncode == 2
    assert "there is no scale" in attune("reproduce", "2302.08215", "--scale", "big").stderr
    later = attune("reproduce", "2303.16749", "--output-dir", str(tmp_path / "x"))
    assert later.returncode == 1
    assert "can't be run yet" in later.stderr
    assert not (tmp_path / "x").exists()
