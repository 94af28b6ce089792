import re

from attunement.core import Estimate
from attunement.reproduce.claims import Judged, Side, Verdict
from attunement.reproduce.page import render, write_page
from attunement.reproduce.results import Result
from attunement.reproduce.studies import Scale


def result() -> Result:
    estimate = Estimate(1.25, 0.5, 0.0, 2.0, 4, 4.0)
    claims = tuple(
        Judged(f"<{v.value}>", "q", v, Side.ABOVE, 0.5, estimate, "why", {"run x": estimate})
        for v in Verdict
    )
    table = {"base": {"x": estimate}, "policy": {"y": estimate}}
    return Result("2106.04985", "T & U", Scale.QUICK, "s.", 2.0, 4, claims, table, {}, {})


def test_the_page_has_every_claim_and_needs_nothing_else(tmp_path):
    write_page(result(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == render(result())
    for verdict in Verdict:
        assert f"&lt;{verdict.value}&gt;" in text
    assert "T &amp; U" in text
    assert text.count("1.250 [0.000, 2.000]") == 11
    assert not re.search(r"(src|href)=", text)
    assert "--paper" in text
