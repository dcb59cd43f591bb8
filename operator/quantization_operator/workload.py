"""From a QuantizationJob to the manifest of its child Job: pure.

The Job is created once and never applied again: a queueing system edits its suspend flag, node selector and
tolerations, and must win. Its name is derived from the uid, so creating it twice is a conflict, not a second Job.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from quantization_api import API_VERSION, GROUP, KIND
from quantization_api.constants import REQUEST_ENV
from quantization_api.pod import PROGRESS_PORT, SCRATCH_PATH, RunRequest
from quantization_api.spec import QuantizationJobSpec
from quantization_operator.defaults import NOTHING, Beside
from quantization_operator.pod_spec import as_kubernetes, environment, pod
from quantization_operator.policies import deadline, parallelism, retry
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import (
    DEFAULTS_ANNOTATION,
    FAILED_BEFORE_ANNOTATION,
    GENERATION_ANNOTATION,
    MADE_FROM_ANNOTATION,
    QJOB_UID_LABEL,
    RESTARTS_ANNOTATION,
    QuantizationJob,
)

MANAGED_BY = "quantization-operator"
MANAGED_BY_SELECTOR = f"app.kubernetes.io/managed-by={MANAGED_BY},{QJOB_UID_LABEL}"
QJOB_NAME_LABEL = f"{GROUP}/job-name"
SCRATCH_ENV = ({"name": "HOME", "value": SCRATCH_PATH}, {"name": "TMPDIR", "value": SCRATCH_PATH})
OF_SEVERAL_WORKERS = "kueue.x-k8s.io/job-"
"""Begins annotations about how many pods a Job has; Kueue refuses them on a Job of one."""
CLEANUP_RETRIES = 2
CLEANUP_TTL_SECONDS = 600
CLEANUP_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"cpu": "1", "memory": "1Gi"},  # a quota may ask for limits
}


def job_name(name: str, uid: str) -> str:
    """The name of the child Job: readable, unique for the uid, at most 60 characters.

    It becomes a label; with the number of a worker it becomes a host name, which is a label of DNS.
    """
    prefix = name.replace(".", "-")[:49].rstrip("-")
    return f"{prefix}-{hashlib.sha256(uid.encode()).hexdigest()[:10]}"


def cleanup_name(name: str, uid: str) -> str:
    """The name of the Job that removes the artifact; never that of a child Job."""
    return job_name(f"{name[:42]}-delete", f"{uid}/delete")


def labels(qjob: QuantizationJob, component: str = "job") -> dict[str, str]:
    """Labels of the Job and its pods. The job's name is a label only where it fits one."""
    named = {QJOB_NAME_LABEL: qjob.name} if len(qjob.name) <= 63 else {}
    return {
        "app.kubernetes.io/name": "quantizer",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "quantization",
        "app.kubernetes.io/managed-by": MANAGED_BY,
        QJOB_UID_LABEL: qjob.uid,
        **named,
    }


def build(
    qjob: QuantizationJob,
    spec: QuantizationJobSpec,
    settings: OperatorSettings,
    failed_before: int = 0,
    given: Beside = NOTHING,
) -> dict[str, Any]:
    """The manifest of the child Job (batch/v1). failed_before: attempts that Jobs before a pause counted."""
    own = labels(qjob)
    annotations = {
        **qjob.queue_annotations,
        GENERATION_ANNOTATION: str(qjob.generation),
        MADE_FROM_ANNOTATION: qjob.parts,
    }
    if given.told:
        annotations[DEFAULTS_ANNOTATION] = given.told
    if qjob.restarts:
        annotations[RESTARTS_ANNOTATION] = str(qjob.restarts)
    if failed_before:
        annotations[FAILED_BEFORE_ANNOTATION] = str(failed_before)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(qjob.name, qjob.uid),
            "namespace": qjob.namespace,
            "labels": {**own, **qjob.queue_labels, **given.queue_labels},
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": qjob.name,
                    "uid": qjob.uid,
                    "controller": True,
                    # A foreground deletion of the QuantizationJob ends when no pod writes to its output any more.
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            **retry.job_fields(spec, failed_before),
            **deadline.job_fields(spec),
            **parallelism.job_fields(spec),
            **given.job_fields,
            "template": {
                "metadata": _of_pods(spec, own, qjob.queue_annotations),
                "spec": pod(spec, settings, _quantizer(qjob, spec, settings)),
            },
        },
    }


