"""Progress over all stages, the server that tells it, and the estimate of the work."""

import json
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunProgress
from quantizer.progress.metrics import RunCollector, registry_of
from quantizer.progress.server import ProgressServer
from quantizer.progress.tracker import PlannedStage, Tracker

pytestmark = pytest.mark.unit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_percent_covers_all_stages_and_only_the_end_is_100() -> None:
    clock = Clock()
    tracker = Tracker(clock)
    assert tracker.snapshot() == RunProgress(percent=0, stage="")
    with tracker.stage("check"):
        assert tracker.snapshot().stage == "check"
    tracker.plan([PlannedStage("quantize", 3.0), PlannedStage("evaluate", 1.0)])
    percents = []
    with tracker.stage("quantize"):
        for done in range(4):
            tracker.layers(done, 3)
            tracker.advance(done, 3)
            percents.append(tracker.snapshot().percent)
    with tracker.stage("evaluate"):
        percents.append(tracker.snapshot().percent)
        tracker.advance(1, 1)
        percents.append(tracker.snapshot().percent)
    assert percents == [0, 25, 50, 75, 75, 99]
    tracker.finish()
    assert tracker.snapshot() == RunProgress(percent=100, stage="done", layer=3, layers=3, eta_seconds=0)


def test_the_time_left_is_extrapolated_from_the_work_that_is_done() -> None:
    clock = Clock()
    tracker = Tracker(clock)
    with tracker.stage("check"):
        clock.now += 50  # does not count: it was not planned work
    tracker.plan([PlannedStage("quantize", 1.0), PlannedStage("evaluate", 1.0)])
    with tracker.stage("quantize"):
        clock.now += 1
        tracker.advance(1, 100)
        assert tracker.snapshot().eta_seconds is None, "too early to tell"
        clock.now += 9
        tracker.advance(1, 2)
        assert tracker.snapshot().eta_seconds == 30
        clock.now += 10
    assert tracker.snapshot().eta_seconds == 20


def test_percent_never_goes_back() -> None:
    tracker = Tracker(Clock())
    tracker.plan([PlannedStage("quantize", 1.0)])
    with tracker.stage("quantize"):
        tracker.advance(1, 2)
        assert tracker.snapshot().percent == 50
        tracker.plan([PlannedStage("quantize", 1.0), PlannedStage("evaluate", 9.0)])
        assert tracker.snapshot().percent == 50


def test_a_stage_that_fails_has_its_time_counted() -> None:
    clock = Clock()
    tracker = Tracker(clock)

    def fail() -> None:
        with tracker.stage("check"):
            clock.now += 7
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert tracker.seconds() == {"check": 7.0}


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_tells_progress_metrics_and_health() -> None:
    clock = Clock()
    tracker = Tracker(clock)
    tracker.plan([PlannedStage("quantize", 1.0)])
    tracker.layers(1, 6)
    tracker.count_bytes("read model", 1000)
    tracker.count_tokens("calibrate", 64)
    registry = registry_of(RunCollector(tracker, "job", "team", lambda: 123, lambda: 0))
    with tracker.stage("quantize"), ProgressServer("127.0.0.1", 0, tracker, registry) as server:
        clock.now += 5
        tracker.advance(1, 4)
        status, body = get(server.port, "/progress")
        assert status == 200
        assert json.loads(body) == {
            "percent": 25,
            "stage": "quantize",
            "layer": 1,
            "layers": 6,
            "etaSeconds": 15,
        }
        status, body = get(server.port, "/metrics")
        assert status == 200
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }
        assert samples["quantizer_stage_seconds_total", "quantize"] == 5
        assert samples["quantizer_bytes_total", "model", "read"] == 1000
        assert samples["quantizer_tokens_total", "calibrate"] == 64
        assert samples["quantizer_layers_done",] == 1
        assert samples["quantizer_progress_ratio",] == 0.25
        assert samples["quantizer_peak_memory_bytes",] == 123
        assert samples["quantizer_run_info", "job", "quantize", "team"] == 1
        assert get(server.port, "/healthz") == (200, "ok\n")
        assert get(server.port, "/else")[0] == 404


def test_an_address_that_is_taken_is_said() -> None:
    tracker = Tracker()
    registry = registry_of(RunCollector(tracker, "job", "team", lambda: 0, lambda: 0))
    with ProgressServer("127.0.0.1", 0, tracker, registry) as server:
        with pytest.raises(QuantizationError, match="cannot listen") as caught:
            ProgressServer("127.0.0.1", server.port, tracker, registry)
        assert caught.value.category is Category.INTERNAL
