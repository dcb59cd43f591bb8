"""What every runner is told and what it tells: imported by the interpreter of each engine, so standard library
and torch only.

    python run_ENGINE.py REQUEST.json     prints its result as the last line of its output, in JSON

REQUEST.json: model (directory), tokens (file of torch: int64 [sequences, length]), output (directory), method (gptq
or awq), bits, group_size, sym, damp_percent, true_sequential, threads, device (cpu or cuda), dtype (name of torch's),
batch_tokens (tokens of a forward pass), calibration_dtype and refine (of native's GPTQ).

The result: seconds by stage (load, quantize, save; `quantize` is from the model in memory to the packed model in
memory), cpu_seconds by stage (of all threads: what other processes take does not count), device_bytes (peak on the
GPU), version (of the engine); and files in the output directory.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


class Clock:
    """Seconds by stage, the device's work included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what runs inside."""
        started, cpu_started = time.perf_counter(), time.process_time()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] = time.perf_counter() - started
        self.cpu_seconds[name] = time.process_time() - cpu_started


def batch_size(request: dict[str, Any]) -> int:
    """Sequences of a forward pass; the same number of tokens for every engine."""
    length = torch.load(request["tokens"], weights_only=True).shape[1]
    return max(1, request["batch_tokens"] // length)


def sequences(request: dict[str, Any]) -> list[dict[str, list[int]]]:
    """The calibration sequences as transformers' inputs; nothing is padded, all have one length."""
    tokens = torch.load(request["tokens"], weights_only=True)
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens.tolist()]


def dtype(request: dict[str, Any]) -> torch.dtype:
    """What the engine loads the model in."""
    found: torch.dtype = getattr(torch, request["dtype"])
    return found


def serve(distribution: str, run: Callable[[dict[str, Any], Clock], None]) -> None:
    """Runs one request and prints the result; what `run` raises ends the process with its traceback."""
    request = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(request["threads"])
    Path(request["output"]).mkdir(parents=True, exist_ok=True)
    clock = Clock()
    run(request, clock)
    device = torch.cuda.max_memory_allocated() if request["device"] == "cuda" else 0
    result = {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "device_bytes": device,
        "version": version(distribution),
    }
    print(flush=True)
    print(json.dumps(result), flush=True)
