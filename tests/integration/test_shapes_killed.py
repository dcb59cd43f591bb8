"""Shapes that people quantize, from a sharded checkpoint: a run of each is killed, and goes on to the same artifact."""

import subprocess
import time
from pathlib import Path

import pytest
from tests.support.engine import files
from tests.support.quantizer_requests import run_here, start
from tests.support.reloaded import judged, request_for
from tests.support.shapes import SHAPES, auto_of, save_shape

pytestmark = [pytest.mark.integration, pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

LIMIT_SECONDS = 240
LOOK_SECONDS = 0.002


def kept_layers(out: Path) -> list[str]:
    """The finished layers beside an output."""
    return sorted(path.name for path in (out / ".state").rglob("layer-*.json"))


def kill_behind_a_layer(process: "subprocess.Popen[str]", out: Path) -> None:
    """Kills a run as soon as it has kept a layer."""
    limit = time.monotonic() + LIMIT_SECONDS
    while not kept_layers(out):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(LOOK_SECONDS)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("model_type", SHAPES)
def test_a_killed_run_goes_on_to_the_bytes_of_one_that_was_not_and_transformers_agrees(
    model_type: str, tmp_path: Path
) -> None:
    model, out, other = (tmp_path / name for name in ("model", "out", "other"))
    whole = save_shape(model_type, model)
    assert len(list(model.glob("*.safetensors"))) > 2
    kill_behind_a_layer(start(request_for(model, out), tmp_path / "killed", {}), out)
    assert not (out / "manifest.json").exists()
    kept = len(kept_layers(out))
    resumed = run_here(request_for(model, out), tmp_path / "scratch")
    assert resumed.code == 0, resumed.log
    assert f"took over {kept} layers" in resumed.log
    assert run_here(request_for(model, other), tmp_path / "scratch").code == 0
    assert files(out / "model") == files(other / "model")
    found = judged(whole, model, out / "model", auto_of(model_type))
    print(f"{model_type}: {kept} layers taken over; {found}")
    assert found.right, found
