"""What the operator must make of each state that Kubernetes can leave a Job in.

For each: its category, and words of the message and of the hint.

A state is a document with what the API server shows: `job`, `pods` and `events`, or `deleted` when nothing is left.
"""

from datetime import UTC, datetime
from typing import Any

from tests.support.cluster_objects import child, condition_status, quantization_job

from quantization_api.failures import Category
from quantization_api.status import Failure
from quantization_operator.diagnose import job_failure, pod_failure
from quantization_operator.hindrances import unnoticed, waiting_problem
from quantization_operator.reconcile import Observed, reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, KubernetesWarning, QuantizationJob

NOW = datetime(2026, 1, 1, 10, 10, tzinfo=UTC)
C = Category
Expected = dict[str, tuple[Category, str, str]]

RECORDED: Expected = {
    "oom-killed": (C.HOST_OUT_OF_MEMORY, "more memory than its limit", "resources.limits.memory"),
    "oom-killed-in-a-sidecar": (C.HOST_OUT_OF_MEMORY, "istio-proxy", "where it is added"),
    "oom-killed-in-an-init-container": (C.HOST_OUT_OF_MEMORY, "model-cache", "where it is added"),
    "failed-for-good": (C.MODEL_NOT_FOUND, "nothing-here", "Check the path"),
    "backoff-limit": (C.STORAGE_UNAVAILABLE, "2 attempts failed; the last one:", "spec.storage"),
    "deadline-exceeded": (C.DEADLINE_EXCEEDED, "longer than specified deadline", "activeDeadlineSeconds"),
    "no-such-program": (C.IMAGE_UNUSABLE, "no such file or directory", "spec.template.image"),
    "other-architecture": (C.IMAGE_UNUSABLE, "exec format error", "architecture"),
    "missing-secret": (C.ACCESS_DENIED, "no-such-secret", "spec.storage.credentialsSecret"),
    "missing-config-map": (C.VOLUME_NOT_FOUND, '"no-such-map" not found', "spec.template.volumes"),
    "err-image-pull": (C.IMAGE_PULL_FAILED, "ErrImagePull: ", "no such image or tag"),
    "image-pull-back-off": (C.IMAGE_PULL_FAILED, "ImagePullBackOff: ", "no such image or tag"),
    "image-registry-unreachable": (C.IMAGE_PULL_FAILED, "registry.invalid", "cannot reach the registry"),
    "image-wrong-platform": (C.IMAGE_PULL_FAILED, "no match for platform", "architecture"),
    "invalid-image-name": (C.IMAGE_PULL_FAILED, "InvalidImageName", "not an image name"),
    "unschedulable-gpu": (C.UNSCHEDULABLE, "1 Insufficient nvidia.com/gpu", "nvidia.com/gpu"),
    "unschedulable-selector": (C.UNSCHEDULABLE, "node affinity/selector", "spec.template.nodeSelector"),
    "unschedulable-taint": (C.UNSCHEDULABLE, "untolerated taint", "spec.template.tolerations"),
    "unschedulable-memory": (C.UNSCHEDULABLE, "Insufficient memory", "requests.memory"),
    "unschedulable-claim": (C.VOLUME_NOT_FOUND, '"models" not found', "spec.template.volumes"),
    "evicted-scratch": (C.SCRATCH_FULL, "EmptyDir", "spec.template.scratchSize"),
    "evicted-own-storage-limit": (C.SCRATCH_FULL, "ephemeral local storage", "spec.template.scratchSize"),
    "evicted-by-the-api": (C.DISRUPTED, "Eviction API: evicting", "Nothing is wrong with the job"),
    "preempted": (C.DISRUPTED, "higher priority pod", "spec.template.priorityClassName"),
    "node-lost-terminating": (C.NODE_LOST, "local stopped answering", "kubectl taint node local"),
    "refused-by-quota": (C.QUOTA_EXCEEDED, "exceeded quota: no-cpu", "ResourceQuota"),
    "refused-by-quota-unset": (C.QUOTA_EXCEEDED, "must specify limits.cpu", "set spec.template.resources"),
    "refused-by-limit-range": (C.ADMISSION_DENIED, "maximum memory usage", "LimitRange"),
    "refused-by-pod-security": (
        C.ADMISSION_DENIED,
        "violates PodSecurity",
        "pod-security.kubernetes.io/enforce",
    ),
    "refused-by-policy": (C.ADMISSION_DENIED, "cost-center is required", "the owner of that policy"),
    "refused-without-service-account": (
        C.SERVICE_ACCOUNT_NOT_FOUND,
        'serviceaccount "no-such-account" not found',
        "spec.template.serviceAccountName",
    ),
    "refused-without-priority-class": (
        C.PRIORITY_CLASS_NOT_FOUND,
        "no-such-class",
        "spec.template.priorityClassName",
    ),
    "refused-without-runtime-class": (
        C.RUNTIME_CLASS_NOT_FOUND,
        "no-such-runtime",
        "spec.template.runtimeClassName",
    ),
    "webhook-unreachable": (C.ADMISSION_DENIED, "connection refused", "Nothing is wrong with the manifest"),
}
"""Real ones, taken from a cluster of one node by the tests that provoke them."""

