"""auto-gptq and autoawq themselves, as jobs on a real cluster, in the image of their own."""

from pathlib import Path
from typing import Any

import pytest

from local_cluster import images, s3
from local_cluster.progress import Progress
from quantization_api.failures import ExitCode
from quantizer.cli import parser

pytestmark = pytest.mark.stock

EXAMPLES = images.ROOT / "deploy/examples"
VERSIONS = {"auto-gptq": "0.7.1", "autoawq": "0.2.9"}
LIMIT = 600.0  # the first job also pulls the image


@pytest.fixture(scope="module")
def legacy(whole: Any) -> str:
    """The image of the packages, built where it changed, and named to the operator."""
    image = images.ensure(whole.settings, ["legacy"], Progress())["legacy"]
    whole.install_operator(legacy=image)
    return image


def fewer_sequences(manifest: dict[str, Any]) -> None:
    """Little text: autoawq takes a second of a core for each sequence."""
    for config in manifest["spec"]["workflow"]["data_configs"]:
        config["pre_process_data_config"]["max_samples"] = 4


@pytest.mark.parametrize("package", VERSIONS)
def test_a_job_of_the_package_ends_ready_with_a_verified_artifact(
    package: str, whole: Any, legacy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"stock-{package}"
    whole.apply_example(EXAMPLES / f"{name}.yaml", name, fewer_sequences)
    job = whole.wait(name, "Ready", LIMIT)
    (pod,) = whole.get("pods", "--selector", f"quantization.dev/job-name={name}")["items"]
    assert pod["spec"]["containers"][0]["image"] == legacy
    manifest = whole.manifest(name)
    assert manifest.versions[package] == VERSIONS[package]
    assert job["status"]["artifact"]["readers"] == manifest.readers
    measured = {metric["name"]: metric for metric in job["status"]["metrics"]}
    assert 0 < measured["kl_divergence"]["output"] < 0.2
    assert measured["size_on_disk"]["output"] < measured["size_on_disk"]["input"]
    with s3.opened(whole.target) as buckets:
        buckets.download("artifacts", f"e2e/{name}/", tmp_path)
    assert parser.main(["verify", str(tmp_path), "--device", "cpu"]) == ExitCode.DONE
    assert "match the manifest; the model loads and runs" in capsys.readouterr().out
