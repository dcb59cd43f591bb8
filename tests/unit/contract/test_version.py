"""Every program of the project says its version, which is the engine's."""

import subprocess
import sys

import pytest

from quantization_api import ENGINE_VERSION

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "program", ["quantization_api", "quantization_operator", "quantizer", "local_cluster"]
)
def test_every_program_says_its_version(program: str) -> None:
    said = subprocess.run(
        [sys.executable, "-m", program, "--version"], check=True, capture_output=True, text=True, timeout=300
    )
    assert said.stdout.split()[-1] == ENGINE_VERSION
