"""Which object it is that was told of, and whose: the one filter for the watch, the listings and the answers.

An object that cannot be identified is nobody's. That is judged by its metadata alone, so that a listing, which has no
more, and the watch cannot differ: a watch that told of an object that only a listing knew would be taken for dead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from quantization_api.constants import QJOB_UID_LABEL as QJOB_UID_LABEL
from quantization_operator import parsing

Kind = Literal["QuantizationJob", "Job", "Pod"]
KINDS: tuple[Kind, ...] = ("QuantizationJob", "Job", "Pod")

MOST_FINALIZERS = 64
"""They are kept, since the one who changes one has to write them all."""


class Key(NamedTuple):
    """Identity of a QuantizationJob: a uid alone would be anybody's word, in a label of any namespace."""

    namespace: str
    uid: str


@dataclass(frozen=True, slots=True)
class Identity:
    """An object of the API server."""

    uid: str
    namespace: str
    name: str
    resource_version: int
    created: datetime
    key: Key
    """Of the QuantizationJob that it is, or says that it belongs to."""


def identify(kind: Kind, body: Any) -> Identity | None:
    """Which object this is; None when it cannot be said, or when it is nobody's."""
    metadata = parsing.at(body, "metadata")
    if not isinstance(metadata, dict):
        return None
    uid, namespace, name = _short(metadata, "uid"), _short(metadata, "namespace"), _short(metadata, "name")
    owner = uid if kind == "QuantizationJob" else _short(metadata.get("labels"), QJOB_UID_LABEL)
    created = parsing.moment(metadata.get("creationTimestamp"))
    if not (uid and namespace and name and owner) or created is None:
        return None
    if len(parsing.sequence(metadata.get("finalizers"))) > MOST_FINALIZERS:
        return None
    return Identity(uid, namespace, name, version(metadata), created, Key(namespace, owner))


def _short(values: Any, key: str) -> str:
    value = values.get(key) if type(values) is dict else None
    return value if type(value) is str and len(value) <= parsing.LONGEST_WORD else ""


def version(metadata: Mapping[str, Any]) -> int:
    """The resourceVersion as a number: comparable within one resource (KEP-5504)."""
    return parsing.integer(metadata.get("resourceVersion"), most=2**63 - 1)


FOREIGN = "?"
"""In place of a uid: a controller of another kind has the object."""


def controller_of(metadata: Mapping[str, Any], group: str, kind: str) -> str:
    """The uid of the object of that kind that controls this one; "" when nothing controls it."""
    for owner in parsing.mappings(metadata.get("ownerReferences")):
        if owner.get("controller") is True:
            ours = owner.get("kind") == kind and str(owner.get("apiVersion")).partition("/")[0] == group
            return (parsing.word(owner.get("uid")) if ours else "") or FOREIGN
    return ""
