"""A long run speaks: each stage, each layer with its time, error, percent and time left, and when it goes on."""

import pytest

from quantization_api.manifest import LinearReport
from quantizer.progress.lines import Errors, duration
from quantizer.progress.tracker import SILENT_SECONDS, PlannedStage, Tracker

pytestmark = pytest.mark.unit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_run() -> tuple[Tracker, Clock, list[str]]:
    clock, said = Clock(), list[str]()
    tracker = Tracker(clock, lambda line: said.append(line.text))
    tracker.plan([PlannedStage("quantize", 3.0), PlannedStage("evaluate", 1.0)])
    tracker.layers(0, 4)
    return tracker, clock, said


def linear(error: float, rtn: float) -> LinearReport:
    return LinearReport(name="x", shape=(1, 1), error=error, error_rtn=rtn)


def test_a_line_for_each_layer_has_time_error_percent_and_time_left() -> None:
    tracker, clock, said = a_run()
    with tracker.stage("quantize"):
        for layer in (1, 2):
            clock.now += 20
            tracker.layers(layer, 4)
            tracker.advance(layer, 4)
            tracker.layer_done(Errors.of([linear(0.01, 0.02), linear(0.03, 0.06)]))
    assert said == [
        "quantize: begins",
        "quantize: layer 1 of 4 in 20 s, mean error 2.00e-02 (RTN 4.00e-02); 18 % of the run, about 1 min 27 s left",
        "quantize: layer 2 of 4 in 20 s, mean error 2.00e-02 (RTN 4.00e-02); 37 % of the run, about 1 min 7 s left",
    ]


def test_a_stage_without_layers_says_how_far_it_is_now_and_then() -> None:
    tracker, clock, said = a_run()
    with tracker.stage("evaluate"):
        for step in range(1, 9):
            clock.now += SILENT_SECONDS / 4
            tracker.advance(step, 10)
    assert [line.partition(";")[0].partition(":")[0] for line in said] == ["evaluate"] * 3
    assert "% of the run" in said[1]


def test_a_run_that_goes_on_says_what_it_takes_over() -> None:
    tracker, _, said = a_run()
    tracker.keep(3)
    tracker.going_on()
    assert said == ["3 of 4 layers were finished by an earlier run; going on after them"]


def test_a_layer_without_rounded_linears_has_no_error() -> None:
    assert Errors.of([]) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_a_time_is_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
