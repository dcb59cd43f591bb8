"""Objects as the API server sends them, for tests of what the operator reads: a job, its child Job, its pods.

The statuses of pods are those that a kubelet 1.36 with containerd writes.
"""

import copy
import json
from typing import Any

from tests.support.manifests import manifest

from quantization_api import API_VERSION
from quantization_api.constants import REQUEST_ENV
from quantization_api.pod import RunResult
from quantization_api.status import Artifact, Failure, MetricResult, Trial, Trials
from quantization_operator.snapshots import GENERATION_ANNOTATION, QJOB_UID_LABEL
from quantization_operator.workload import job_name

UID = "2d7a7a5e-0000-4000-8000-000000000001"
JOB_UID = "2d7a7a5e-0000-4000-8000-000000000002"
NAME = job_name("job", UID)
CREATED = "2026-01-01T00:00:00Z"
STARTED = "2026-01-01T00:00:10Z"
ENDED = "2026-01-01T00:10:00Z"

RESULT = RunResult(
    recipe="sha256:" + "a" * 64,
    artifact=Artifact(
        uri="s3://artifacts/stories15m-gptq",
        manifest_digest="sha256:" + "b" * 64,
        size_bytes=8_000_000,
        compression_ratio=3.7,
        bits_per_weight=4.5,
        readers=["transformers"],
    ),
    metrics=[MetricResult(name="ppl", input=10.0, output=10.2)],
)


FOUND = Trials(done=24, total=24, best="gptq.bits=4: ppl 10.2")
SEARCHED = RESULT.model_copy(
    update={
        "trials": [Trial(parameters="gptq.bits=4", metrics=RESULT.metrics, on_front=True, best=True)],
        "search": FOUND,
    }
)
"""RESULT of a search."""


def result_at(output: str) -> RunResult:
    """RESULT of a quantizer that was asked to write there."""
    assert RESULT.artifact is not None
    return RESULT.model_copy(update={"artifact": RESULT.artifact.model_copy(update={"uri": output})})


def message_of(job_or_pod: dict[str, Any]) -> str:
    """The termination message with which the quantizer of a Job's pod says that it succeeded."""
    spec = job_or_pod["spec"]
    (container,) = spec.get("template", {}).get("spec", spec)["containers"]
    asked = [item["value"] for item in container.get("env", ()) if item["name"] == REQUEST_ENV]
    return (result_at(json.loads(asked[0])["output"]["uri"]) if asked else RESULT).to_message()


def failed_result(category: str, message: str = "it is not there") -> str:
    """The termination message of a quantizer that failed in a known way."""
    failure = Failure.model_validate({"category": category, "message": message})
    return RunResult(failure=failure).model_dump_json(by_alias=True, exclude_none=True)


