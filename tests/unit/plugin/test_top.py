"""`top` reads what a quantizer really serves."""

import pytest
from prometheus_client import generate_latest
from tests.support.cluster_objects import running

from kubectl_quantization.top import row
from quantizer.progress.metrics import RunCollector, registry_of
from quantizer.progress.tracker import Tracker

pytestmark = pytest.mark.unit

GIB = 2**30


def pod(**limits: object) -> dict[str, object]:
    body = running()
    body["spec"]["containers"] = [{"name": "quantizer", "resources": {"limits": limits}}]
    return body


def served(gpu: int = 0) -> str:
    """The page of a run that calibrates."""
    tracker = Tracker()
    collector = RunCollector(tracker, "job", "team", lambda: 3 * GIB, lambda: gpu)
    with tracker.stage("calibrate"):
        return generate_latest(registry_of(collector)).decode()


def test_a_pod_with_a_gpu() -> None:
    shown = row(pod(**{"memory": "24Gi", "nvidia.com/gpu": "2"}), served(gpu=GIB // 2))
    assert shown[1:] == ["node-1", "calibrate", "0 s", "3.0 GiB", "24Gi", "2", "0.5 GiB"]


def test_a_pod_without_a_gpu_and_one_that_does_not_answer() -> None:
    assert row(pod(memory="2Gi"), served())[2:] == ["calibrate", "0 s", "3.0 GiB", "2Gi", "0", "-"]
    assert row(pod(), "")[2:] == ["?", "?", "?", "none", "0", "-"]