def build_cleanup(
    qjob: QuantizationJob,
    spec: QuantizationJobSpec,
    settings: OperatorSettings,
    recipe: str | None,
    given: Beside = NOTHING,
    *,
    bare: bool = False,
) -> dict[str, Any]:
    """The manifest of the Job that removes the artifact of a deleted QuantizationJob. recipe: of that artifact.

    It has no owner: a foreground deletion of the QuantizationJob would remove it before it has done its work. It
    ends by its deadline and is removed by its time to live. No GPU: it lists and deletes objects. bare: a LimitRange
    refuses its resources, and gives a container that asks for none its own.
    """
    own = labels(qjob, "cleanup")
    queued = {k: v for k, v in qjob.queue_annotations.items() if not k.startswith(OF_SEVERAL_WORKERS)}
    work = _remover(qjob, spec, settings, recipe) | ({"resources": {}} if bare else {})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": cleanup_name(qjob.name, qjob.uid),
            "namespace": qjob.namespace,
            "labels": {**own, **qjob.queue_labels, **given.queue_labels},
            "annotations": queued,
        },
        "spec": {
            "backoffLimit": CLEANUP_RETRIES,
            "activeDeadlineSeconds": max(1, int(settings.cleanup_deadline_seconds)),
            "ttlSecondsAfterFinished": CLEANUP_TTL_SECONDS,
            "template": {
                "metadata": _of_pods(spec, own, queued),
                "spec": pod(spec, settings, work),
            },
        },
    }


def _of_pods(
    spec: QuantizationJobSpec, own: Mapping[str, str], queued: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Labels and annotations of the pods: the operator's own win, then those of the queue."""
    return {
        "labels": {**spec.template.labels, **own},
        "annotations": {**spec.template.annotations, **queued},
    }


def _quantizer(
    qjob: QuantizationJob, spec: QuantizationJobSpec, settings: OperatorSettings
) -> dict[str, Any]:
    request = {"name": REQUEST_ENV, "value": run_request(qjob, spec, settings)}
    return {
        "args": ["run"],
        **environment(spec.template, [request, *SCRATCH_ENV, *_credentials(spec)]),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": as_kubernetes(spec.template.resources),
    }


def _remover(
    qjob: QuantizationJob, spec: QuantizationJobSpec, settings: OperatorSettings, recipe: str | None
) -> dict[str, Any]:
    """What holds of the storage for the quantizer holds here too: its patience, and what the administrator refuses."""
    options = {
        "--uid": qjob.uid,
        "--recipe": recipe,
        "--endpoint": spec.storage.endpoint,
        "--region": spec.storage.region,
    }
    given = [f"{name}={value}" for name, value in options.items() if value]
    given.append(f"--patience={spec.storage.patience_seconds}")
    if settings.refuse_link_local_endpoints:
        given.append("--refuse-link-local")
    return {
        # Kubernetes expands $(NAME) in an argument, also to secrets; $$ is a dollar.
        "args": [word.replace("$", "$$") for word in ("delete", *given, spec.output.uri)],
        **environment(spec.template, [*SCRATCH_ENV, *_credentials(spec)]),
        "resources": CLEANUP_RESOURCES,
    }


def _credentials(spec: QuantizationJobSpec) -> list[dict[str, Any]]:
    """Of the Secret, the keys of an S3 account by their names. Not `envFrom`: that would bring every key it has, also
    those of another purpose, and set variables such as PYTHONPATH.
    """
    secret = spec.storage.credentials_secret
    if secret is None:
        return []

    def variable(name: str, key: str, **more: bool) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key, **more}}}

    return [
        variable("AWS_ACCESS_KEY_ID", secret.keys.access_key_id),
        variable("AWS_SECRET_ACCESS_KEY", secret.keys.secret_access_key),
        variable("AWS_SESSION_TOKEN", secret.keys.session_token, optional=True),
    ]


def run_request(qjob: QuantizationJob, spec: QuantizationJobSpec, settings: OperatorSettings) -> str:
    """The request as JSON. `$` is written as an escape: Kubernetes expands $(NAME) in a value, also to secrets."""
    document = RunRequest.from_spec(
        qjob.name,
        qjob.namespace,
        qjob.uid,
        spec,
        settings.default_calibration or None,
        settings.refuse_link_local_endpoints,
    )
    return document.model_dump_json(by_alias=True, exclude_none=True).replace("$", "\\u0024")
