"""Scripts of tests/e2e/reference, run in the environment of other software."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "e2e/reference"


def interpreter_from(variable: str) -> str:
    """The interpreter that an environment variable names; fails the test without it."""
    python = os.environ.get(variable)
    if not python:
        name = variable.split("_")[1].lower() + ("s" if "READER" in variable else "")
        pytest.fail(f"{variable} is not set; `python -m tests.support.environments {name}` prints a value")
    return python


def run_reference(python: str, script: str, request: Any, folder: Path) -> Any:
    """What a script answers to a request."""
    torch.save(request, folder / "request.pt")
    run = subprocess.run(
        [python, str(SCRIPTS / script), str(folder / "request.pt"), str(folder / "result.pt")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(folder / "result.pt", weights_only=True)
