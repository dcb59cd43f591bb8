"""Argo CD's health of a QuantizationJob in each phase, by a real interpreter of the Lua that Argo CD has (5.1)."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from quantization_api.status import Condition
from quantization_operator.conditions import State, conditions, phase

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[2] / "deploy/argocd"
KEY = "resource.customizations.health.quantization.dev_QuantizationJob"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def written(state: State, **more: Any) -> dict[str, Any]:
    """A status as the operator writes it."""
    items = conditions(state, 2, [], NOW)
    shown = [item.model_dump(mode="json", by_alias=True) for item in items]
    return {"observedGeneration": 2, "phase": phase(items), "conditions": shown} | more


def suspended() -> dict[str, Any]:
    """A paused job: nothing else is true of it."""
    status = written(State("in progress", "Suspended", "paused by spec.suspend; finished layers are kept"))
    for item in status["conditions"]:
        item["status"] = "False"
    pause = {
        "type": "Suspended",
        "status": "True",
        "observedGeneration": 2,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "Suspended",
        "message": "paused by spec.suspend",
    }
    status["conditions"].append(pause)
    status["phase"] = phase([Condition.model_validate(item) for item in status["conditions"]])
    return status


FAILURE = {"category": "ModelNotFound", "message": "s3://models/x is empty", "hint": "Correct model_path."}
PHASES: dict[str, tuple[dict[str, Any] | None, str, str]] = {
    "Pending": (
        written(State("in progress", "Starting", "waits for its pod")),
        "Progressing",
        "Starting: waits",
    ),
    "Queued": (
        written(State("in progress", "Queued", "waits for admission")),
        "Progressing",
        "Queued: waits",
    ),
    "Running": (
        written(State("in progress", "Running", "pod a runs on node b"), progress={"percent": 40}),
        "Progressing",
        "Running: pod a runs on node b (40 %)",
    ),
    "Suspended": (suspended(), "Suspended", "paused by spec.suspend"),
    "Succeeded": (
        written(State("succeeded", "Succeeded", "the artifact is at s3://a/b")),
        "Healthy",
        "s3://a/b",
    ),
    "Failed": (
        written(State("failed", "ModelNotFound", "s3://models/x is empty"), failure=FAILURE),
        "Degraded",
        "ModelNotFound: s3://models/x is empty Correct model_path.",
    ),
}


def health(status: dict[str, Any] | None, script: str | None = None) -> tuple[str, str]:
    lua = LuaRuntime(unpack_returned_tuples=True)
    body = {"metadata": {"name": "job", "generation": 2}} | ({"status": status} if status is not None else {})
    lua.globals()["obj"] = lua.table_from(body, recursive=True)
    found = lua.execute(script or (FOLDER / "health.lua").read_text())
    return found["status"], found["message"]


@pytest.mark.parametrize("name", PHASES)
def test_each_phase_has_its_health(name: str) -> None:
    status, expected, message = PHASES[name]
    assert status is not None
    assert status["phase"] == name
    found, said = health(status)
    assert found == expected
    assert message in said


def test_a_job_that_nobody_has_seen_progresses() -> None:
    assert health(None)[0] == "Progressing"
    assert health({})[0] == "Progressing"


def test_the_end_of_an_older_generation_is_no_end() -> None:
    for name in ("Succeeded", "Failed"):
        status, _, _ = PHASES[name]
        assert status is not None
        assert health(status | {"observedGeneration": 1}) == (
            "Progressing",
            "the operator has not seen the change yet",
        )


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
    status, expected, _ = PHASES["Succeeded"]
    assert health(status, merged["data"][KEY])[0] == expected
