"""Runs the model builder of onnxruntime-genai beside this process, offline, its words into the log.

It has a process of its own because it prints, configures the root logger and asks the hub as it likes,
and because all the memory that it takes (the whole model, several times) is given back at its end.
"""

import json
import logging
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from quantization_api.failures import Category, QuantizationError
from quantizer.export.plan import BuildPlan
from quantizer.export.runtime import SILENCE

LOG = logging.getLogger(__name__)
ENVIRONMENT = {
    **SILENCE,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "TQDM_DISABLE": "1",
    "GIT_DIR": os.devnull,  # else it stamps the graph with the commit of whatever repository it lies in
}
LAYER = re.compile(r"Reading layer (\d+)")
KEPT_LINES = 40
KILLED = -9
QUOTED = 500  # characters of its last line that a failure repeats

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def run_builder(
    checkpoint: Path, target: Path, cache: Path, plan: BuildPlan, layers: int, on_progress: OnProgress
) -> int:
    """Makes the graph; returns the most bytes of memory that the builder held.

    Raises:
        QuantizationError: HostOutOfMemory when it was killed, ScratchFull when the disk was full,
            ModelUnsupported, with its last words, when it does not know the model, Internal otherwise.
    """
    request = {
        "checkpoint": str(checkpoint),
        "target": str(target),
        "cache": str(cache),
        "precision": plan.precision,
        "execution_provider": plan.execution_provider,
        "options": plan.options(),
    }
    command = [sys.executable, "-m", "quantizer.export.builder_process", json.dumps(request)]
    environment = {**os.environ, **ENVIRONMENT, "HF_HOME": str(cache)}
    last: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        assert process.stdout is not None
        ended = False
        try:
            for line in process.stdout:
                if not (said := line.strip()):
                    continue
                last.append(said)
                LOG.info("model builder: %s", said)
                if found := LAYER.search(said):
                    on_progress("onnx", int(found[1]) + 1, layers)
            ended = True
        finally:
            if not ended:
                process.kill()  # our own run ends early: nothing is left running
    if process.returncode:
        raise failure(process.returncode, list(last))
    return int(json.loads(last[-1])["peak_bytes"])


def failure(code: int, last: list[str]) -> QuantizationError:
    """The named error for a builder that ended with `code` after these last lines."""
    words = last[-1][-QUOTED:] if last else "it said nothing"
    if code == KILLED or "MemoryError" in words:
        return QuantizationError(
            Category.HOST_OUT_OF_MEMORY,
            "the model builder of onnxruntime-genai ran out of memory: it loads the whole model",
            "Raise the memory limit to about four times the size of the quantized checkpoint and its tables "
            "in fp32, or leave ModelBuilder out.",
        )
    if "No space left on device" in words:
        return QuantizationError(Category.SCRATCH_FULL, "no space was left for the ONNX graph")
    if "not currently supported" in words:
        return QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"the model builder of onnxruntime-genai says: {words}",
            "Leave ModelBuilder out, or take a model that the builder knows.",
        )
    return QuantizationError(
        Category.INTERNAL, f"the model builder of onnxruntime-genai ended with {code}: {words}"
    )
