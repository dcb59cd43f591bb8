"""The arithmetic of the scale report."""

import math

import pytest
from tests.scale.measures import at_least, at_most, growth, latency, percentile, rate, slices

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_seen(share: float, wanted: float) -> None:
    assert percentile(range(100, 0, -1), share) == wanted


def test_what_never_came_is_counted_and_not_averaged_away() -> None:
    seen = latency({"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 1.5, "c": 2.1, "stranger": 9.0})
    assert (seen.count, seen.missing) == (2, 1)
    assert seen.p99 == pytest.approx(0.5)


def test_a_rate_is_of_the_gaps() -> None:
    assert rate([3.0, 1.0, 2.0]) == 1.0
    assert math.isnan(rate([1.0]))


def test_a_run_is_cut_into_what_began_and_what_ended_in_each_part() -> None:
    sent = {"a": 10.0, "b": 14.0, "c": 16.0}
    made = {"a": 10.5, "b": 17.0}
    ended = {"a": 14.9, "b": 18.0}
    first, second = slices(sent, made, ended, {"a": 15.9}, [(15.0, {"x": 0.5}), (20.0, {"x": 1.0})])
    assert (first.begins, second.begins) == (0.0, 5.0)
    assert (first.to_job.count, first.to_job.p50, first.to_job.p99) == (2, 0.5, 3.0)
    assert (second.to_job.count, second.to_job.missing) == (0, 1), "c never got its Job"
    assert (first.to_status.count, first.to_status.p99) == (1, pytest.approx(1.0))
    assert (second.to_status.count, second.to_status.missing) == (0, 1), "b's end was never told"
    assert (first.waiting, second.waiting) == (1, 1)
    assert (first.cpu, second.cpu) == ({"x": 0.5}, {"x": 1.0})


def test_growth_tells_a_leak_from_a_warm_up() -> None:
    flat = [(float(n), n, 100.0 if n < 25 else 150.0) for n in range(100)]
    leaking = [(float(n), n, 100.0 + n) for n in range(100)]
    assert growth(flat) == 0.0
    assert growth(leaking) == pytest.approx(50.0, abs=1)


def test_a_figure_that_was_not_measured_is_not_met() -> None:
    assert at_most("x", math.nan, 1, "s").met is False
    assert at_least("x", math.nan, 1, "s").met is False
    assert at_most("x", 1.0, 1, "s").met is True
