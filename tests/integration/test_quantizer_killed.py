"""Runs that are killed at any moment, in processes of their own: the next one goes on to the same artifact."""

import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml
from tests.support.commands import command
from tests.support.engine import EXAMPLES, files, save_tiny_reader

KILLS, MANY_KILLS = 3, 100
LAYERS, LENGTH = 3, 128
LIMIT_SECONDS = 240
LOOK_SECONDS = 0.005


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save_tiny_reader(folder, num_hidden_layers=LAYERS, max_position_embeddings=LENGTH)
    return folder


def start(model: Path, out: Path, scratch: Path) -> BaseProcess:
    """`quantizer run -f` of a manifest without a cluster."""
    scratch.mkdir(exist_ok=True)
    document = {
        "apiVersion": "quantization.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "killed"},
        "spec": {
            "workflow": {
                "input_model": {"type": "HfModel", "model_path": f"file://{model}"},
                "data_configs": [
                    {
                        "name": "text",
                        "type": "HuggingfaceContainer",
                        "load_dataset_config": {
                            "data_name": f"file://{EXAMPLES}/text/tinystories-calibration.txt"
                        },
                        "pre_process_data_config": {"max_seq_len": LENGTH, "max_samples": 12},
                    }
                ],
                "passes": [
                    {
                        "type": "GptqQuantizer",
                        "data_config": "text",
                        "group_size": 32,
                        "true_sequential": True,
                    }
                ],
            },
            "output": {"uri": f"file://{out}"},
        },
    }
    manifest = scratch / "job.yaml"
    manifest.write_text(yaml.safe_dump(document))
    return command("run", "-f", str(manifest), "--device", "cpu", "--scratch", str(scratch))


def wait_until_it_works(process: BaseProcess, out: Path) -> None:
    """Until the process holds the claim on the output, or has ended."""
    claim, limit = out / ".state/claim.json", time.monotonic() + LIMIT_SECONDS
    while process.is_alive():
        assert time.monotonic() < limit
        if claim.exists() and f":{process.pid}:" in claim.read_text():
            return
        time.sleep(LOOK_SECONDS)


def finish(process: BaseProcess) -> None:
    """Waits for the end of a run that nobody kills."""
    process.join(LIMIT_SECONDS)
    assert process.exitcode == 0


def check(out: Path, expected: dict[str, bytes]) -> None:
    """The artifact is the undisturbed one."""
    assert files(out / "model") == expected
    assert (out / "manifest.json").exists()
    assert not [path for path in (out / ".state").rglob("*") if path.is_file()]


def kept_layers(out: Path) -> dict[str, int]:
    """When each finished layer was stored; one that was computed again has another time."""
    return {path.name: path.stat().st_mtime_ns for path in (out / ".state").rglob("layer-*.json")}


def kills(number: int, model: Path, tmp_path: Path) -> None:
    """Kills runs at random moments, each output's until it is whole; checks what is left after each kill and end."""
    chance = random.Random(number)
    whole = start(model, tmp_path / "whole", tmp_path / "scratch")
    wait_until_it_works(whole, tmp_path / "whole")
    began = time.monotonic()
    finish(whole)
    lasts = time.monotonic() - began
    assert not (tmp_path / "whole/.state").exists()
    expected = files(tmp_path / "whole/model")
    output = done = resumed = 0
    while done < number:
        out = tmp_path / f"out-{output}"
        process = start(model, out, tmp_path / "scratch")
        wait_until_it_works(process, out)
        had = kept_layers(out)
        resumed += bool(had)
        process.join(chance.uniform(0, lasts))
        if process.is_alive():
            process.kill()
            process.join()
            done += 1
            # nothing that was finished is lost or computed again
            assert kept_layers(out) | had == kept_layers(out) or (out / "manifest.json").exists()
        else:
            finish(process)
            check(out, expected)
            output += 1
    finish(start(model, tmp_path / f"out-{output}", tmp_path / "scratch"))
    check(tmp_path / f"out-{output}", expected)
    assert not list((tmp_path / "scratch").glob("run-*")), "a killed run's scratch is still there"
    assert resumed  # or the seed kills too early for the test to mean anything


@pytest.mark.integration
@pytest.mark.faults
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_artifact(model: Path, tmp_path: Path) -> None:
    kills(KILLS, model, tmp_path)


@pytest.mark.faults
def test_a_hundred_kills_are_survived(model: Path, tmp_path: Path) -> None:
    kills(MANY_KILLS, model, tmp_path)
