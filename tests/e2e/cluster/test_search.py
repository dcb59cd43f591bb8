"""A search of two pods on the cluster, one of which is killed, finds what a run finds that tries every point itself."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.disturbed import pods
from tests.support.searches import dimension

from local_cluster import images, s3
from quantization_api.manifest import Manifest, TrialRecord
from quantization_api.pod import RunRequest
from quantization_api.spec import QuantizationJobSpec
from quantizer.cli.execution import Here, execute
from quantizer.progress.tracker import Tracker
from quantizer.search.space import shown
from quantizer.store.interface import never_stop

EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
FILES = images.ROOT / "deploy/examples"
FEW = (dimension("bits", 4, 8), dimension("group_size", 16, 32), dimension("desc_act", "false", "true"))
MANY = (
    dimension("bits", 3, 4, 8),
    dimension("group_size", 16, 32),
    dimension("damp_percent", "0.01", "0.1"),
    dimension("desc_act", "false", "true"),
)
Document = dict[str, Any]


@pytest.mark.parametrize(
    ("name", "grid", "points"),
    [
        pytest.param("few", FEW, 8, marks=[pytest.mark.e2e, pytest.mark.nightly]),
        pytest.param("many", MANY, 24, marks=pytest.mark.faults),
    ],
    ids=["8 points", "24 points"],
)
def test_a_search_that_loses_a_pod_finds_what_an_exhaustive_run_finds(
    whole: Any,
    wait_until: Callable[..., Any],
    tmp_path: Path,
    name: str,
    grid: tuple[Document, ...],
    points: int,
) -> None:
    whole.apply_example(EXAMPLE, f"search-{name}", lambda manifest: _search(manifest, grid))
    wait_until(lambda: _records(whole, f"search-{name}") >= points // 4, "some points", 300)
    lost = _kill_one(whole, f"search-{name}")
    status = whole.wait(f"search-{name}", "Ready", 60 + 30 * points)["status"]

    assert status["search"]["shown"] == f"{points}/{points}"
    assert f"{points}/{points}" in whole.kubectl("get", "quantizationjob", f"search-{name}")
    assert status.get("attempts", {}).get("failed", 0) <= 1
    found: Manifest = whole.manifest(f"search-{name}")
    assert len({record.recipe for record in found.trials}) == len(found.trials) == points
    assert _records(whole, f"search-{name}") == points, "each point is written once"
    assert {(record.worker or "").rpartition("/")[2] for record in found.trials} == {"0", "1"}
    assert lost not in [pod["metadata"]["name"] for pod in pods(whole, f"search-{name}")]

    alone = _alone(grid, tmp_path)
    front = _front(alone)
    assert _front(found).keys() == front.keys()
    for point, figures in _front(found).items():
        assert figures == pytest.approx(front[point], rel=1e-4)  # to four digits
    assert _best(found) == _best(alone)
    table = {trial["parameters"]: trial["onFront"] for trial in status["trials"]}
    assert table, "a table"
    assert {parameters for parameters, on_front in table.items() if on_front} == front.keys() & table.keys()


def _search(manifest: Document, grid: tuple[Document, ...]) -> None:
    workflow = manifest["spec"]["workflow"]
    workflow["passes"][0]["name"] = "q"
    workflow["passes"][0]["checkpoint_format"] = "gptq"  # the other one has no desc_act
    workflow["search_strategy"] = {"search_space": list(grid), "stop_early": False}
    for data, samples in zip(workflow["data_configs"], (8, 4), strict=True):
        data["pre_process_data_config"] |= {"max_samples": samples, "max_seq_len": 64}
    for metric in workflow["evaluators"][0]["metrics"]:
        metric.pop("goal", None)
    manifest["spec"]["parallelism"] = 2


def _kill_one(whole: Any, name: str) -> str:
    """Kill a worker at random, as a node that is switched off would; the pod's name."""
    living = [pod["metadata"]["name"] for pod in pods(whole, name) if pod["status"]["phase"] == "Running"]
    assert len(living) == 2
    lost: str = random.choice(living)
    whole.kubectl("delete", "pod", lost, "--force", "--grace-period=0")
    print(f"{name}: killed {lost}")
    return lost


def _records(whole: Any, name: str) -> int:
    """Points whose end is written; the status tells of it some seconds later."""
    status = whole.get("quantizationjob", name).get("status", {})
    assert status.get("phase") != "Failed", status
    prefix = f"e2e/{name}/.trials/"
    with s3.opened(whole.target) as buckets:
        keys = [item.key.removeprefix(prefix) for item in buckets.list("artifacts", prefix)]
    return sum(1 for key in keys if key.endswith(".json") and "/" not in key)


def _alone(grid: tuple[Document, ...], folder: Path) -> Manifest:
    """The same search in this process, on the same files."""
    manifest: Document = yaml.safe_load(EXAMPLE.read_text())
    _search(manifest, grid)
    spec = manifest["spec"]
    workflow = spec["workflow"]
    workflow["input_model"]["model_path"] = f"file://{FILES}/stories15m"
    for data in workflow["data_configs"]:
        name = Path(data["load_dataset_config"]["data_name"]).name
        data["load_dataset_config"]["data_name"] = f"file://{FILES}/text/{name}"
    spec["output"]["uri"] = f"file://{folder}/alone"
    request = RunRequest.from_spec("alone", "default", "alone", QuantizationJobSpec.model_validate(spec))
    scratch = folder / "scratch"
    scratch.mkdir()
    return execute(request, Here("cpu", scratch), Tracker(), never_stop).manifest


def _shown(record: TrialRecord) -> str:
    """As the status has it."""
    return ",".join(f"{key}={shown(value)}" for key, value in record.parameters.items())


def _front(manifest: Manifest) -> dict[str, list[float | None]]:
    """Of each point of the front what was chosen and how good it is."""
    return {
        _shown(record): [figure.output for figure in record.metrics]
        for record in manifest.trials
        if record.on_front
    }


def _best(manifest: Manifest) -> list[str]:
    return [_shown(record) for record in manifest.trials if record.best]
