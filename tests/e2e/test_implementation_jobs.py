"""A whole job of each stock package on its own, older transformers: `quantizer run`, then `quantizer verify`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from tests.support.engine import CALIBRATION, CPU, STORIES, VALIDATION, ignore_progress, story_batches
from tests.support.packages import start

from quantization_api.failures import ExitCode
from quantization_api.manifest import MANIFEST_NAME, Manifest
from quantizer.checkpoint.source import DirectorySource
from quantizer.cli import parser
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.streamed import evaluate
from quantizer.report.quality import RTN_PREFIX

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

LENGTH, SEQUENCES, LAYERS = 32, 4, 2
ROTARY_BASE = 500.0
"""Not the default, which transformers 4 computes with when it does not understand where version 5 writes it."""
PASSES: dict[str, dict[str, Any]] = {
    "auto-gptq": {"type": "GptqQuantizer", "implementation": "auto-gptq", "group_size": 32},
    "autoawq": {
        "type": "AutoAWQQuantizer",
        "implementation": "autoawq",
        "q_group_size": 32,
        "input_model_dtype": "fp32",
    },
}
QUAROT, CHANGED = "quarot", "changed"
"""A job that these transformers cannot compute, and a copy of an artifact of which one bit was changed."""


class Jobs:
    """The jobs, each in a process of its own, and then their artifacts, verified in the same way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_short_model(folder / "model")
        jobs = {**PASSES, QUAROT: {"type": "QuaRot", "w_gptq": False}}
        for name, parameters in jobs.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(manifest(name, parameters)))
        self.ran = self._together("run", {name: ("-f", str(folder / f"{name}.yaml")) for name in jobs})
        self._change_a_copy()
        places = (*PASSES, CHANGED)
        self.verified = self._together("verify", {name: (str(folder / f"out-{name}"),) for name in places})

    def _together(
        self, command: str, arguments: dict[str, tuple[str, ...]]
    ) -> dict[str, subprocess.CompletedProcess[str]]:
        options = ("--device", "cpu", "--scratch", str(self.folder))
        processes = {
            name: start("-m", "quantizer", command, *given, *options) for name, given in arguments.items()
        }
        return {
            name: subprocess.CompletedProcess(process.args, process.returncode, *said)
            for name, process in processes.items()
            if (said := process.communicate())
        }

    def _change_a_copy(self) -> None:
        copy = self.folder / f"out-{CHANGED}"
        shutil.copytree(self.folder / "out-auto-gptq", copy)
        tensors = copy / "model/model.safetensors"
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(data)

    def manifest(self, name: str) -> Manifest:
        """What was published."""
        return Manifest.model_validate_json((self.folder / f"out-{name}" / MANIFEST_NAME).read_bytes())


def save_short_model(target: Path) -> None:
    """The first layers of the example model."""
    target.mkdir()
    for path in STORIES.iterdir():
        shutil.copyfile(path, target / path.name)
    config = json.loads((target / "config.json").read_text())
    config["num_hidden_layers"] = LAYERS
    config["rope_parameters"]["rope_theta"] = ROTARY_BASE
    (target / "config.json").write_text(json.dumps(config))
    layers = [f"model.layers.{index}." for index in range(LAYERS)]
    tensors = {
        name: tensor
        for name, tensor in load_file(STORIES / "model.safetensors").items()
        if not name.startswith("model.layers.") or name.startswith(tuple(layers))
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def manifest(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The example's job without a cluster, on little text."""
    job: dict[str, Any] = yaml.safe_load((STORIES.parent / "gptq-stories15m-local.yaml").read_text())
    workflow = job["spec"]["workflow"]
    workflow["input_model"]["model_path"] = "./model"
    for config, text in zip(workflow["data_configs"], (CALIBRATION, VALIDATION), strict=True):
        config["load_dataset_config"]["data_name"] = f"file://{text}"
        config["pre_process_data_config"] |= {"max_seq_len": LENGTH, "max_samples": SEQUENCES}
    for metric in workflow["evaluators"][0]["metrics"]:
        metric.pop("goal", None)
    calibrated = {} if name == QUAROT else {"data_config": "calibration"}
    workflow["passes"] = [{**parameters, **calibrated}]
    job["spec"]["output"]["uri"] = f"./out-{name}"
    return job


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("jobs"))


@pytest.mark.parametrize("name", PASSES)
def test_the_job_is_done_and_says_what_computed_it(jobs: Jobs, name: str) -> None:
    assert jobs.ran[name].returncode == ExitCode.DONE, jobs.ran[name].stderr[-3000:]
    assert "RTN" in jobs.ran[name].stdout
    found = jobs.manifest(name)
    assert found.versions[name] == {"auto-gptq": "0.7.1", "autoawq": "0.2.9"}[name]
    assert found.versions["transformers"] == "4.53.3"
    assert found.passes == [PASSES[name]["type"]]
    assert 4.5 < found.bits_per_weight < 5
    assert {module.name.split(".")[2] for module in found.modules} == {"0", "1"}
    assert len(found.modules) == 7 * LAYERS
    assert sum(module.error for module in found.modules) < sum(module.error_rtn for module in found.modules)


@pytest.mark.parametrize("name", PASSES)
def test_its_metrics_are_those_that_the_newer_transformers_measures(
    jobs: Jobs, name: str, tmp_path: Path
) -> None:
    measured = {metric.name: metric for metric in jobs.manifest(name).metrics}
    assert {f"{RTN_PREFIX}kl_divergence", f"{RTN_PREFIX}perplexity"} <= set(measured)
    text = story_batches(VALIDATION, SEQUENCES, tmp_path, LENGTH)
    model, artifact = jobs.folder / "model", jobs.folder / f"out-{name}/model"
    ours = evaluate(
        DecoderLayout.open(DirectorySource(model)),
        DirectorySource(artifact),
        text,
        CPU,
        ignore_progress,
        tmp_path,
    )
    assert 0 < ours.kl_divergence < 0.2
    assert measured["kl_divergence"].output == pytest.approx(ours.kl_divergence, rel=1e-3)
    assert measured["perplexity"].input == pytest.approx(ours.reference_perplexity, rel=1e-3)
    assert measured["perplexity"].output == pytest.approx(ours.perplexity, rel=1e-3)


@pytest.mark.parametrize("name", PASSES)
def test_the_artifact_is_verified_on_both_transformers(
    jobs: Jobs, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = jobs.verified[name]
    assert done.returncode == ExitCode.DONE, done.stderr[-3000:]
    said = f"verified: {len(jobs.manifest(name).objects)} objects"
    assert said in done.stdout
    assert parser.main(["verify", str(jobs.folder / f"out-{name}"), "--device", "cpu"]) == ExitCode.DONE
    assert said in capsys.readouterr().out


def test_what_its_transformers_cannot_compute_is_refused_before_work_begins(jobs: Jobs) -> None:
    done = jobs.ran[QUAROT]
    assert done.returncode == ExitCode.DATA, done.stderr[-3000:]
    assert "QuaRot needs transformers 5; this image has 4.53.3" in done.stderr
    assert not (jobs.folder / f"out-{QUAROT}").exists()


def test_an_artifact_that_changed_is_refused(jobs: Jobs) -> None:
    assert jobs.verified[CHANGED].returncode != ExitCode.DONE
    assert "ArtifactCorrupt" in jobs.verified[CHANGED].stderr
