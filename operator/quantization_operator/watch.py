"""kopf's part: watch three kinds of objects, and hand each event to the cache and the queue.

Only `on.event` handlers are registered: they add no finalizer, write no annotation and keep no state. kopf
calls them once for each object at start and after each gap, and once for each change. What kopf carries to them is
made where it decodes (`kopf_client`): the identity of an object, and the snapshot of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import kopf
from kubernetes import client

from quantization_api import GROUP, PLURAL, VERSION
from quantization_operator import parsing
from quantization_operator.cache import Cache, Snapshot
from quantization_operator.identity import Kind
from quantization_operator.probes import Health
from quantization_operator.queue import WorkQueue
from quantization_operator.snapshots import ChildJob, ChildPod, QuantizationJob
from quantization_operator.unreadable import Unreadable
from quantization_operator.workload import MANAGED_BY_SELECTOR

IDLE_SECONDS = 0.1
"""How long kopf keeps a task, and with it the whole last object, for each object that it has told of. Its 5 s would
hold everything that exists in memory at each start."""

RESOURCES: tuple[tuple[Kind, tuple[str, ...], Callable[[Any], Snapshot | None]], ...] = (
    ("QuantizationJob", (GROUP, VERSION, PLURAL), QuantizationJob.of),
    ("Job", ("batch", "v1", "jobs"), ChildJob.of),
    ("Pod", ("", "v1", "pods"), ChildPod.of),
)
_KINDS = {resource[-1]: kind for kind, resource, _ in RESOURCES}
_SNAPSHOTS: dict[Any, Callable[[Any], Snapshot | None]] = {kind: of for kind, _, of in RESOURCES}

SNAPSHOT = "quantization-operator-snapshot"
"""The field of what kopf carries in which the snapshot is; no field of an object has such a name."""
IDENTITY = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def carry(body: Any, plural: str = "") -> dict[str, Any]:
    """What kopf is to carry of an object: who it is, and the snapshot, which is None for one that is nobody's.

    plural: of its resource, where the object does not say its kind: those of a list do not.
    """
    metadata = parsing.mapping(parsing.at(body, "metadata"))
    kind = _KINDS.get(plural) or parsing.at(body, "kind")
    snapshot = _SNAPSHOTS.get(kind) if isinstance(kind, str) else None
    return {
        "kind": kind,
        "apiVersion": parsing.at(body, "apiVersion"),
        "metadata": {key: metadata[key] for key in IDENTITY if key in metadata},
        SNAPSHOT: snapshot(body) if snapshot else None,
    }


def registry(
    cache: Cache,
    queue: WorkQueue,
    health: Health,
    relisted: Callable[[], None],
    unreadable: Unreadable,
    configuration: client.Configuration,
) -> kopf.OperatorRegistry:
    """The handlers, in a registry of their own. `relisted` is called for objects that come by a listing."""
    handlers = kopf.OperatorRegistry()
    for kind, resource, _ in RESOURCES:
        handler = handler_of(kind, cache, queue, health, relisted, unreadable)
        kopf.on.event(*resource, id=kind, registry=handlers)(handler)

    @kopf.on.login(registry=handlers)
    def log_in(**_: Any) -> kopf.ConnectionInfo:
        return connection(configuration)

    return handlers


def handler_of(
    kind: Kind,
    cache: Cache,
    queue: WorkQueue,
    health: Health,
    relisted: Callable[[], None],
    unreadable: Unreadable,
) -> Callable[..., Any]:
    """What is done with each event of a kind."""

    async def seen(event: Mapping[str, Any], **_: Any) -> None:
        health.watch_event()
        if event["type"] is None:
            relisted()
        body = event["object"]
        metadata, snapshot = body["metadata"], body[SNAPSHOT]
        if event["type"] == "DELETED":
            key = cache.drop(kind, metadata.get("uid") or "")
        elif snapshot is None:
            unreadable.note(kind, metadata)
            key = cache.lose(kind, metadata.get("uid") or "")
        else:
            key = cache.put(snapshot)
        if key is not None:
            queue.add(key)

    return seen


def connection(configuration: client.Configuration) -> kopf.ConnectionInfo:
    """kopf's login from the client's configuration; called again when the API server answers 401."""
    header = configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )


class NothingRemembered(kopf.DiffBaseStorage):
    """What kopf compares an object with: nothing.

    Its own storage copies and diffs each object at each event for handlers of changes, of which there are none here:
    that was half of the operator's CPU time under load.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """The part of an object that is to be compared: none."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """What was remembered of an object: nothing."""

    def store(self, **_: Any) -> None:
        """Remember nothing."""


class NoProgress(kopf.StatusProgressStorage):
    """Where kopf keeps how far its handlers of changes are: there are none, and nothing is to be left out of {}."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """What is compared, as it is: kopf's own copies it."""
        return essence


def kopf_settings() -> kopf.OperatorSettings:
    """No scanning for new resources (it would need permissions), no events from log lines, only our own objects."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = NothingRemembered()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["batch", "v1", "jobs"] = MANAGED_BY_SELECTOR
    settings.watching.label_selectors["", "v1", "pods"] = MANAGED_BY_SELECTOR
    return settings