COMPOSED: Expected = {
    "container-cannot-run": (C.IMAGE_UNUSABLE, "executable file not found", "spec.template.image"),
    "config-error-secret-key": (C.ACCESS_DENIED, "AWS_ACCESS_KEY_ID", "Add the key AWS_ACCESS_KEY_ID to"),
    "unschedulable-gpu-share": (C.UNSCHEDULABLE, "nvidia.com/gpu.shared", "Lower nvidia.com/gpu.shared in"),
    "unschedulable-mig": (C.UNSCHEDULABLE, "nvidia.com/mig-1g.10gb", "Lower nvidia.com/mig-1g.10gb in"),
    "refused-by-limit-range-default": (
        C.ADMISSION_DENIED,
        "must be less than or equal to memory limit",
        "LimitRange of the namespace gives its default",
    ),
    "unknown-scheduler": (C.SCHEDULER_NOT_FOUND, "no scheduler named vulcano", "spec.template.schedulerName"),
    "runtime-without-handler": (
        C.RUNTIME_CLASS_NOT_FOUND,
        'no runtime for "kata"',
        "spec.template.runtimeClassName",
    ),
    "unschedulable-without-resource-claim": (
        C.RESOURCE_CLAIM_NOT_FOUND,
        'resourceclaim.resource.k8s.io "gpu" not found',
        "spec.template.resourceClaims",
    ),
    "unschedulable-without-claim-template": (
        C.RESOURCE_CLAIM_NOT_FOUND,
        '"gpus" not found',
        "spec.template.resourceClaims",
    ),
    "config-error-root": (C.IMAGE_UNUSABLE, "runAsNonRoot", "spec.template.image"),
    "init-container-failed": (C.ADDED_CONTAINER, "model-cache", "where it is added"),
    "image-pull-denied": (C.IMAGE_PULL_FAILED, "pull access denied", "spec.template.imagePullSecrets"),
    "unschedulable-many-nodes": (C.UNSCHEDULABLE, "3 Insufficient nvidia.com/gpu", "nvidia.com/gpu"),
    "evicted-node-disk": (C.DISRUPTED, "low on resource: ephemeral-storage", "requests (ephemeral-storage)"),
    "evicted-node-memory": (C.DISRUPTED, "low on resource: memory", "requests.memory"),
    "node-removed": (C.NODE_LOST, "node no longer exists", "node"),
    "node-restarted": (
        C.DISRUPTED,
        "no longer knows how the container ended",
        "Nothing is wrong with the job",
    ),
    "node-refused-a-device": (C.DISRUPTED, "no healthy devices", "spec.template.nodeSelector"),
    "node-shutdown": (C.DISRUPTED, "imminent node shutdown", "Nothing is wrong with the job"),
    "refused-by-webhook": (C.ADMISSION_DENIED, "cost-center is required", "spec.template"),
    "job-deleted": (C.JOB_DELETED, "was deleted before it finished", "quantization.dev/retry"),
}
"""What a cluster of one node, with this runtime and without other software, does not show."""

HEALS = {"refused-by-quota", "webhook-unreachable"}
"""Of the refusals of a pod: what may end by itself is not given up after a short patience."""


def diagnosed(body: dict[str, Any]) -> Failure | None:
    """As the operator asks: the Job's end, else its pod's, else what it waits for, else where it went."""
    pods = [ChildPod.of(item) for item in body.get("pods", ())]
    warnings = [KubernetesWarning.of(item) for item in body.get("events", ())]
    made = ChildJob.of(child(status=body.get("job", {}).get("status")))
    if body.get("deleted"):
        qjob = QuantizationJob.of(quantization_job(status=condition_status("Reconciling")))
        status = reconcile(Observed(qjob, fresh=True), OperatorSettings(), NOW).status
        return status.failure if status else None
    if made.ended == "Failed":
        return job_failure(made, pods)
    if pods and (found := pod_failure(pods[-1])):
        return found
    problem = waiting_problem(pods, warnings)
    problem = problem or unnoticed(pods)
    return problem.failure if problem else None


def differs(found: Failure | None, expected: tuple[Category, str, str]) -> str:
    """What is wrong with a diagnosis; "" when it names its cause and its cure."""
    category, message, hint = expected
    if found is None:
        return f"nothing was found, expected {category}"
    right = found.category is category and message in found.message and hint in found.hint
    return "" if right else f"{found!r}, expected {expected}"
