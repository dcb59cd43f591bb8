"""How long a store waits for a storage that is away, and whom it tells."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantization_api.failures import Category, QuantizationError
from quantizer.progress.tracker import Tracker
from quantizer.store.patience import LONGEST_PAUSE, AwayError, Patience, next_pause

pytestmark = pytest.mark.unit


class Clock:
    """Time that passes in pauses only."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waiting(clock: Clock, seconds: float = 300, **others: object) -> Patience:
    return Patience(seconds, sleep=clock.sleep, clock=clock, luck=lambda: 0.5, **others)  # type: ignore[arg-type]


def away_until(clock: Clock, end: float, retry_after: float | None = None) -> Callable[[], str]:
    def request() -> str:
        if clock.now < end:
            raise AwayError("nobody answers", retry_after=retry_after)
        return "done"

    return request


@given(
    repeats=st.integers(0, 10_000),
    waited=st.floats(0, 1000),
    budget=st.floats(0, 1000),
    retry_after=st.none() | st.floats(0, 100_000),
    luck=st.floats(0, 1),
)
def test_a_pause_is_bounded_and_the_last_try_comes_when_the_budget_ends(
    repeats: int, waited: float, budget: float, retry_after: float | None, luck: float
) -> None:
    pause = next_pause(repeats, waited, budget, retry_after, luck)
    if waited >= budget:
        assert pause is None
        return
    assert pause is not None
    left = budget - waited
    assert 0 < pause <= left
    assert pause <= max(LONGEST_PAUSE, 1.1 * (retry_after or 0))
    if retry_after is not None:
        assert pause >= min(retry_after, left)


def test_pauses_grow_and_are_spread() -> None:
    assert [next_pause(n, 0, 300, None, 1) for n in range(6)] == [0.5, 1, 2, 4, 8, 10]
    assert next_pause(3, 0, 300, None, 0) == 2


@pytest.mark.parametrize("seconds", [2, 20, 120, 299])
def test_an_outage_within_the_budget_costs_time_alone(clock: Clock, seconds: float) -> None:
    end = clock.now + seconds
    assert waiting(clock).call(away_until(clock, end)) == "done"
    assert end <= clock.now <= end + LONGEST_PAUSE


def test_an_outage_that_lasts_is_an_error_with_the_first_cause(clock: Clock) -> None:
    began = clock.now
    with pytest.raises(QuantizationError, match=r"nobody answers \(gave up after 300 s\)") as caught:
        waiting(clock).call(away_until(clock, began + 400))
    assert not isinstance(caught.value, AwayError)
    assert caught.value.category is Category.STORAGE_UNAVAILABLE
    assert clock.now - began == 300


def test_without_patience_every_call_is_tried_once(clock: Clock) -> None:
    began = clock.now
    with pytest.raises(QuantizationError):
        waiting(clock, 0).call(away_until(clock, began + 1))
    assert clock.now == began


def test_the_server_s_own_word_is_kept(clock: Clock) -> None:
    began, tries = clock.now, []

    def request() -> None:
        tries.append(clock.now - began)
        if clock.now < began + 60:
            raise AwayError("503", retry_after=45)

    waiting(clock).call(request)
    assert len(tries) == 3
    assert tries[1] >= 45


def test_other_errors_are_told_at_once(clock: Clock) -> None:
    began = clock.now

    def denied() -> None:
        raise QuantizationError(Category.ACCESS_DENIED, "no")

    with pytest.raises(QuantizationError, match="no"):
        waiting(clock).call(denied)
    assert clock.now == began


def test_the_budget_is_that_of_the_outage_and_not_of_the_call(clock: Clock) -> None:
    """A call that begins late in an outage does not begin the wait anew."""
    patience, began = waiting(clock, 100), clock.now
    with pytest.raises(QuantizationError):
        patience.call(away_until(clock, began + 1000))
    with pytest.raises(QuantizationError):
        patience.call(away_until(clock, began + 1000))
    assert clock.now == began + 100


def test_a_storage_that_answers_in_between_begins_anew(clock: Clock) -> None:
    patience, began = waiting(clock, 100), clock.now
    for end in (90, 180, 270):
        assert patience.call(away_until(clock, began + end)) == "done"
    assert clock.now >= began + 270


def test_a_call_that_is_never_answered_ends_though_others_are(clock: Clock) -> None:
    """Writes may fail where reads do not, as on a full disk."""
    patience, began = waiting(clock, 100), clock.now

    def write() -> None:
        patience.call(lambda: "read")
        raise AwayError("InternalError")

    with pytest.raises(QuantizationError, match="InternalError"):
        patience.call(write)
    assert clock.now <= began + 100


def test_a_call_is_not_charged_with_what_passed_before_the_last_answer(clock: Clock) -> None:
    patience, began = waiting(clock, 100), clock.now

    def slow() -> None:
        clock.now += 90
        patience.call(lambda: "another call is answered")
        raise AwayError("first")

    with pytest.raises(QuantizationError):
        patience.call(slow)
    late = clock.now
    assert patience.call(away_until(clock, late + 50)) == "done", f"began {began}"


def test_a_stopped_run_waits_no_longer(clock: Clock) -> None:
    class StoppedError(Exception):
        pass

    began = clock.now

    def stop_check() -> None:
        if clock.now >= began + 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        waiting(clock, stop_check=stop_check).call(away_until(clock, began + 200))
    assert clock.now <= began + 8


def test_an_outage_is_told_in_progress_and_in_the_log(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    tracker, stages = Tracker(clock), set()
    patience, end = waiting(clock, on_outage=tracker.storage_away), clock.now + 40
    request = away_until(clock, end)

    def watched() -> str:
        stages.add(tracker.snapshot().stage)
        return request()

    with tracker.stage("quantize"):
        patience.call(watched)
        assert tracker.snapshot().stage == "quantize"
    assert "quantize" in stages
    assert any(stage.startswith("quantize: storage unreachable for 3") for stage in stages)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith(
        "storage unreachable for 0 s (giving up after 300 s), retrying: nobody answers"
    )
    assert 2 < len(lines) < 6
    assert lines[-1].startswith("the storage responds again after 4")


def test_threads_that_wait_for_the_same_storage_share_the_budget_and_one_is_enough_to_end_the_outage() -> (
    None
):
    """In real time: eight readers, one outage of a moment, told once."""
    told: list[bool] = []
    up = threading.Event()
    patience = Patience(30, on_outage=told.append, luck=lambda: 0.0)

    def request() -> None:
        if not up.is_set():
            raise AwayError("away")

    threads = [threading.Thread(target=patience.call, args=(request,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    threading.Timer(0.3, up.set).start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert told[0] is True
    assert told[-1] is False
