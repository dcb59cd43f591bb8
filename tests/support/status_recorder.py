"""Takes pictures of what the API server shows of a job, and keeps them for the unit tests of the diagnosis.

The tests that provoke a state call `watch` or `seen` while it is there, which compare the picture with what the
operator must make of it. With QUANTIZATION_RECORD_STATUSES=1 (`make recordings`) it is also written, scrubbed, to
tests/unit/operator/recorded_statuses, where tests/unit/operator/test_recorded_statuses.py reads it.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from tests.support.pod_statuses import RECORDED, diagnosed, differs
from tests.support.scrubbing import scrubbed

from local_cluster.target import Target
from quantization_operator.workload import QJOB_NAME_LABEL

VARIABLE = "QUANTIZATION_RECORD_STATUSES"
FOLDER = Path(__file__).parents[1] / "unit/operator/recorded_statuses"
OURS = ("--selector", "app.kubernetes.io/managed-by=quantization-operator,app.kubernetes.io/component=job")
KINDS = {"jobs": OURS, "pods": OURS, "events": ("--field-selector", "type=Warning")}
Document = dict[str, Any]
Place = tuple[str, str]
"""Namespace and name of a QuantizationJob."""


class Recorder:
    """Pictures of the jobs of one cluster, from watches: what is seen for a moment only is not missed.

    A context manager; the watches end with it.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._objects: dict[str, dict[str, Document]] = {kind: {} for kind in KINDS}
        self._streams: dict[str, Stream] = {}

    def __enter__(self) -> "Recorder":
        """Begin to watch."""
        for kind, selection in KINDS.items():
            self._streams[kind] = Stream(self._target, kind, selection)
        return self

    def __exit__(self, *_: object) -> None:
        """End the watches."""
        for stream in self._streams.values():
            stream.close()

    def watch(self, places: Mapping[str, Place], limit: float) -> dict[str, str]:
        """Wait until each place has shown what RECORDED says of its name.

        Returns what is wrong with those that did not within the limit.
        """
        wrong = dict.fromkeys(places, "it has no child Job")
        deadline = time.monotonic() + limit
        for name in places:
            self._look(name, places[name], wrong)
        while wrong and time.monotonic() < deadline:
            for _ in self._changes():
                for name in list(wrong):
                    self._look(name, places[name], wrong)
            time.sleep(0.1)
        return wrong

    def seen(self, name: str, namespace: str, job: str, limit: float = 120.0) -> None:
        """As `watch` for one job; an AssertionError says what was seen last."""
        wrong = self.watch({name: (namespace, job)}, limit)
        assert not wrong, wrong

    def _look(self, name: str, place: Place, wrong: dict[str, str]) -> None:
        picture = self._picture(place)
        if picture is None:
            return
        wrong[name] = differs(diagnosed(picture), RECORDED[name])
        if not wrong[name]:
            del wrong[name]
            if os.environ.get(VARIABLE) == "1":
                save(name, picture)

    def _changes(self) -> Iterator[None]:
        """One after another what was seen since; what was deleted stays as it was last."""
        for kind, stream in self._streams.items():
            for seen in stream.read():
                self._objects[kind][seen["metadata"]["uid"]] = seen
                yield

    def _picture(self, place: Place) -> Document | None:
        """The last child Job of a QuantizationJob, that one's pods (the newest last) and warnings about both."""
        jobs = [job for job in self._objects["jobs"].values() if _place(job) == place]
        if not jobs:
            return None
        job = max(jobs, key=_age)
        uid = job["metadata"]["uid"]
        pods = [pod for pod in self._objects["pods"].values() if _owner(pod) == uid]
        uids = {uid, *(pod["metadata"]["uid"] for pod in pods)}
        events = [
            event for event in self._objects["events"].values() if event["involvedObject"].get("uid") in uids
        ]
        return {
            "job": job,
            "pods": sorted(pods, key=_age),
            "events": sorted(events, key=_last_seen, reverse=True),
        }


class Stream:
    """What a watch of kubectl says, object by object."""

    def __init__(self, target: Target, kind: str, selection: tuple[str, str]) -> None:
        self._said = tempfile.NamedTemporaryFile("w")  # noqa: SIM115 - `close` closes both
        self._reader = Path(self._said.name).open(encoding="utf-8")  # noqa: SIM115
        options = ("--all-namespaces", *selection, "--watch", "--output", "json")
        self._process = subprocess.Popen(
            [str(target.kubectl.program), "get", kind, *options],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            env={**os.environ, "KUBECONFIG": target.kubeconfig},
            start_new_session=True,
        )
        self._rest = ""

    def read(self) -> Iterator[Document]:
        """The objects that were said since the last time."""
        self._rest += self._reader.read()
        while True:
            self._rest = self._rest.lstrip()
            try:
                seen, end = json.JSONDecoder().raw_decode(self._rest)
            except ValueError:  # the rest of it is still to come
                return
            self._rest = self._rest[end:]
            yield seen

    def close(self) -> None:
        """End the watch."""
        self._process.terminate()
        self._process.wait()
        self._reader.close()
        self._said.close()


def _place(job: Document) -> Place:
    return job["metadata"]["namespace"], job["metadata"]["labels"].get(QJOB_NAME_LABEL, "")


def _owner(pod: Document) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def _age(item: Document) -> tuple[str, str]:
    return item["metadata"]["creationTimestamp"], item["metadata"]["uid"]


def _last_seen(event: Document) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def save(name: str, picture: Document) -> None:
    """Write a scrubbed picture to the recordings."""
    text = yaml.safe_dump(scrubbed(picture), sort_keys=False, width=110)
    for private in (socket.gethostname(), str(Path.home()) + "/"):
        assert private not in text, f"the recording {name} names {private}"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.yaml").write_text(text)
