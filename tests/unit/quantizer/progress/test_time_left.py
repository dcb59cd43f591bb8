"""The time to the end follows what stages really take, not what was planned."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.engine import random_batches, save_tiny

from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.progress.time_left import Current, Finished, seconds_left
from quantizer.progress.tracker import PlannedStage, Tracker
from quantizer.progress.workload import PUBLISH_SECONDS, plan

pytestmark = pytest.mark.unit

CASES: dict[str, tuple[list[Finished], Current | None, float, float | None]] = {
    "nothing has moved": ([], Current(3, 0, 0, 5), 1, None),
    "nothing has begun": ([], None, 1, None),
    "a quarter of the only stage": ([], Current(1, 0.25, 10, 10), 0, 30),
    "between two advances time runs down": ([], Current(1, 0.25, 10, 18), 0, 22),
    "it never runs below nothing": ([], Current(1, 0.5, 10, 25), 0, 0),
    "a stage to come is judged by the speed so far": ([], Current(1, 0.5, 10, 10), 2, 10 + 40),
    "between two stages": ([Finished(1, 20)], None, 2, 40),
    "a stage that has not moved takes what was planned": ([Finished(1, 20)], Current(2, 0, 0, 4), 0, 36),
    "a stage that is slower than planned is believed": ([Finished(1, 10)], Current(1, 0.5, 40, 40), 0, 38.0),
    "and so are stages after it": ([Finished(1, 10)], Current(1, 0.97, 97, 97), 1, 57.9),
    "a stage without planned work": ([Finished(0, 9)], None, 0, None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_time_left(name: str) -> None:
    finished, current, to_come, expected = CASES[name]
    found = seconds_left(finished, current, to_come)
    assert found == (None if expected is None else pytest.approx(expected, abs=0.1))


def test_seconds_beside_the_work_count_before_and_in_their_stage() -> None:
    assert seconds_left([Finished(1, 20)], None, to_come=1, fixed=3) == 23
    assert seconds_left([Finished(1, 20)], Current(1, 0, 0, 4, fixed=3), to_come=0) == 19


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=4), st.floats(0.1, 50))
def test_of_a_run_as_planned_every_second_is_right(weights: list[float], speed: float) -> None:
    for number, weight in enumerate(weights):
        before = [Finished(done, done * speed) for done in weights[:number]]
        seconds = weight * speed
        found = seconds_left(
            before, Current(weight, 0.5, seconds / 2, seconds / 2), sum(weights[number + 1 :])
        )
        assert found == pytest.approx(seconds / 2 + speed * sum(weights[number + 1 :]))


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("evaluation_slower", [0.5, 1.0, 2.0, 4.0])
def test_the_error_is_within_a_fifth_when_the_later_stage_has_begun(evaluation_slower: float) -> None:
    """A run of 6 layers; its evaluation is planned as twice the layers and takes another time."""
    clock = Clock()
    tracker = Tracker(clock)
    tracker.plan([PlannedStage("quantize", 1.0), PlannedStage("evaluate", 2.0)])
    end = clock.now + 12 + 24 * evaluation_slower
    with tracker.stage("quantize"):
        for layer in range(6):
            clock.now += 2
            tracker.advance(layer + 1, 6)
    with tracker.stage("evaluate"):
        for step in range(24):
            clock.now += evaluation_slower
            tracker.advance(step + 1, 24)
            told, left = tracker.snapshot().eta_seconds, end - clock.now
            if step >= 6 and left > 3:
                assert told is not None
                assert abs(told - left) <= 0.2 * left + 0.5


@pytest.mark.parametrize("seconds_for_all", [20.0, 3 * 3600.0])
def test_the_last_quarter_is_right_after_a_short_run_and_a_long_one(
    seconds_for_all: float, tmp_path: Path
) -> None:
    """Publishing takes its seconds, however long the run was."""
    save_tiny(tmp_path)
    source = DirectorySource(tmp_path)
    stages = plan(DecoderLayout.open(source), random_batches(), {}, [])
    unit = seconds_for_all / sum(stage.weight for stage in stages)
    clock = Clock()
    tracker = Tracker(clock)
    tracker.plan(stages)
    end = clock.now + seconds_for_all + PUBLISH_SECONDS
    quarter = end - (seconds_for_all + PUBLISH_SECONDS) / 4
    for stage in stages[:-1]:
        with tracker.stage(stage.name):
            for step in range(100):
                clock.now += stage.weight * unit / 100
                tracker.advance(step + 1, 100)
                told, left = tracker.snapshot().eta_seconds, end - clock.now
                if clock.now >= quarter:
                    assert told == pytest.approx(left, rel=0.01, abs=0.6)
    with tracker.stage("publish"):
        assert tracker.snapshot().eta_seconds == PUBLISH_SECONDS


def test_choosing_bits_is_work_too(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    layout = DecoderLayout.open(DirectorySource(tmp_path))
    (alike, *_), (chosen, *_) = (
        plan(layout, random_batches(), {}, [], chooses=which) for which in (False, True)
    )
    assert chosen.weight > 1.5 * alike.weight
