import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attunement.core import Estimate
from attunement.reproduce.claims import Judged, Side, Verdict
from attunement.reproduce.drawing import WIDTH, as_file, draw_claims

NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}
numbers = st.floats(-1e6, 1e6)


def judged(
    estimate: Estimate,
    side: Side = Side.ABOVE,
    effect: float = 0.1,
    verdict: Verdict = Verdict.HOLDS,
    sentence: str = "It rises",
) -> Judged:
    return Judged(sentence, "difference", verdict, side, effect, estimate, "three seeds")


def between(low: float, value: float, high: float) -> Estimate:
    return Estimate(value, 1.0, low, high, 3, 3.0)


def parse(*claims: Judged) -> ElementTree.Element:
    return ElementTree.fromstring(as_file(claims))


def span(element: ElementTree.Element | None) -> tuple[float, float]:
    assert element is not None
    if element.tag.endswith("rect"):
        start = float(element.attrib["x"])
        return start, start + float(element.attrib["width"])
    return float(element.attrib["x1"]), float(element.attrib["x2"])


@given(ends=st.tuples(numbers, numbers, numbers).map(sorted), effect=numbers)
@pytest.mark.parametrize("side", [Side.ABOVE, Side.BELOW])
def test_an_interval_lies_on_the_claimed_side_where_the_numbers_do(side, ends, effect):
    root = parse(judged(between(*ends), side, effect))
    start, end = span(root.find("svg:rect", NAMESPACE))
    low, high = span(root.find("svg:line[@class='yes']", NAMESPACE))
    assert 0 <= start <= end <= WIDTH
    assert 0 <= low <= high <= WIDTH
    rounding = 0.2
    inside = start - rounding <= low and high <= end + rounding
    on_side = ends[0] >= effect if side is Side.ABOVE else ends[2] <= effect
    assert inside or not on_side


def test_within_shades_both_sides_of_zero():
    root = parse(judged(between(-0.5, 0.0, 0.5), Side.WITHIN, 0.1))
    start, end = span(root.find("svg:rect", NAMESPACE))
    (zero,) = {span(line)[0] for line in root.findall("svg:line[@class='axis']", NAMESPACE)}
    assert zero - start == pytest.approx(end - zero, abs=0.2)
    assert len(root.findall("svg:line[@class='bound']", NAMESPACE)) == 2


def test_the_verdict_is_in_words_and_in_the_colour():
    marks = {Verdict.HOLDS: "yes", Verdict.FAILS: "no", Verdict.UNDECIDED: "open"}
    for verdict, mark in marks.items():
        root = parse(judged(between(0.2, 0.3, 0.4), verdict=verdict))
        assert root.find(f"svg:circle[@class='{mark}']", NAMESPACE) is not None
        assert f"It rises: {verdict.value}" in "".join(root.itertext())


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(1e-16, None, 1e-16, 1e-16, 8, 8.0),
        Estimate(math.nan, None, -math.inf, math.inf, 3, 3.0),
    ],
)
def test_what_has_no_interval_has_no_scale(estimate):
    root = parse(judged(estimate))
    assert root.find("svg:rect", NAMESPACE) is None
    assert "difference" in "".join(root.itertext())


def test_text_is_escaped():
    sentence = '<script>alert("x")</script> & more'
    root = parse(judged(between(0, 1, 2), sentence=sentence))
    assert sentence in "".join(root.itertext())
    assert "<script>" not in draw_claims([judged(between(0, 1, 2), sentence=sentence)])


def test_rows_lie_below_each_other():
    root = parse(*[judged(between(0, 1, 2)) for _ in range(3)])
    tops = [float(c.attrib["cy"]) for c in root.findall("svg:circle", NAMESPACE)]
    assert tops == sorted(set(tops))
    assert max(tops) < float(root.attrib["viewBox"].split()[3])