def controlled_by(kind: str, name: str, uid: str) -> list[dict[str, Any]]:
    """The owner references of what a QuantizationJob or a Job has made."""
    version = {"QuantizationJob": API_VERSION, "Job": "batch/v1"}[kind]
    return [{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": True}]


def quantization_job(
    *changes: tuple[str, Any], status: dict[str, Any] | None = None, **metadata: Any
) -> dict[str, Any]:
    """A QuantizationJob as it is stored; changes are those of `manifest`."""
    body = copy.deepcopy(manifest(*changes))
    body["metadata"] |= {
        "uid": UID,
        "generation": 1,
        "resourceVersion": "10",
        "creationTimestamp": CREATED,
    } | metadata
    if status is not None:
        body["status"] = status
    return body


def child(
    *,
    status: dict[str, Any] | None = None,
    suspend: bool = False,
    generation: int = 1,
    workers: int = 1,
    **metadata: Any,
) -> dict[str, Any]:
    """Its child Job, made for that generation of it."""
    counts = {"completions": workers, "parallelism": workers}
    mode = {"completionMode": "Indexed" if workers > 1 else "NonIndexed"}
    return {
        "kind": "Job",
        "metadata": {
            "uid": JOB_UID,
            "name": NAME,
            "namespace": "default",
            "resourceVersion": "20",
            "creationTimestamp": CREATED,
            "labels": {QJOB_UID_LABEL: UID},
            "annotations": {GENERATION_ANNOTATION: str(generation)},
            "ownerReferences": controlled_by("QuantizationJob", "job", UID),
        }
        | metadata,
        "spec": {"suspend": suspend} | counts | mode,
        "status": status or {},
    }


def ended(kind: str, reason: str = "", message: str = "", **more: Any) -> dict[str, Any]:
    """The status of a Job with a final condition."""
    condition = {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": ENDED,
    }
    completion = {"completionTime": ENDED} if kind == "Complete" else {}
    return {"conditions": [condition], **completion, **more}


def pod(
    state: dict[str, Any] | None = None,
    *,
    name: str = f"{NAME}-abcde",
    phase: str = "Pending",
    conditions: list[dict[str, Any]] | None = None,
    last_state: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    node: str = "node-1",
    **metadata: Any,
) -> dict[str, Any]:
    """One of its pods, with the state of the quantizer's container."""
    container = {"name": "quantizer", "state": state or {}, "lastState": last_state or {}}
    return {
        "metadata": {
            "uid": f"uid-{name}",
            "name": name,
            "namespace": "default",
            "resourceVersion": "30",
            "creationTimestamp": STARTED,
            "labels": {QJOB_UID_LABEL: UID},
            "ownerReferences": controlled_by("Job", NAME, JOB_UID),
        }
        | metadata,
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "conditions": conditions or [],
            "containerStatuses": [container] if state is not None else [],
            "podIP": "10.0.0.7" if phase == "Running" else "",
        }
        | (status or {}),
    }


def running(**more: Any) -> dict[str, Any]:
    """A pod that works."""
    return pod({"running": {"startedAt": STARTED}}, phase="Running", **more)


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    """A pod whose container does not start."""
    return pod({"waiting": {"reason": reason, "message": message}}, **more)


def terminated(
    exit_code: int, message: str = "", reason: str | None = None, phase: str | None = None, **more: Any
) -> dict[str, Any]:
    """A pod whose container ended."""
    state = {
        "exitCode": exit_code,
        "reason": reason or ("Completed" if exit_code == 0 else "Error"),
        "message": message,
        "finishedAt": ENDED,
    }
    return pod({"terminated": state}, phase=phase or ("Succeeded" if exit_code == 0 else "Failed"), **more)


def succeeded(**more: Any) -> dict[str, Any]:
    """A pod that left a valid result."""
    return terminated(0, RESULT.to_message(), **more)


def disruption(
    reason: str = "EvictionByEvictionAPI", message: str = "Eviction API: evicting"
) -> dict[str, Any]:
    """The condition of a pod that Kubernetes takes away."""
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


def unscheduled(message: str = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.") -> dict[str, Any]:
    """The condition of a pod that fits no node."""
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


def condition_status(state: str, reason: str = "Running", **more: Any) -> dict[str, Any]:
    """A status as the operator has written it before: `state` is the condition that is True."""
    phases = {
        "Ready": "Succeeded",
        "Stalled": "Failed",
        "Reconciling": "Pending",
        "Suspended": "Suspended",
    }
    phase = "Running" if (state, reason) == ("Reconciling", "Running") else phases[state]
    return {
        "observedGeneration": 1,
        "phase": phase,
        "jobName": NAME,
        "jobUid": JOB_UID,
        "passes": "GptqQuantizer",
        "startTime": CREATED,
        "conditions": [
            {
                "type": kind,
                "status": "True" if kind == state else "False",
                "reason": reason,
                "message": "as before",
                "observedGeneration": 1,
                "lastTransitionTime": CREATED,
            }
            for kind in ("Ready", "Reconciling", "Stalled", "Suspended")
        ],
    } | more


def result_status(**more: Any) -> dict[str, Any]:
    """The status of a job that succeeded with RESULT."""
    result = RESULT.model_dump(mode="json", by_alias=True, exclude_none=True)
    return condition_status("Ready", "Succeeded", completionTime=ENDED) | result | more


def plain(value: Any) -> Any:
    """A model or a nested object as plain JSON data."""
    return json.loads(json.dumps(value, default=str))
