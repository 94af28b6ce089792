from dataclasses import replace

from attunement.core import Estimate
from attunement.reproduce.claims import Claim, Figures, Judged, Side, Verdict
from attunement.reproduce.results import Result, judge_all, tabulate
from attunement.reproduce.studies import Scale, Study

ESTIMATE = Estimate(1.0, 0.5, 0.0, 2.0, 4, 4.0)


def result_of(*verdicts: Verdict) -> Result:
    claims = tuple(Judged("c", "q", v, Side.ABOVE, 0.5, ESTIMATE, "why") for v in verdicts)
    table = {"base": {"x": ESTIMATE}, "policy": {"x": ESTIMATE, "y": ESTIMATE}}
    return Result("1", "t", Scale.QUICK, "s.", 2.0, 4, claims, table, {}, {})


def test_one_claim_that_does_not_hold_contradicts():
    open_ = result_of(Verdict.HOLDS, Verdict.UNDECIDED)
    assert not open_.contradicted
    assert open_.tally == "1 holds, 1 undecided"
    failed = result_of(Verdict.HOLDS, Verdict.FAILS, Verdict.FAILS)
    assert failed.contradicted
    assert failed.tally == "1 holds, 2 do not hold"


def test_json_has_the_documented_keys_and_comes_back():
    found = result_of(Verdict.HOLDS)
    content = found.to_json()
    assert set(content) >= {"paper", "scale", "seconds", "claims"}
    (claim,) = content["claims"]
    assert set(claim) >= {"claim", "verdict", "smallest_effect", "difference", "decided_by"}
    assert Result.from_json(content) == found
    assert replace(found, seconds=3.0) != found


def test_the_table_has_the_means_of_what_a_condition_has():
    claim = Claim("c", "q", Side.ABOVE, 0.0, lambda _: [1.0, 2.0])
    study = Study("s", 2, ("a", "b"), lambda *_: Figures({}), (claim,), ("x", "y"), {})
    seeds = [{"a": Figures({"x": n, "z": 0.0}), "b": Figures({"y": 2 * n})} for n in (1.0, 3.0)]
    table = tabulate(study, seeds)
    assert {name: set(row) for name, row in table.items()} == {"a": {"x"}, "b": {"y"}}
    assert table["b"]["y"].value == 4.0
    assert judge_all(study, seeds)[0].difference.value == 1.5
