"""Argo CD's health of a QuantizationJob in each phase, by a real interpreter of the Lua that Argo CD has (5.1)."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime
from tests.support.recorded_jobs import PHASES, recorded

from quantization_api.status import Phase

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[3] / "deploy/argocd"
KEY = "resource.customizations.health.quantization.dev_QuantizationJob"

EXPECTED: dict[Phase, tuple[str, str]] = {
    "Pending": ("Progressing", "Starting: Job pending-0123456789 is waiting for its pod to be scheduled"),
    "Queued": ("Progressing", "Queued: waiting for admission by LocalQueue team-queue"),
    "Running": ("Progressing", "Running: pod running-0123456789-abcde is running on node node-1. (40 %)"),
    "Suspended": ("Suspended", "spec.suspend is true; set it to false to resume"),
    "Succeeded": ("Healthy", "the artifact is at s3://artifacts/succeeded"),
    "Failed": (
        "Degraded",
        "ModelNotFound: s3://models/stories15m is empty. Check the path",
    ),
}
"""Health and message of each job that the operator wrote into a real API server."""


def health(body: dict[str, Any], script: str | None = None) -> tuple[str, str]:
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals()["obj"] = lua.table_from(body, recursive=True)
    found = lua.execute(script or (FOLDER / "health.lua").read_text())
    return found["status"], found["message"]


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_has_its_health(phase: Phase) -> None:
    expected, message = EXPECTED[phase]
    found, said = health(recorded(phase))
    assert found == expected
    assert said.startswith(message)


def test_a_job_that_nobody_has_seen_progresses() -> None:
    body = recorded("Pending")
    assert health({key: value for key, value in body.items() if key != "status"})[0] == "Progressing"
    assert health(body | {"status": {}})[0] == "Progressing"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_the_end_of_an_older_generation_is_no_end(phase: Phase) -> None:
    body = recorded(phase)
    changed = body | {"metadata": body["metadata"] | {"generation": body["metadata"]["generation"] + 1}}
    assert health(changed) == ("Progressing", "the operator has not seen the change yet")


def test_the_component_puts_the_script_into_argo_cds_settings(tmp_path: Path) -> None:
    (tmp_path / "argocd").mkdir()
    for file in FOLDER.iterdir():
        (tmp_path / "argocd" / file.name).write_bytes(file.read_bytes())
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm", "namespace": "argocd"},
        "data": {"admin.enabled": "false"},
    }
    (tmp_path / "argocd-cm.yaml").write_text(yaml.safe_dump(settings))
    root = {"resources": ["argocd-cm.yaml"], "components": ["argocd"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(root))
    built = subprocess.run(
        [Path(sys.executable).with_name("kubectl"), "kustomize", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (merged,) = yaml.safe_load_all(built.stdout)
    assert merged["metadata"]["name"] == "argocd-cm"
    assert merged["data"]["admin.enabled"] == "false"
    assert health(recorded("Succeeded"), merged["data"][KEY])[0] == "Healthy"
