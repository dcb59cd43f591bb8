"""A search beside its points as separate jobs: `python tests/benchmarks/search.py [--sample N]`.

24 points of GPTQ (bits, group_size, damp_percent, desc_act) on the example model. Each point is run by a `quantizer
run` of its own, then all of them by one search with one worker; every point must have the same figures in both.
Prints the ratio of the two times; exit code 1 when it is below 3. --sample runs only N of the separate jobs, evenly
spread, and takes their mean for the others.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from quantization_api.workflow import Workflow
from quantizer.search.space import Space

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "deploy/examples"
BAR = 3.0
TOKENS, SEQUENCES = 128, 8
"""Of each text: a comparison of many settings takes little text, and a job by itself its start all the same."""
GRID: dict[str, list[int | str]] = {
    "bits": [3, 4, 8],
    "group_size": [16, 32],
    "damp_percent": ["0.01", "0.1"],
    "desc_act": ["false", "true"],
}


def job() -> dict[str, Any]:
    """The manifest of the search; its goals, which single points would miss, are left out."""
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / "gptq-stories15m-local.yaml").read_text())
    workflow = document["spec"]["workflow"]
    workflow["input_model"]["model_path"] = str(EXAMPLES / "stories15m")
    for config in workflow["data_configs"]:
        load = config["load_dataset_config"]
        load["data_name"] = str((EXAMPLES / load["data_name"]).resolve())
        config["pre_process_data_config"] |= {"max_seq_len": TOKENS, "max_samples": SEQUENCES}
    for metric in workflow["evaluators"][0]["metrics"]:
        metric.pop("goal", None)
    workflow["passes"] = [{"name": "gptq", "type": "GptqQuantizer", "data_config": "calibration"}]
    space = [{"pass": "gptq", "parameter": name, "values": values} for name, values in GRID.items()]
    workflow["search_strategy"] = {"search_space": space, "stop_early": False}
    return document


def run(document: dict[str, Any], folder: Path, name: str) -> tuple[float, dict[str, Any]]:
    """Seconds of a run, and its manifest."""
    manifest = folder / f"{name}.yaml"
    output = folder / name
    document["spec"]["output"] = {"uri": f"file://{output}"}
    manifest.write_text(yaml.safe_dump(document))
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "quantizer", "run", "-f", str(manifest), "--device", "cpu"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - began, json.loads((output / "manifest.json").read_text())


def main() -> int:
    """Runs both and compares them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, help="separate jobs to run; all if not given")
    parser.add_argument(
        "--folder", type=Path, help="where artifacts are kept; if not given, they are removed"
    )
    options = parser.parse_args()
    space = Space.of(Workflow.model_validate(job()["spec"]["workflow"]))
    count = min(options.sample or space.size, space.size)
    chosen = [index * space.size // count for index in range(count)]
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        together, searched = run(job(), folder, "search")
        print(f"one search of {space.size} points: {together:.1f} s")
        seconds, wrong = [], []
        for index in chosen:
            alone = job()
            point = space.point(space.parameters(index))
            assert point.workflow is not None
            alone["spec"]["workflow"] = point.workflow.model_dump(
                mode="json", by_alias=True, exclude_unset=True, exclude_none=True
            )
            spent, manifest = run(alone, folder, f"point-{index}")
            seconds.append(spent)
            trial = searched["trials"][index]
            same = (
                trial["recipe"] == manifest["recipe"]
                and trial["metrics"] == manifest["metrics"][: len(trial["metrics"])]
            )
            wrong += [] if same else [point.name]
            print(f"{point.name} alone: {spent:.1f} s{'' if same else ', with other figures'}")
    apart = sum(seconds) * space.size / count
    measured = "" if count == space.size else f" (from {count} of them)"
    print(
        f"{space.size} separate jobs: {apart:.1f} s{measured}; the search is {apart / together:.2f} times faster"
    )
    return 0 if apart / together >= BAR and not wrong else 1


if __name__ == "__main__":
    raise SystemExit(main())
