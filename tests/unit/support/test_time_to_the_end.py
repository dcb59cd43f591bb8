"""The judge of the time to the end: a share of what is left, and a floor for the last seconds."""

import pytest
from tests.benchmarks.time_to_the_end import Told, Verdict, verdicts

pytestmark = pytest.mark.unit

CASES = [
    (100.0, 100.0, True),
    (119.9, 100.0, True),
    (80.1, 100.0, True),
    (121.0, 100.0, False),
    (79.0, 100.0, False),
    (12.1, 10.0, False),
    (5.4, 3.5, True),
    (5.6, 3.5, False),
    (None, 3.5, False),
]


@pytest.mark.parametrize(("told", "left", "good"), CASES)
def test_an_error_is_a_fifth_of_what_is_left_or_two_seconds(
    told: float | None, left: float, good: bool
) -> None:
    assert Verdict(75, told, left).good is good


def test_a_run_is_judged_at_each_quarter_by_what_was_left_then() -> None:
    told = [Told(float(second), "quantize", second, eta=50.0) for second in range(10, 111)]
    found = verdicts(told)
    assert [(v.percent, v.told, v.left) for v in found] == [(25, 50, 75), (50, 50, 50), (75, 50, 25)]
    assert [v.good for v in found] == [False, True, False]
