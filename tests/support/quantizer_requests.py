"""Requests that tests give to the quantizer, and how they run it as a pod does."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support.s3 import S3Server

from quantization_api.constants import REQUEST_ENV
from quantization_api.manifest import LOGS_PREFIX, STATE_PREFIX
from quantization_api.pod import RunResult
from quantizer.cli import parser

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "deploy/examples/stories15m"
TEXT = ROOT / "deploy/examples/text"
PROCESS_SECONDS = 300


@dataclass
class Request:
    """A small request on the example model; what a test is about is given by name.

    pass_options: of GPTQ. layer_pass: another pass, whole. first, last: the passes before and behind it.
    patience: with a storage that is away, in seconds. passes: all of them, whole. search: the search_strategy.
    trials: where its points are kept. length: of a sequence, in tokens.
    """

    output: str
    model: str = f"file://{MODEL}"
    calibration: str = f"file://{TEXT}/tinystories-calibration.txt"
    validation: str = f"file://{TEXT}/tinystories-validation.txt"
    endpoint: str | None = None
    reuse: str = "Allowed"
    uid: str = "5d3a"
    pass_options: dict[str, Any] = field(default_factory=dict)
    layer_pass: dict[str, Any] | None = None
    first: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] | None = None
    samples: int = 8
    length: int = 64
    patience: int | None = None
    passes: list[dict[str, Any]] | None = None
    search: dict[str, Any] | None = None
    trials: str | None = None

    def document(self) -> dict[str, Any]:
        """The request as the operator writes it."""
        metrics = self.metrics
        if metrics is None:
            metrics = [
                {"name": "perplexity", "type": "perplexity", "data_config": "held_out"},
                {"name": "kl_divergence", "type": "kl_divergence", "data_config": "held_out"},
                {"name": "size", "type": "size_on_disk"},
            ]
        gptq = {
            "type": "GptqQuantizer",
            "data_config": "calibration",
            "group_size": 32,
            **self.pass_options,
        }
        workflow: dict[str, Any] = {
            "input_model": {"type": "HfModel", "model_path": self.model},
            "data_configs": [
                _data("calibration", self.calibration, self.length, self.samples),
                _data("held_out", self.validation, self.length, 4),
            ],
            "passes": self.passes
            or [item for item in (self.first, self.layer_pass or gptq, self.last) if item],
        }
        if self.search is not None:
            workflow["search_strategy"] = self.search
        if metrics:
            workflow |= {"evaluators": [{"name": "quality", "metrics": metrics}], "evaluator": "quality"}
        return {
            "name": "job",
            "namespace": "default",
            "uid": self.uid,
            "workflow": workflow,
            "output": {"uri": self.output, **({"trialsUri": self.trials} if self.trials else {})},
            "storage": self._storage(),
            "reuse": self.reuse,
        }

    def _storage(self) -> dict[str, Any]:
        storage: dict[str, Any] = {"endpoint": self.endpoint, "region": "us-east-1"} if self.endpoint else {}
        return storage if self.patience is None else {**storage, "patienceSeconds": self.patience}


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, termination message, log."""

    code: int
    result: RunResult
    log: str


def environment(request: Request, message: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a pod, with the progress server on a free port of loopback."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("AWS_") and key != "PYTHONDONTWRITEBYTECODE"  # torch takes seconds to compile
    }
    return {
        **kept,
        REQUEST_ENV: json.dumps(request.document()),
        "QUANTIZATION_TERMINATION_LOG": str(message),
        "QUANTIZATION_LISTEN": "127.0.0.1:0",
        "AWS_EC2_METADATA_DISABLED": "true",
        **extra,
    }


def start(request: Request, scratch: Path, extra: Mapping[str, str]) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    scratch.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "quantizer", "run", "--device", "cpu", "--scratch", str(scratch)],
        env=environment(request, scratch / "termination.json", extra),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )


def end(process: subprocess.Popen[str], scratch: Path) -> Ended:
    """Waits for a run that `start` started."""
    _, log = process.communicate(timeout=PROCESS_SECONDS)
    message = scratch / "termination.json"
    text = message.read_text() if message.exists() else "{}"
    return Ended(process.returncode, RunResult.model_validate_json(text), log)


def run_here(request: Request, scratch: Path, s3: S3Server | None = None, **extra: str) -> Ended:
    """Runs a request in this process, which has torch loaded; as good where the process is not the point."""
    scratch.mkdir(parents=True, exist_ok=True)
    message = scratch / "termination.json"
    variables = environment(request, message, {**(s3.environment() if s3 else {}), **extra})
    log = io.StringIO()
    with mock.patch.dict(os.environ, variables, clear=True), contextlib.redirect_stderr(log):
        code = parser.main(["run", "--device", "cpu", "--scratch", str(scratch)])
    return Ended(code, RunResult.model_validate_json(message.read_text()), log.getvalue())


def run(request: Request, scratch: Path, s3: S3Server | None = None, **extra: str) -> Ended:
    """Runs a request to its end."""
    variables = {**(s3.environment() if s3 else {}), **extra}
    return end(start(request, scratch, variables), scratch)


def _data(name: str, uri: str, length: int, samples: int) -> dict[str, Any]:
    return {
        "name": name,
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": uri},
        "pre_process_data_config": {"max_seq_len": length, "max_samples": samples},
    }


def published(output: Path) -> list[Path]:
    """Files of an output, but for those of a restart and the logs of pods, which are no part of an artifact."""
    found = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
    return [path for path in found if f"{path.parts[0]}/" not in (STATE_PREFIX, LOGS_PREFIX)]
