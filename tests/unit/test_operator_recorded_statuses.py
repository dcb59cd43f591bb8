"""Every state that Kubernetes can leave a Job in: its category, its words, and what to change.

The statuses are composed: fields and sentences are those of a kubelet, a scheduler and admission of 1.36, names and
numbers are made up.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.cluster_objects import child, condition_status, job

from quantization_api.failures import CATALOGUE, Category
from quantization_api.status import Failure
from quantization_operator.diagnose import job_failure, pod_failure, waiting_problem
from quantization_operator.reconcile import Observed, reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, JobRequest, KubernetesWarning

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parent / "recorded_statuses"
NOW = datetime(2026, 1, 1, 10, 10, tzinfo=UTC)
C = Category

EXPECTED: dict[str, tuple[Category, str, str]] = {
    "oom-killed": (C.HOST_OUT_OF_MEMORY, "more memory than its limit", "resources.limits.memory"),
    "oom-killed-in-a-sidecar": (C.HOST_OUT_OF_MEMORY, "istio-proxy", "where it is added"),
    "oom-killed-in-an-init-container": (C.HOST_OUT_OF_MEMORY, "model-cache", "where it is added"),
    "container-cannot-run": (C.INTERNAL, "executable file not found", "spec.template.image"),
    "start-error": (C.INTERNAL, "exec format error", "architecture"),
    "config-error-secret": (C.ACCESS_DENIED, "s3-writer", "spec.storage.credentialsSecret"),
    "config-error-secret-key": (C.ACCESS_DENIED, "AWS_ACCESS_KEY_ID", "spec.storage.credentialsSecret"),
    "config-error-root": (C.INTERNAL, "runAsNonRoot", "spec.template.image"),
    "err-image-pull": (C.IMAGE_PULL_FAILED, "quantizer:9.9: not found", "no such image or tag"),
    "image-pull-back-off": (C.IMAGE_PULL_FAILED, "pull access denied", "spec.template.imagePullSecrets"),
    "image-registry-unreachable": (C.IMAGE_PULL_FAILED, "no such host", "cannot reach the registry"),
    "image-wrong-platform": (C.IMAGE_PULL_FAILED, "no match for platform", "architecture"),
    "invalid-image-name": (C.IMAGE_PULL_FAILED, "InvalidImageName", "not the name of an image"),
    "unschedulable-gpu": (C.UNSCHEDULABLE, "3 Insufficient nvidia.com/gpu", "nvidia.com/gpu"),
    "unschedulable-selector": (C.UNSCHEDULABLE, "node affinity/selector", "spec.template.nodeSelector"),
    "unschedulable-taint": (C.UNSCHEDULABLE, "untolerated taint", "spec.template.tolerations"),
    "unschedulable-memory": (C.UNSCHEDULABLE, "Insufficient memory", "requests.memory"),
    "unschedulable-claim": (C.UNSCHEDULABLE, '"models" not found', "spec.template.volumes"),
    "evicted-scratch": (C.SCRATCH_FULL, "EmptyDir", "spec.template.scratchSize"),
    "evicted-own-storage-limit": (C.SCRATCH_FULL, "5Gi", "spec.template.scratchSize"),
    "evicted-node-disk": (C.DISRUPTED, "low on resource: ephemeral-storage", "requests (ephemeral-storage)"),
    "evicted-node-memory": (C.DISRUPTED, "low on resource: memory", "requests.memory"),
    "evicted-by-the-api": (C.DISRUPTED, "Eviction API: evicting", "Nothing is wrong with the job"),
    "preempted": (C.DISRUPTED, "higher priority pod", "spec.template.priorityClassName"),
    "node-lost-terminating": (C.NODE_LOST, "gpu-3 stopped answering", "kubectl taint node gpu-3"),
    "node-removed": (C.NODE_LOST, "node no longer exists", "node"),
    "node-restarted": (C.DISRUPTED, "does not know how the container ended", "Nothing is wrong with the job"),
    "node-refused-a-device": (C.DISRUPTED, "no healthy devices", "spec.template.nodeSelector"),
    "node-shutdown": (C.DISRUPTED, "imminent node shutdown", "Nothing is wrong with the job"),
    "deadline-exceeded": (C.DEADLINE_EXCEEDED, "longer than specified deadline", "activeDeadlineSeconds"),
    "backoff-limit": (C.STORAGE_UNAVAILABLE, "3 attempts failed, the last: no answer", "spec.storage"),
    "refused-by-quota": (C.UNSCHEDULABLE, "exceeded quota: gpus", "ResourceQuota"),
    "refused-by-quota-unset": (C.UNSCHEDULABLE, "must specify limits.cpu", "set spec.template.resources"),
    "refused-by-limit-range": (C.UNSCHEDULABLE, "but limit is 64Gi", "LimitRange"),
    "refused-by-pod-security": (
        C.UNSCHEDULABLE,
        "violates PodSecurity",
        "pod-security.kubernetes.io/enforce",
    ),
    "refused-by-webhook": (C.UNSCHEDULABLE, "cost-center is required", "spec.template"),
    "webhook-unreachable": (C.UNSCHEDULABLE, "connection refused", "Nothing in the manifest is wrong"),
    "refused-without-service-account": (
        C.UNSCHEDULABLE,
        'serviceaccount "quantizer" not found',
        "spec.template.serviceAccountName",
    ),
    "job-deleted": (C.JOB_DELETED, "was deleted before it ended", "apply it again"),
}

HEALS = {"refused-by-quota", "webhook-unreachable"} | {name for name in EXPECTED if "unschedulable" in name}
"""What may end by itself is not given up after a short patience."""


def recorded(name: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return body


def diagnosed(body: dict[str, Any]) -> Failure:
    """As the operator asks: the Job's end, else its pod's, else what it waits for, else where it went."""
    pods = [ChildPod.of(item) for item in body.get("pods", ())]
    warnings = [KubernetesWarning.of(item) for item in body.get("events", ())]
    made = ChildJob.of(child(status=body.get("job", {}).get("status")))
    if body.get("deleted"):
        request = JobRequest.of(job(status=condition_status("Reconciling")))
        status = reconcile(Observed(request, fresh=True), OperatorSettings(), NOW).status
        assert status is not None
        assert status.failure is not None
        return status.failure
    if made.ended:
        return job_failure(made, pods)
    if pods and (found := pod_failure(pods[-1])):
        return found
    problem = waiting_problem(pods, warnings)
    assert problem is not None
    return problem.failure


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_status_has_its_cause_and_its_cure(name: str) -> None:
    category, message, hint = EXPECTED[name]
    found = diagnosed(recorded(name))
    assert found.category is category, found
    assert message in found.message
    assert hint in found.hint


def test_every_recording_is_in_the_table() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


def test_every_category_that_kubernetes_decides_is_recorded() -> None:
    seen = {category for category, _, _ in EXPECTED.values()}
    decided_outside = {category for category, entry in CATALOGUE.items() if entry.exit_code is None}
    assert decided_outside <= seen


@pytest.mark.parametrize("name", [name for name in EXPECTED if recorded(name).get("events")])
def test_what_may_end_by_itself_is_waited_for(name: str) -> None:
    warnings = [KubernetesWarning.of(item) for item in recorded(name)["events"]]
    problem = waiting_problem([], warnings)
    assert problem is not None
    assert problem.patience == ("schedule" if name in HEALS else "start")
