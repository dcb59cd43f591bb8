"""One run of a runner in a process of its own: what it said, what the kernel counted, or why there is nothing."""

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REASON_LENGTH = 160
NOISE = ("^", "~", "INFO", "WARN")


@dataclass(frozen=True)
class Outcome:
    """One run.

    seconds, cpu_seconds: by stage, as the runner counted. whole: of the process, imports included.
    resident: peak resident set in bytes, as the kernel counted it. device: peak on the GPU in bytes.
    reason: why the run failed; empty when it did not. stopped: it was the time limit, so `whole` is a lower bound.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    whole: float = 0.0
    resident: int = 0
    device: int = 0
    version: str = ""
    reason: str = ""
    stopped: bool = False


def run(
    python: Path, script: Path, request: Path, log: Path, environment: dict[str, str], limit: float
) -> Outcome:
    """Runs a request to its end, or to its time limit; then the process and its children are ended."""
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(python), str(script), str(request)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=log.parent,  # gptqmodel and llm-compressor write logs where they are started
            start_new_session=True,
        )
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:  # the runner is in a session of its own and would go on
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
    whole, code = time.monotonic() - started, os.waitstatus_to_exitcode(status)
    process.returncode = code  # wait4 has taken it; Popen would warn of a process that still runs
    resident = usage.ru_maxrss * 1024
    if code == -signal.SIGKILL and whole >= limit:
        reason = f"stopped at the time limit of {limit:g} s"
        return Outcome(whole=whole, resident=resident, reason=reason, stopped=True)
    if code != 0:
        return Outcome(whole=whole, resident=resident, reason=last_words(log.read_text(), code))
    said: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return Outcome(
        said["seconds"], said["cpu_seconds"], whole, resident, said["device_bytes"], said["version"]
    )


def last_words(log: str, code: int) -> str:
    """The last line of a log that says something: of a traceback the error, or what raised an error without words."""
    lines = [line.strip() for line in log.splitlines()]
    spoken = [line for line in lines if line and not line.startswith(NOISE)]
    words = spoken[-1] if spoken else "no output"
    if words.endswith("Error") and len(spoken) > 1:
        words = f"{words} in: {spoken[-2]}"
    return f"exit {code}: {words[:REASON_LENGTH]}"
