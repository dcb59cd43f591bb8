"""The only module that writes to the API server: create the Job, stop it, patch the status, post an event."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from quantization_api import API_VERSION, KIND
from quantization_api.status import QuantizationJobStatus
from quantization_operator import paths
from quantization_operator.conditions import rfc3339
from quantization_operator.kube import MERGE_PATCH, ApiError, Kube
from quantization_operator.reconcile import Event, Refusal
from quantization_operator.snapshots import ChildJob, JobRequest

COMPONENT = "quantization-operator"
CONFLICT = 409
NOT_FOUND = 404
_REFUSALS = (400, 403, 422)


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

    async def create_job(self, request: JobRequest, manifest: Mapping[str, Any]) -> ChildJob | Refusal:
        """Create the child Job; one that is already there and ours is the same success.

        Raises:
            ApiError: temporary; try again.
        """
        name = manifest["metadata"]["name"]
        try:
            path = paths.collection("Job", request.namespace)
            return ChildJob.of(await self._kube.request("POST", path, body=manifest))
        except ApiError as error:
            if error.code in _REFUSALS:
                return Refusal(error.code, error.message)
            if error.code != CONFLICT or error.reason != "AlreadyExists":
                raise
        there = ChildJob.of(await self._kube.request("GET", paths.item("Job", request.namespace, name)))
        if there.owner_uid == request.uid:
            return there
        return Refusal(
            CONFLICT, f"a Job named {name} exists that this QuantizationJob does not own", taken=True
        )

    async def delete_job(self, job: ChildJob) -> None:
        """Delete a Job and, by the garbage collector, its pods; exactly this one, not a later one of the name."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": job.uid}}
        try:
            await self._kube.request("DELETE", paths.item("Job", job.namespace, job.name), body=body)
        except ApiError as error:
            if error.code not in (NOT_FOUND, CONFLICT):
                raise

    async def patch_status(
        self, request: JobRequest, before: Mapping[str, Any], after: QuantizationJobStatus
    ) -> JobRequest:
        """Write a status over the version that it was decided from, which no namesake can have; the object then.

        Raises:
            ApiError: 409 when the object changed meanwhile, 404 when it is gone.
        """
        dumped = after.model_dump(mode="json", by_alias=True, exclude_none=True)
        wanted = {key: value for key, value in dumped.items() if value != []}
        body = {
            "metadata": {"resourceVersion": str(request.resource_version)},
            "status": merge_patch(before, wanted),
        }
        path = paths.item("QuantizationJob", request.namespace, request.name) + "/status"
        return JobRequest.of(await self._kube.request("PATCH", path, body=body, content_type=MERGE_PATCH))

    async def post_event(self, request: JobRequest, event: Event, now: datetime) -> None:
        """Tell of a transition. The name follows from it, so telling it twice is a conflict and no second event."""
        stamp = rfc3339(now)
        digest = hashlib.sha256(
            f"{request.uid} {request.resource_version} {event.reason}".encode()
        ).hexdigest()
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{request.name[:230]}.{digest[:16]}", "namespace": request.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": request.namespace,
                "name": request.name,
                "uid": request.uid,
                "resourceVersion": str(request.resource_version),
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._kube.request("POST", paths.events(request.namespace), body=body)
        except ApiError as error:
            if error.code != CONFLICT:
                raise
