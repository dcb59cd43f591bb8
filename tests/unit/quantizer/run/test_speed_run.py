"""Speed and memory from the request to what is published; what cannot be measured ends before anything is computed."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Request, published, run_here

from quantization_api.failures import Category
from quantization_api.manifest import MANIFEST_NAME, Manifest
from quantization_api.status import Failure
from quantizer.run import servable

pytestmark = pytest.mark.unit

ROTATION = {"type": "QuaRot", "w_gptq": False, "w_bits": 16}
"""Its result is in float, which the transformers of this environment serves."""
SPEED: list[dict[str, Any]] = [
    {"name": "size", "type": "size_on_disk"},
    {"name": "first", "type": "latency", "phase": "prefill", "prompt_tokens": 16},
    {"name": "next", "type": "latency", "prompt_tokens": 16, "new_tokens": 4},
    {"name": "rate", "type": "throughput", "prompt_tokens": 16, "new_tokens": 4},
    {"name": "memory", "type": "peak_memory", "prompt_tokens": 16, "new_tokens": 4},
]


def request(folder: Path, metrics: list[dict[str, Any]], **options: Any) -> Request:
    save_tiny_reader(folder / "model")
    values: dict[str, Any] = {"model": f"file://{folder}/model", "samples": 4, "metrics": metrics, **options}
    return Request(f"file://{folder}/out", **values)


def refused(folder: Path, metrics: list[dict[str, Any]], **options: Any) -> Failure:
    """The failure of a run that left nothing behind."""
    failure = run_here(request(folder, metrics, **options), folder / "scratch").result.failure
    assert failure is not None
    assert not published(folder / "out")
    return failure


def value(given: float | None) -> float:
    assert given is not None
    return given


@pytest.mark.nightly
def test_a_result_in_float_is_served_by_transformers_beside_the_input_model(tmp_path: Path) -> None:
    ended = run_here(request(tmp_path, SPEED, layer_pass=ROTATION), tmp_path / "scratch")
    assert ended.code == 0, ended.log
    manifest = Manifest.model_validate_json((tmp_path / "out" / MANIFEST_NAME).read_bytes())
    assert [item.name for item in manifest.metrics] == [item["name"] for item in SPEED]
    assert ended.result.metrics == manifest.metrics
    found = {item.name: item for item in manifest.metrics}
    assert found["size"].measured_with is None
    for name in ("first", "next", "rate"):
        one = found[name]
        assert value(one.input) > 0
        assert 0 < value(one.low) <= value(one.output) <= value(one.high)
        assert str(one.measured_with).startswith("transformers ")
        assert " on cpu: " in str(one.measured_with)
    assert value(found["rate"].output) == pytest.approx(1000 / value(found["next"].output), rel=0.2)
    assert value(found["memory"].output) > 50e6
    card, page = (tmp_path / "out/README.md").read_text(), (tmp_path / "out/report/report.html").read_text()
    for text in (card, page):
        assert " ms" in text
        assert " tokens/s" in text
        assert "first, next, rate, memory: measured with transformers" in text
    assert not list((tmp_path / "scratch").glob("run-*"))


def test_a_format_that_nothing_here_serves_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    failure = refused(tmp_path, SPEED)
    assert failure.category is Category.INVALID_WORKFLOW
    assert "transformers needs optimum and gptqmodel to load it" in failure.message
    assert "QUANTIZATION_TRANSFORMERS_PYTHON" in failure.hint


def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path: Path) -> None:
    long = [{"name": "next", "type": "latency", "prompt_tokens": 100_000}]
    failure = refused(tmp_path, long, layer_pass=ROTATION)
    assert failure.category is Category.INVALID_WORKFLOW
    assert "next is measured on 100,032 tokens, and the model has" in failure.message


def test_a_model_that_memory_does_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servable, "available_memory", lambda: 100_000_000)
    failure = refused(tmp_path, SPEED, layer_pass=ROTATION)
    assert failure.category is Category.HOST_OUT_OF_MEMORY
    assert "needs 1.5 GB of memory; there are 0.1 GB" in failure.message
    assert "spec.template.resources.limits.memory" in failure.hint


@pytest.mark.nightly
def test_a_goal_that_the_speed_misses_publishes_nothing(tmp_path: Path) -> None:
    goal = {"type": "threshold", "value": 1e-6}
    metrics = [{"name": "next", "type": "latency", "prompt_tokens": 8, "new_tokens": 2, "goal": goal}]
    ended = run_here(request(tmp_path, metrics, layer_pass=ROTATION), tmp_path / "scratch")
    assert ended.result.failure is not None
    assert ended.result.failure.category is Category.QUALITY_GOAL_MISSED
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()
