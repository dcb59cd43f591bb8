"""The benchmark runs every engine of the environments that tests have, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

ROOT = Path(__file__).parents[2]
TINY = "--shape tiny --layers 1 --samples 2 --held-out 2 --length 64 --rounds 1 --engines auto-gptq autoawq gptqmodel"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "tests.benchmarks.quantization", *TINY.split(), "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_engine_runs_and_is_judged(table: Path) -> None:
    rows = {
        (row["method"], row["engine"]): row for row in json.loads((table / "table.json").read_text())["rows"]
    }
    engines = {("gptq", "auto-gptq"), ("gptq", "gptqmodel"), ("awq", "autoawq"), ("awq", "gptqmodel")}
    for key in engines | {("gptq", "native"), ("awq", "native")}:
        row = rows[key]
        assert not row["reason"], key
        assert not row["verdict"]["reason"], key
        assert row["seconds"] > 0
        assert row["verdict"]["kl_divergence"] < 0.1
    assert (table / "picture.png").stat().st_size > 0
