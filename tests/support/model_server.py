"""An API server in memory: what its contract promises about versions, finalizers, preconditions and watches.

For tests that need ten thousand steps in a random order. It knows the three kinds that the operator watches, and
answers the requests of `Kube` as a real server does (`tests/integration` holds the two together).
"""

import copy
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from quantization_operator import paths
from quantization_operator.cache import KINDS, Kind
from quantization_operator.conditions import rfc3339
from quantization_operator.kube import METADATA_LIST, ApiError

NAMESPACE = "default"
FOREGROUND = "foregroundDeletion"
Body = dict[str, Any]


class Told(NamedTuple):
    """One event of a watch; type None is an object that a listing shows."""

    type: str | None
    body: Body


def labelled(body: Body, label: str) -> str:
    """The value of a label, "" without it."""
    return str((body["metadata"].get("labels") or {}).get(label, ""))


def selected(body: Body, selector: str) -> bool:
    """Whether a label selector of the forms `a=b` and `a` chooses it."""
    terms = [term.partition("=") for term in selector.split(",") if term]
    return all(labelled(body, a) == b if equals else labelled(body, a) for a, equals, b in terms)


def owner(body: Body) -> str:
    """The uid of the object that owns it, "" without one."""
    return next((str(o["uid"]) for o in body["metadata"].get("ownerReferences") or ()), "")


def deleting(body: Body) -> bool:
    """It is going away."""
    return "deletionTimestamp" in body["metadata"]


