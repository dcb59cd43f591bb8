"""Searches whose points are served to be timed: a server that dies, and servers that are not alike."""

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Ended, Request, run_here
from tests.support.searches import dimension

from quantization_api.failures import Category
from quantization_api.manifest import Manifest
from quantization_api.status import TrialState
from quantizer.evaluation.serving.software import PYTHON_VARIABLES, TRANSFORMERS

pytestmark = pytest.mark.unit

ROTATION = {"name": "q", "type": "QuaRot", "w_gptq": False, "w_bits": 16}
"""Its result is in float, which transformers serves."""
SEEDS = [dimension("rotation_seed", 0, 1, 2)]
NEXT = {"name": "next", "type": "latency", "prompt_tokens": 16, "new_tokens": 4}
SERVER = """#!{python}
import json, os, signal, sys
if sys.argv[1] == "-c":  # which packages are there
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
calls = {calls!r}
with open(calls, "a") as file:
    file.write("x")
number = os.path.getsize(calls) - 1  # the input model and the result of each point in turn
if number in {deaths!r}:
    os.kill(os.getpid(), signal.{death})
shapes = [{{"first": [0.1] * 6, "each": [0.1 - number / 1000] * 6, "peak": 7}}]
machine = "a loom" if number in {elsewhere!r} else "an abacus"
json.dump({{"software": "transformers 1", "device": machine, "shapes": shapes}}, open(sys.argv[3], "w"))
"""


def searched(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    deaths: tuple[int, ...] = (),
    elsewhere: tuple[int, ...] = (),
    death: str = "SIGKILL",
) -> Ended:
    """A search over three rotations by a server that dies at some calls, and has another machine at others."""
    server = folder / "server"
    values: dict[str, Any] = {
        "python": sys.executable,
        "calls": str(folder / "calls"),
        "deaths": deaths,
        "elsewhere": elsewhere,
        "death": death,
    }
    server.write_text(SERVER.format(**values))
    server.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLES[TRANSFORMERS], str(server))
    save_tiny_reader(folder / "model")
    request = Request(
        f"file://{folder}/out",
        model=f"file://{folder}/model",
        layer_pass=ROTATION,
        search={"search_space": SEEDS, "stop_early": False},
        metrics=[NEXT],
        samples=4,
    )
    return run_here(request, folder / "scratch")


def manifest(folder: Path) -> Manifest:
    """Of the artifact."""
    return Manifest.model_validate_json((folder / "out/manifest.json").read_bytes())


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV"])
def test_a_server_that_dies_on_a_result_ends_that_point_alone(
    death: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = searched(tmp_path, monkeypatch, deaths=(3,), death=death)
    assert ended.code == 0, ended.log
    states: list[TrialState] = [trial.state for trial in manifest(tmp_path).trials]
    assert states == ["Finished", "Failed", "Finished"]
    assert "transformers d" in manifest(tmp_path).trials[1].said


def test_a_server_that_dies_on_the_input_model_ends_the_search_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = searched(tmp_path, monkeypatch, deaths=(0, 2, 4))
    failure = ended.result.failure
    assert failure is not None
    assert failure.category is Category.HOST_OUT_OF_MEMORY
    assert (tmp_path / "calls").stat().st_size == 1


def test_points_that_were_timed_on_different_machines_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = searched(tmp_path, monkeypatch, elsewhere=(2, 3))
    sentence = (
        "next was measured in different software or on different devices: "
        "transformers 1 on an abacus (0, 2); transformers 1 on a loom (1). "
        "Points that differ in it do not compare."
    )
    assert sentence in ended.log
    assert sentence in (tmp_path / "out/report/report.html").read_text()


def test_points_that_were_timed_alike_have_no_such_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = searched(tmp_path, monkeypatch)
    assert ended.code == 0, ended.log
    assert "do not compare" not in ended.log
    assert "do not compare" not in (tmp_path / "out/report/report.html").read_text()
