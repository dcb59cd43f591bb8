"""What the cache cannot know: objects as they are this moment, the events of a job that is stuck, and who exists.

Lists are read one object at a time, and of each only what is needed is kept (`decode.ListReader`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from quantization_operator import parsing, paths
from quantization_operator.cache import Snapshot
from quantization_operator.identity import QJOB_UID_LABEL, Identity, Key, Kind, identify, version
from quantization_operator.kube import METADATA_LIST, ApiError, Kube
from quantization_operator.snapshots import ChildJob, ChildPod, KubernetesWarning, QuantizationJob
from quantization_operator.workload import MANAGED_BY_SELECTOR

PAGE = "500"
WARNING_AGE = timedelta(minutes=15)
"""An older warning says nothing about now; the Job controller's longest back-off is 10 minutes."""
_NOT_FOUND = 404
_SNAPSHOTS: dict[Kind, Callable[[Any], Snapshot | None]] = {
    "QuantizationJob": QuantizationJob.of,
    "Job": ChildJob.of,
    "Pod": ChildPod.of,
}


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

    async def whole_qjob(self, namespace: str, name: str) -> QuantizationJob | None:
        """A QuantizationJob with its spec and status, which the cache does not keep when it has ended; or None."""
        body = await self._item("QuantizationJob", namespace, name)
        return None if body is None else QuantizationJob.of(body, whole=True)

    async def _item(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return await self._kube.request("GET", paths.item(kind, namespace, name))
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return None
            raise

    async def snapshot(self, kind: Kind, namespace: str, name: str) -> Snapshot | None:
        """An object as it is now; None when it is gone, or nobody's."""
        body = await self._item(kind, namespace, name)
        return None if body is None else _SNAPSHOTS[kind](body)

    async def pods(self, namespace: str, qjob_uid: str) -> tuple[ChildPod, ...]:
        """The pods that say that they belong to a QuantizationJob, whatever made them."""
        query = {"labelSelector": f"{QJOB_UID_LABEL}={qjob_uid}"}
        answer = await self._kube.request(
            "GET", paths.collection("Pod", namespace), query=query, each=ChildPod.of
        )
        return tuple(pod for pod in answer["items"] if pod is not None)

    async def warnings(self, namespace: str, uid: str, now: datetime) -> tuple[KubernetesWarning, ...]:
        """The recent Warning events about an object, the newest first."""
        query = {"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": "50"}
        answer = await self._kube.request(
            "GET", paths.events(namespace), query=query, each=KubernetesWarning.of
        )
        recent = [
            (warning.last_seen, warning.message, warning)
            for warning in answer["items"]
            if warning.last_seen is not None and now - warning.last_seen < WARNING_AGE
        ]
        return tuple(warning for *_, warning in sorted(recent, key=lambda item: item[:2], reverse=True))

    async def listing(self, kind: Kind, namespace: str | None) -> Listing:
        """All objects of a kind that concern the operator, metadata only, page by page, without what is nobody's."""
        query = {"limit": PAGE}
        if kind != "QuantizationJob":
            query["labelSelector"] = MANAGED_BY_SELECTOR
        objects: dict[str, Listed] = {}

        def each(body: Any) -> Identity | None:
            return identify(kind, body)

        while True:
            answer = await self._kube.request(
                "GET", paths.collection(kind, namespace), query=query, accept=METADATA_LIST, each=each
            )
            for known in filter(None, answer["items"]):
                objects[known.uid] = Listed(known.key, known.name, known.resource_version)
            metadata = parsing.mapping(answer.get("metadata"))
            following = metadata.get("continue")
            if not following:
                return Listing(objects, version(metadata))
            query["continue"] = following
