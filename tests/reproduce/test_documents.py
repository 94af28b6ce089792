from pathlib import Path

from attunement.reproduce.documents import filled, picture_of, write_documents
from attunement.reproduce.drawing import as_file
from attunement.reproduce.papers import PAPERS
from attunement.reproduce.results import Result
from attunement.reproduce.studies import Scale
from attunement.runs import read_json

PAGES = Path(__file__).parents[2] / "docs" / "papers"


def test_the_pages_say_what_the_results_say():
    """After a new result: `make papers`."""
    for page in PAGES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert filled(text, PAGES / "results") == text, page.name


def test_the_pictures_show_what_the_results_say():
    for path in (PAGES / "results").glob("*.json"):
        result = Result.from_json(read_json(path))
        picture = PAGES / "figures" / picture_of(result)
        assert picture.read_text(encoding="utf-8") == as_file(result.claims), picture.name


def test_every_paper_that_can_be_run_has_a_page_with_its_scales():
    for paper in PAPERS:
        page = PAGES / f"{paper.number}.md"
        assert page.is_file() == bool(paper.studies)
        for scale in (Scale.QUICK, Scale.EMBEDDED) if paper.studies else ():
            assert f"<!-- result: {paper.number} {scale.value} -->" in page.read_text("utf-8")


def test_every_result_is_of_the_study_as_it_stands():
    studies = {paper.number: paper.studies for paper in PAPERS}
    found = [Result.from_json(read_json(path)) for path in (PAGES / "results").glob("*.json")]
    for result in found:
        study = studies[result.paper][result.scale]()
        assert [claim.claim for claim in result.claims] == [c.sentence for c in study.claims]
        assert result.seeds == study.seeds
    assert {r.paper for r in found if r.scale is Scale.QUICK} == {p.number for p in PAPERS[:5]}


def test_without_a_result_the_page_says_so(tmp_path):
    (tmp_path / "page.md").write_text(
        "# A\n<!-- result: 1 embedded -->\nold\n<!-- end of result -->\nend\n", encoding="utf-8"
    )
    write_documents(tmp_path)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "has not been run yet" in text
    assert "old" not in text
    assert text.endswith("end\n")
    assert filled(text, tmp_path) == text
