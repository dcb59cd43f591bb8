"""Starts a server on a model in its own Python, waits for its times, and ends it whatever happens."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantization_api.failures import Category, QuantizationError
from quantizer.evaluation.serving.figures import Shape, Timing
from quantizer.evaluation.serving.software import METRICS, NAMES, Pythons

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("program.py")
REPEATS, REPEAT_SECONDS = 30, 30.0
"""Of each shape, at most; a slow model is measured at least program.FEWEST_REPEATS times."""
LIMIT_SECONDS = 3600.0
LOOK_SECONDS = 0.25
QUOTED_LINES, QUOTED = 30, 500
EXCEPTION = re.compile(r"\w*(Error|Exception): ")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",  # option -P, which Python 3.10 does not have
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its memory is that of the process that is looked at
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the threads of a container are not the first of the node
}
CACHES = ("HF_HOME", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")


INPUT, RESULT = "the input model", "the result"


class ServerFailedError(QuantizationError):
    """The server ended without having measured; this process is as it was."""

    of_result = False
    """Whether it served the result, and not the input model."""


@dataclass(frozen=True)
class Server:
    """How a model is served here."""

    software: str
    device: str
    """cpu or cuda."""
    threads: int
    """Of the processor."""
    pythons: Pythons
    scratch: Path
    """A directory of this run."""
    stop_check: Callable[[], None]
    limit_seconds: float = LIMIT_SECONDS


@dataclass(frozen=True)
class Served:
    """What was measured of a model."""

    timings: dict[Shape, Timing]
    software: str
    """With its version."""
    device: str
    """As its maker calls it."""


def serve(server: Server, model: Path, shapes: Sequence[Shape], what: str) -> Served:
    """Times of every shape.

    Args:
        model: a directory on this machine.
        what: INPUT or RESULT.

    Raises:
        ServerFailedError: HostOutOfMemory or GpuOutOfMemory; ModelUnsupported with the server's last words.
        QuantizationError: InvalidWorkflow when it took too long; and what stop_check raises.
    """
    folder = server.scratch / "serving"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        code = _run(server, model, shapes, folder, what)
        result = folder / "result.json"
        if code or not result.exists():
            failure = _failure(server, what, code, _tail(folder / "log"))
            failure.of_result = what == RESULT
            raise failure
        return _served(json.loads(result.read_text()), shapes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(server: Server, model: Path, shapes: Sequence[Shape], folder: Path, what: str) -> int:
    request = {
        "software": server.software,
        "model": str(model),
        "device": server.device,
        "threads": server.threads,
        "shapes": [[one.prompt_tokens, one.new_tokens, one.batch_size] for one in shapes],
        "repeats": REPEATS,
        "seconds": REPEAT_SECONDS,
    }
    (folder / "request.json").write_text(json.dumps(request))
    command = [server.pythons.of(server.software), str(PROGRAM)]
    environment = {
        **server.pythons.environment(server.software),
        **OFFLINE,
        **{name: str(folder / "cache") for name in CACHES},
        "OMP_NUM_THREADS": str(server.threads),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(folder / "request.json"), str(folder / "result.json")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,  # it may have children of its own, which end with it
        )
    try:
        return _wait(process, server, what)
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], server: Server, what: str) -> int:
    begun = time.monotonic()
    while True:
        try:
            return process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            server.stop_check()
        if time.monotonic() - begun > server.limit_seconds:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{NAMES[server.software]} did not finish with {what} within {server.limit_seconds:,.0f} s",
                "Lower prompt_tokens, new_tokens and batch_size, choose another software, or a faster machine.",
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and its children, unless they are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _served(result: dict[str, Any], shapes: Sequence[Shape]) -> Served:
    timings = [Timing(one["first"], one["each"], one["peak"]) for one in result["shapes"]]
    return Served(dict(zip(shapes, timings, strict=True)), result["software"], result["device"])


def _tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()][-QUOTED_LINES:]


def _failure(server: Server, what: str, code: int, last: list[str]) -> ServerFailedError:
    name = NAMES[server.software]
    for line in last:
        logger.warning("%s: %s", name, line)
    words = _error(last)
    if "CUDA out of memory" in words or "torch.OutOfMemoryError" in words:
        return ServerFailedError(
            Category.GPU_OUT_OF_MEMORY,
            f"{name} did not have the memory to serve {what}",
            f"Ask for a larger GPU, lower batch_size and prompt_tokens, or leave {METRICS} out.",
        )
    if code == -signal.SIGKILL or "MemoryError" in words or "can't allocate memory" in words:
        return ServerFailedError(
            Category.HOST_OUT_OF_MEMORY,
            f"{name} did not have the memory to serve {what}, which it loads whole",
            f"Raise spec.template.resources.limits.memory, lower batch_size and prompt_tokens, or leave {METRICS} out.",
        )
    return ServerFailedError(
        Category.MODEL_UNSUPPORTED,
        f"{name} does not serve {what} here (exit {code}): {words[-QUOTED:] or 'it said nothing'}",
        f"The lines before it are in the log. Write another software, or leave {METRICS} out.",
    )


def _error(last: Sequence[str]) -> str:
    """The line that names the error: the last one that begins with the name of an exception, or the last."""
    named = [line for line in last if EXCEPTION.search(line)]
    return named[-1] if named else (last[-1] if last else "")
