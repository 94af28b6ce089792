import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.core import Estimate

numbers = st.floats() | st.integers(-5, 5).map(float)


@given(
    value=numbers,
    stderr=st.none() | st.floats(0),
    low=numbers,
    high=numbers,
    n=st.integers(0, 10**9),
    ess=st.floats(0, 1e9),
    khat=st.none() | st.floats(-1, 5),
)
@settings(deadline=None)
def test_estimates_are_strict_json_and_come_back(
    value: float, stderr: float | None, low: float, high: float, n: int, ess: float,
    khat: float | None,
):  # fmt: skip
    estimate = Estimate(value, stderr, low, high, n, ess, khat)
    text = json.dumps(estimate.to_json(), allow_nan=False)
    again = Estimate.from_json(json.loads(text))
    assert set(json.loads(text)) == {"value", "stderr", "low", "high", "n", "ess", "khat"}
    for name in ("value", "stderr", "low", "high", "n", "ess", "khat"):
        before, after = getattr(estimate, name), getattr(again, name)
        if isinstance(before, float) and math.isnan(before):
            assert math.isnan(after)
        else:
            assert after == before


def test_infinite_estimate_in_json():
    row = Estimate(math.inf, None, -math.inf, math.inf, 10, 10.0).to_json()
    assert (row["value"], row["low"], row["stderr"]) == ("inf", "-inf", None)


def test_estimate_reads_as_a_number_with_its_interval():
    assert str(Estimate(0.5, 0.1, 0.3, 0.7, 10, 10.0)) == "0.500 [0.300, 0.700]"
