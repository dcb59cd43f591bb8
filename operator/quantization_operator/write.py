"""The only module that writes to the API server: Jobs, the status, the finalizer, the end of an object, events."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from quantization_api import API_VERSION, KIND
from quantization_api.status import QuantizationJobStatus
from quantization_api.text import clean, full_stop
from quantization_operator import paths
from quantization_operator.conditions import rfc3339
from quantization_operator.decision import Event, Rejection
from quantization_operator.kube import MERGE_PATCH, NO_ANSWER, ApiError, Kube
from quantization_operator.ownership import fits, is_cleanup
from quantization_operator.policies import rejected
from quantization_operator.snapshots import ChildJob, QuantizationJob

COMPONENT = "quantization-operator"
NAMED = {"fieldManager": COMPONENT}
"""Who changed a field, for `kubectl get --show-managed-fields` and server-side apply."""
STRICTLY = {**NAMED, "fieldValidation": "Strict"}
"""A field that this API server does not know is an error, and not left out."""
CONFLICT = 409
NOT_FOUND = 404


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that turns one object into the other: what vanishes becomes null."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif value != old:
            patch[key] = value
    return patch


class Writer:
    """Writes to the API server. Every method may be repeated: after a crash it is."""

    def __init__(self, kube: Kube, instance: str) -> None:
        self._kube = kube
        self._instance = instance

    async def create_job(self, qjob: QuantizationJob, manifest: Mapping[str, Any]) -> ChildJob | Rejection:
        """Create a Job; one that is already there and ours is the same success, also while it is going away.

        Raises:
            ApiError: temporary; try again.
        """
        name = manifest["metadata"]["name"]
        try:
            path = paths.collection("Job", qjob.namespace)
            return _job(await self._kube.request("POST", path, query=STRICTLY, body=manifest))
        except ApiError as error:
            if rejected.answers(error.code, error.message):
                return Rejection(error.code, error.message, retry_after=error.retry_after)
            if error.code != CONFLICT or error.reason != "AlreadyExists":
                raise
        there = ChildJob.of(await self._kube.request("GET", paths.item("Job", qjob.namespace, name)))
        if there is not None and (fits(qjob, there) or is_cleanup(qjob, there)):
            return there
        return Rejection(
            CONFLICT, f"a Job named {name} exists that this QuantizationJob does not own", taken=True
        )

    async def delete_job(self, job: ChildJob) -> ChildJob | None:
        """Delete a Job, exactly this one and not a later one of the name; the Job as it is then, None when it is gone.

        In the foreground: it stays, and its name is taken, until its pods have ended and write no more.

        Raises:
            ApiError: 409 when another Job has the name by now, or when somebody in between says so: look again.
        """
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": job.uid}}
        try:
            answer = await self._kube.request("DELETE", paths.item("Job", job.namespace, job.name), body=body)
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            return None
        return ChildJob.of(answer) if answer.get("kind") == "Job" else None

    async def patch_finalizers(
        self, qjob: QuantizationJob, finalizers: Sequence[str]
    ) -> QuantizationJob | None:
        """Set the finalizers of the object, of this version of it; the object then, None when it is gone.

        Raises:
            ApiError: 409 when the object changed meanwhile.
        """
        body = {
            "metadata": {
                "uid": qjob.uid,
                "resourceVersion": str(qjob.resource_version),
                "finalizers": list(finalizers),
            }
        }
        path = paths.item("QuantizationJob", qjob.namespace, qjob.name)
        try:
            answer = await self._kube.request("PATCH", path, query=NAMED, body=body, content_type=MERGE_PATCH)
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        return _qjob(answer)

    async def delete_qjob(self, qjob: QuantizationJob) -> None:
        """Delete the object as it was seen: one that was changed since is looked at again first.

        Raises:
            ApiError: 409 when it changed meanwhile.
        """
        body = {
            "propagationPolicy": "Background",
            "preconditions": {"uid": qjob.uid, "resourceVersion": str(qjob.resource_version)},
        }
        path = paths.item("QuantizationJob", qjob.namespace, qjob.name)
        try:
            await self._kube.request("DELETE", path, body=body)
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise

    async def patch_status(
        self, qjob: QuantizationJob, before: Mapping[str, Any], after: QuantizationJobStatus
    ) -> QuantizationJob:
        """Write a status over the version that it was decided from, which no namesake can have; the object then.

        Raises:
            ApiError: 409 when the object changed meanwhile, 404 when it is gone.
        """
        dumped = after.model_dump(mode="json", by_alias=True, exclude_none=True)
        wanted = {key: value for key, value in dumped.items() if value != []}
        body = {
            "metadata": {"resourceVersion": str(qjob.resource_version)},
            "status": merge_patch(before, wanted),
        }
        path = paths.item("QuantizationJob", qjob.namespace, qjob.name) + "/status"
        return _qjob(
            await self._kube.request("PATCH", path, query=NAMED, body=body, content_type=MERGE_PATCH)
        )

    async def post_event(self, qjob: QuantizationJob, event: Event, now: datetime) -> None:
        """Tell of a transition. The name follows from it, so telling it twice is a conflict and no second event."""
        stamp = rfc3339(now)
        digest = hashlib.sha256(f"{qjob.uid} {qjob.resource_version} {event.reason}".encode()).hexdigest()
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{qjob.name[:230]}.{digest[:16]}", "namespace": qjob.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": qjob.namespace,
                "name": qjob.name,
                "uid": qjob.uid,
                "resourceVersion": str(qjob.resource_version),
            },
            "type": event.type,
            "reason": event.reason,
            "message": full_stop(clean(event.message)),
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._kube.request("POST", paths.events(qjob.namespace), query=NAMED, body=body)
        except ApiError as error:
            if error.code != CONFLICT:
                raise


def _job(answer: Mapping[str, Any]) -> ChildJob:
    """The Job that was made.

    Raises:
        ApiError: something between changed it, so that nobody can say whose it is.
    """
    made = ChildJob.of(answer)
    if made is None:
        raise ApiError(NO_ANSWER, "the answer to the creation of a Job is not a Job of a QuantizationJob")
    return made


def _qjob(answer: Mapping[str, Any]) -> QuantizationJob:
    """The QuantizationJob that was changed.

    Raises:
        ApiError: the answer shows none.
    """
    changed = QuantizationJob.of(answer)
    if changed is None:
        raise ApiError(NO_ANSWER, "the answer to the change of a QuantizationJob is not one")
    return changed
