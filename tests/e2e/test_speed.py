"""Speed and memory in what serves each format: vLLM, onnxruntime-genai, and transformers with its packages."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.choice import mostly_nightly
from tests.support.quantizer_requests import Request, run_here
from tests.support.reference import interpreter_from

pytestmark = pytest.mark.e2e

SHAPE = {"prompt_tokens": 32, "new_tokens": 8}
METRICS: list[dict[str, Any]] = [
    {"name": "first", "type": "latency", "phase": "prefill", "prompt_tokens": 32},
    {"name": "rate", "type": "throughput", "batch_size": 2, **SHAPE},
    {"name": "memory", "type": "peak_memory", **SHAPE},
]
SYMMETRIC = {"sym": True}
PACKED = {"sym": True, "checkpoint_format": "compressed-tensors"}
AWQ = {"type": "AutoAWQQuantizer", "data_config": "calibration", "w_bit": 4, "q_group_size": 32}
BUILDER = {"type": "ModelBuilder", "precision": "int4"}
VLLM, TRANSFORMERS = "QUANTIZATION_VLLM_PYTHON", "QUANTIZATION_TRANSFORMERS_PYTHON"
CASES: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "compressed-tensors in vLLM": ({"pass_options": PACKED}, {VLLM: VLLM}, "vLLM "),
    "gptq as an ONNX graph": (
        {"pass_options": SYMMETRIC, "last": BUILDER},
        {},
        "onnxruntime-genai ",
    ),
    "gptq in transformers": (
        {"pass_options": SYMMETRIC},
        {TRANSFORMERS: "QUANTIZATION_READER_PYTHON"},
        "transformers ",
    ),
    "awq in transformers": (
        {"layer_pass": AWQ},
        {TRANSFORMERS: "QUANTIZATION_READER_PYTHON"},
        "transformers ",
    ),
    "compressed-tensors in transformers": (
        {"pass_options": PACKED},
        {TRANSFORMERS: "QUANTIZATION_READER_PYTHON"},
        "transformers ",
    ),
}

EVERY_TIME = ("gptq in transformers",)


@pytest.mark.parametrize("name", mostly_nightly(CASES, EVERY_TIME))
def test_the_software_that_serves_a_format_tells_how_fast_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, pythons, software = CASES[name]
    interpreters = {variable: interpreter_from(where) for variable, where in pythons.items()}
    for variable in (VLLM, TRANSFORMERS):
        monkeypatch.delenv(variable, raising=False)
    request = Request(f"file://{tmp_path}/out", metrics=METRICS, samples=4, **options)
    ended = run_here(request, tmp_path / "scratch", **interpreters)
    assert ended.code == 0, ended.log
    for metric in ended.result.metrics:
        assert str(metric.measured_with).startswith(software)
        assert metric.input is not None
        assert metric.output is not None
        assert min(metric.input, metric.output) > 0
    graph = "last" in options
    assert ("; the input model in transformers" in str(ended.result.metrics[0].measured_with)) is graph
