"""What is particular to one run, taken out of what the API server shows; pure. Sentences stay as they were said.

Names, uids, digests and addresses are numbered in the order in which they come; times keep their distances from the
creation of the Job, which is moved to one moment; the environment of a container, the Job's copy of its pod, who wrote
which field, and which process said something are left out.
"""

import copy
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]

EPOCH = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HEX = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
ADDRESS = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
SUFFIX = re.compile(r"^(?P<stem>.+)-[0-9a-f]{10}$")
LEFT_OUT = ("managedFields", "source", "reportingInstance", "reportingComponent", "template")


def scrubbed(picture: Document) -> Document:
    """The picture {job, pods, events} of a Job without what belongs to one run of one machine."""
    small = _without(copy.deepcopy(picture))
    created = datetime.fromisoformat(picture["job"]["metadata"]["creationTimestamp"])
    text = json.dumps(small)
    for old, new in _names(small):
        text = text.replace(old, new)
    text = UID.sub(_numbered(lambda n: f"00000000-0000-4000-8000-{n:012d}"), text)
    text = HEX.sub(_numbered(lambda n: f"{n:064d}"), text)
    text = ADDRESS.sub(_numbered(lambda n: f"192.0.2.{n}"), text)
    text = TIME.sub(lambda found: _moved(found[0], created), text)
    result: Document = json.loads(text)
    for number, event in enumerate(result["events"], 1):
        event["metadata"]["name"] = f"event-{number}"
    return result


def _without(value: Any) -> Any:
    """Without the fields of LEFT_OUT and the values of environments; every resourceVersion is 1."""
    if isinstance(value, list):
        return [_without(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without(item) for key, item in value.items() if key not in LEFT_OUT}
    if isinstance(kept.get("env"), list):
        kept["env"] = [{"name": item["name"], "value": "..."} for item in kept["env"]]
    if "resourceVersion" in kept:
        kept["resourceVersion"] = "1"
    annotations = kept.get("annotations")
    if isinstance(annotations, dict):
        annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return kept


def _names(picture: Document) -> list[tuple[str, str]]:
    """Random names and what takes their place; pods first, whose names begin with the Job's."""
    name = picture["job"]["metadata"]["name"]
    found = SUFFIX.match(name)
    stem = found["stem"] if found else name
    pods = [pod["metadata"]["name"] for pod in picture["pods"]]
    pods += re.findall(rf"{re.escape(name)}-[a-z0-9]{{5}}\b", json.dumps(picture["events"]))
    numbered = [(pod, f"{stem}-0123456789-{n:05d}") for n, pod in enumerate(dict.fromkeys(pods), 1)]
    return [*numbered, (name, f"{stem}-0123456789")]


def _numbered(form: Callable[[int], str]) -> Callable[[re.Match[str]], str]:
    seen: dict[str, int] = {}

    def replace(found: re.Match[str]) -> str:
        return form(seen.setdefault(found[0], len(seen) + 1))

    return replace


def _moved(text: str, created: datetime) -> str:
    moment = EPOCH + (datetime.fromisoformat(text) - created)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if "." in text else "%Y-%m-%dT%H:%M:%SZ")