class ModelServer:
    """The stored objects by kind and uid, and the events of each kind's watch since the beginning.

    removed: QuantizationJobs that a client asked to be deleted, as they were, each with the time of its request.
    admit: called with each new Job before it is stored, like a mutating webhook; it may refuse with an ApiError.
    """

    def __init__(
        self, now: Callable[[], datetime], admit: Callable[[Body], None] = lambda _job: None
    ) -> None:
        self._now = now
        self._admit = admit
        self._version = 100
        self._made = 0
        self.objects: dict[Kind, dict[str, Body]] = {kind: {} for kind in KINDS}
        self.told: dict[Kind, list[Told]] = {kind: [] for kind in KINDS}
        self.events: dict[str, Body] = {}
        self.removed: list[tuple[Body, datetime]] = []

    # --- what a controller, a kubelet or a user does ---------------------------------------------------------

    def create(self, kind: Kind, body: Mapping[str, Any]) -> Body:
        """Store a new object."""
        stored = copy.deepcopy(dict(body))
        name = stored["metadata"]["name"]
        if self.named(kind, name) is not None:
            raise ApiError(409, f"{kind} {name} already exists", "AlreadyExists")
        if kind == "Job":
            self._admit(stored)
        self._made += 1
        stored["kind"] = kind
        stored["metadata"] |= {
            "uid": f"{kind}-{self._made:04}",
            "namespace": NAMESPACE,
            "generation": 1,
            "creationTimestamp": rfc3339(self._now()),
        }
        return self._store(kind, stored, "ADDED")

    def update(self, kind: Kind, uid: str, change: Callable[[Body], None]) -> Body:
        """Change an object in place; a change that changes nothing makes no version."""
        stored = self.objects[kind][uid]
        changed = copy.deepcopy(stored)
        change(changed)
        if changed == stored:
            return copy.deepcopy(stored)
        if changed.get("spec") != stored.get("spec"):
            changed["metadata"]["generation"] += 1
        if deleting(changed) and not changed["metadata"].get("finalizers"):
            return self._remove(kind, changed)
        return self._store(kind, changed, "MODIFIED")

    def delete(self, kind: Kind, uid: str, *finalizers: str) -> Body:
        """Delete an object: at once, or when its finalizers, and those given here, are gone."""

        def mark(body: Body) -> None:
            if not deleting(body):
                body["metadata"]["deletionTimestamp"] = rfc3339(self._now())
                body["metadata"]["finalizers"] = [*body["metadata"].get("finalizers", ()), *finalizers]

        return self.update(kind, uid, mark)

    def release(self, kind: Kind, uid: str, finalizer: str) -> Body:
        """Take a finalizer off an object."""

        def off(body: Body) -> None:
            body["metadata"]["finalizers"] = [
                f for f in body["metadata"].get("finalizers", ()) if f != finalizer
            ]

        return self.update(kind, uid, off)

    def named(self, kind: Kind, name: str) -> Body | None:
        """The object of a name."""
        return next((body for body in self.objects[kind].values() if body["metadata"]["name"] == name), None)

    def _store(self, kind: Kind, body: Body, event: str) -> Body:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.objects[kind][body["metadata"]["uid"]] = body
        self.told[kind].append(Told(event, copy.deepcopy(body)))
        return copy.deepcopy(body)

    def _remove(self, kind: Kind, body: Body) -> Body:
        stored = self._store(kind, body, "DELETED")
        del self.objects[kind][body["metadata"]["uid"]]
        return stored

    # --- what the operator asks ------------------------------------------------------------------------------

    def handle(self, method: str, path: str, query: Mapping[str, str], body: Any, accept: str) -> Body:
        """The answer to a request.

        Raises:
            ApiError: it is refused.
        """
        if path == paths.events(NAMESPACE):
            return self._event(method, body)
        for kind in KINDS:
            found = re.fullmatch(rf"{paths.collection(kind, NAMESPACE)}(?:/([^/]+))?(/status)?", path)
            if found or path == paths.collection(kind, None):
                name, sub = (found[1], found[2]) if found else (None, None)
                if name is None:
                    return self.create(kind, body) if method == "POST" else self._list(kind, query, accept)
                return self._item(method, kind, name, body, bool(sub))
        if (method, path) == ("GET", paths.workloads(NAMESPACE)):
            raise ApiError(
                404, "the server could not find the requested resource", "NotFound"
            )  # no Kueue here
        raise AssertionError(f"the operator asked for {method} {path}")

    def _event(self, method: str, body: Any) -> Body:
        if method == "GET":
            return {"items": []}
        name = body["metadata"]["name"]
        if name in self.events:
            raise ApiError(409, f"event {name} exists", "AlreadyExists")
        self.events[name] = body
        return copy.deepcopy(dict(body))

    def _list(self, kind: Kind, query: Mapping[str, str], accept: str) -> Body:
        found = [b for b in self.objects[kind].values() if selected(b, query.get("labelSelector", ""))]
        items = [{"metadata": b["metadata"]} for b in found] if accept == METADATA_LIST else found
        return {"metadata": {"resourceVersion": str(self._version)}, "items": copy.deepcopy(items)}

    def _item(self, method: str, kind: Kind, name: str, body: Any, status: bool) -> Body:
        there = self.named(kind, name)
        if there is None:
            raise ApiError(404, f"{kind} {name} not found", "NotFound")
        uid = there["metadata"]["uid"]
        if method == "GET":
            return copy.deepcopy(there)
        expected = (body or {}).get("preconditions" if method == "DELETE" else "metadata") or {}
        for key in ("uid", "resourceVersion"):
            if key in expected and str(expected[key]) != str(there["metadata"][key]):
                raise ApiError(409, f"{kind} {name}: {key} is {there['metadata'][key]}", "Conflict")
        if method == "DELETE":
            if kind == "QuantizationJob":
                self.removed.append((copy.deepcopy(there), self._now()))
            foreground = (body or {}).get("propagationPolicy") == "Foreground"
            return self.delete(kind, uid, *([FOREGROUND] if foreground else []))
        part = ("status",) if status else ("spec", "finalizers")
        return self.update(kind, uid, lambda stored: _patch(stored, body, part))


def _patch(stored: Body, patch: Mapping[str, Any], parts: tuple[str, ...]) -> None:
    for part in parts:
        if part == "finalizers" and part in patch.get("metadata", {}):
            stored["metadata"][part] = list(patch["metadata"][part])
        elif part in patch:
            stored[part] = _merged(stored.get(part), patch[part])


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
