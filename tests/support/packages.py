"""auto-gptq and autoawq in their own environment, and how tests run our code there."""

import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from tests.support.engine import ROOT

VARIABLE = "QUANTIZATION_LEGACY_PYTHON"
SCRIPT = ROOT / "tests/e2e/reference/run_implementation.py"


def legacy_python() -> str:
    """The interpreter of the environment that has the packages, as `make e2e` names it."""
    python = os.environ.get(VARIABLE)
    assert python, f"{VARIABLE} is not set; `python -m tests.support.environments legacy` prints a value"
    return python


def start(*arguments: str) -> subprocess.Popen[str]:
    """A Python process of that environment, with our code."""
    paths = os.pathsep.join(str(ROOT / room) for room in ("crds", "jobimage"))
    environ = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # torch takes seconds to compile
    return subprocess.Popen(
        [legacy_python(), "-W", "ignore", *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_requests(requests: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What reference/run_implementation.py makes of each request."""
    torch.save(requests, folder / "requests.pt")
    process = start(str(SCRIPT), str(folder / "requests.pt"), str(folder / "results.pt"))
    _, said = process.communicate()
    assert process.returncode == 0, said[-3000:]
    results: list[dict[str, Any]] = torch.load(folder / "results.pt", weights_only=True)
    return results
