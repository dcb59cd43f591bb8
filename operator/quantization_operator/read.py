"""What the cache cannot know: objects as they are this moment, the events of a job that is stuck, and who exists."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from quantization_operator import paths
from quantization_operator.cache import Key, Kind
from quantization_operator.kube import METADATA_LIST, ApiError, Kube
from quantization_operator.snapshots import (
    JOB_UID_LABEL,
    ChildJob,
    ChildPod,
    JobRequest,
    KubernetesWarning,
    version,
)
from quantization_operator.workload import MANAGED_BY_SELECTOR

PAGE = "500"
WARNING_AGE = timedelta(minutes=15)
"""An older warning says nothing about now; the Job controller's longest back-off is 10 minutes."""
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing says of one object."""

    key: Key
    name: str
    resource_version: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of a kind by uid, as of a resource version."""

    objects: dict[str, Listed]
    resource_version: int


class Reader:
    """Reads from the API server past the cache."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def job(self, namespace: str, name: str) -> ChildJob | None:
        """A Job by its name, or None."""
        body = await self._item("Job", namespace, name)
        return None if body is None else ChildJob.of(body)

    async def whole_request(self, namespace: str, name: str) -> JobRequest | None:
        """A QuantizationJob with its spec and status, which the cache does not keep when it has ended; or None."""
        body = await self._item("QuantizationJob", namespace, name)
        return None if body is None else JobRequest.of(body, whole=True)

    async def _item(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return await self._kube.request("GET", paths.item(kind, namespace, name))
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return None
            raise

    async def pods(self, namespace: str, request_uid: str) -> tuple[ChildPod, ...]:
        """The pods of a QuantizationJob."""
        query = {"labelSelector": f"{JOB_UID_LABEL}={request_uid}"}
        answer = await self._kube.request("GET", paths.collection("Pod", namespace), query=query)
        return tuple(ChildPod.of(item) for item in answer["items"] or ())

    async def warnings(self, namespace: str, uid: str, now: datetime) -> tuple[KubernetesWarning, ...]:
        """The recent Warning events about an object, the newest first."""
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": "50"}
        answer = await self._kube.request("GET", paths.events(namespace), query=query)
        found = [KubernetesWarning.of(item) for item in answer["items"] or ()]
        recent = [w for w in found if w.last_seen is not None and now - w.last_seen < WARNING_AGE]
        return tuple(sorted(recent, key=lambda w: (w.last_seen, w.message), reverse=True))

    async def listing(self, kind: Kind, namespace: str | None) -> Listing:
        """All objects of a kind that concern the operator, metadata only, page by page."""
        query = {"limit": PAGE}
        if kind != "QuantizationJob":
            query["labelSelector"] = MANAGED_BY_SELECTOR
        objects: dict[str, Listed] = {}
        while True:
            answer = await self._kube.request(
                "GET", paths.collection(kind, namespace), query=query, accept=METADATA_LIST
            )
            for entry in answer["items"] or ():
                metadata = entry["metadata"]
                uid = metadata["uid"]
                owner = uid if kind == "QuantizationJob" else metadata["labels"][JOB_UID_LABEL]
                objects[uid] = Listed(Key(metadata["namespace"], owner), metadata["name"], version(metadata))
            following = answer["metadata"].get("continue")
            if not following:
                return Listing(objects, version(answer["metadata"]))
            query["continue"] = following
