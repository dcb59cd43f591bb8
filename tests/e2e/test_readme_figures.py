"""The figures of the README come from its example: the command that it shows is run, and what it makes is compared."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
import yaml
from tests.support.engine import EXAMPLES, ROOT

from quantization_api.manifest import MANIFEST_NAME, Manifest

pytestmark = pytest.mark.e2e

EXAMPLE = EXAMPLES / "gptq-stories15m-local.yaml"
OTHER_PROCESSOR = 0.08
"""By how much figures may differ: calibration in bfloat16 or float32, and another order of sums."""
MOST_FAULTS = 900_000
"""Faults of a page (seen: 430,000 to 460,000, of them 120,000 by imports; 1,470,000 when each slice of the head gave
its memory back to the kernel)."""


@dataclass(frozen=True)
class Run:
    """What the command made, and the page faults that it took."""

    manifest: Manifest
    faults: int


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("readme")
    job = yaml.safe_load(EXAMPLE.read_text().replace("./stories15m", f"file://{EXAMPLES}/stories15m"))
    for config in job["spec"]["workflow"]["data_configs"]:
        place = config["load_dataset_config"]
        place["data_name"] = place["data_name"].replace("./", f"file://{EXAMPLES}/")
    job["spec"]["output"]["uri"] = f"file://{folder}/out"
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "quantizer", "run", "-f", str(folder / "job.yaml"), "--device", "cpu"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    manifest = Manifest.model_validate_json((folder / "out" / MANIFEST_NAME).read_bytes())
    return Run(manifest, used.ru_minflt)


def figures(pattern: str) -> list[float]:
    """The numbers of the one sentence in the README that has this form."""
    (found,) = re.findall(pattern, re.sub(r"\s+", " ", (ROOT / "README.md").read_text()))
    return [float(number.replace(",", "")) for number in ([found] if isinstance(found, str) else found)]


def near(value: float) -> object:
    return pytest.approx(value, rel=OTHER_PROCESSOR)


def test_quality_is_what_the_readme_says(run: Run) -> None:
    measured = {metric.name: metric for metric in run.manifest.metrics}
    before, after = figures(r"perplexity ([\d.]+) before and ([\d.]+) after")
    assert measured["perplexity"].input == pytest.approx(before, abs=0.001)
    assert measured["perplexity"].output == near(after)
    (divergence,) = figures(r"KL divergence ([\d.]+\d)")
    assert measured["kl_divergence"].output == near(divergence)


def test_sizes_are_what_the_readme_says(run: Run) -> None:
    (size,) = [metric for metric in run.manifest.metrics if metric.name == "size_on_disk"]
    assert [size.input, size.output] == figures(r"([\d,]+\d) bytes before and ([\d,]+\d) after")
    (bits,) = figures(r"quantized weight takes ([\d.]+\d) bits")
    assert round(run.manifest.bits_per_weight, 1) == bits


def test_the_example_does_not_spend_its_time_on_page_faults(run: Run) -> None:
    print(f"{run.faults:,} page faults")
    assert run.faults < MOST_FAULTS
