"""Time for a kind of request: a share of all time, and never more at once than was saved."""

from contextlib import ExitStack

import pytest

from quantization_operator.time_budget import TimeBudget

pytestmark = pytest.mark.unit


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.time = 50.0

    def __call__(self) -> float:
        return self.time


def test_quick_requests_never_use_it_up() -> None:
    clock = Clock()
    budget = TimeBudget(clock, share=0.05, most=2.0)
    for _ in range(1000):
        assert budget.left
        with budget:
            clock.time += 0.01
        clock.time += 0.2


def test_slow_requests_get_their_share_of_the_time() -> None:
    clock = Clock()
    budget = TimeBudget(clock, share=0.05, most=2.0)
    spent = 0.0
    while clock.time < 1050:
        if budget.left:
            with budget:
                clock.time += 1.0
            spent += 1.0
        clock.time += 0.1
    assert spent == pytest.approx(0.05 * 1000, abs=4)


def test_requests_side_by_side_count_each_and_are_few() -> None:
    clock = Clock()
    budget = TimeBudget(clock, share=0.0, most=2.0)
    with ExitStack() as running:
        for _ in range(4):
            assert budget.left
            running.enter_context(budget)
        assert not budget.left, "a fifth"
        clock.time += 0.4
    assert budget.left
    with budget, budget:
        clock.time += 0.3
    clock.time += 1000
    assert not budget.left, "4 x 0.4 and 2 x 0.3 seconds are more than 2"


def test_a_request_that_fails_has_ended_too() -> None:
    clock = Clock()
    budget = TimeBudget(clock, share=0.05, most=2.0)
    with pytest.raises(ValueError, match="refused"), budget:
        raise ValueError("refused")
    clock.time += 1000
    assert budget.left


def test_a_large_debt_is_forgiven_in_part() -> None:
    clock = Clock()
    budget = TimeBudget(clock, share=0.05, most=2.0)
    with budget:
        clock.time += 600
    clock.time += 119
    assert not budget.left
    clock.time += 2
    assert budget.left


def test_no_more_is_saved_than_the_most() -> None:
    clock = Clock()
    budget = TimeBudget(clock, share=0.5, most=2.0)
    clock.time += 1000
    with budget:
        clock.time += 3.9
    assert budget.left, "half of it comes back meanwhile"
    with budget:
        clock.time += 0.2
    assert not budget.left
