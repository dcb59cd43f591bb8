"""Sees every write of the operators to the jobs of a namespace, one operator after another, and judges it."""

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import urllib3
from tests.support.api_client import Client, RefusedError
from tests.support.status_rules import judge

Object = dict[str, Any]


class Witness:
    """Watches from the beginning, until the API server ends.

    Attributes:
        made: name of a Job -> the uids of all that had this name, in their order.
        statuses: uid of a job -> its last status.
        wrong: what broke a rule of a status, in words.
    """

    def __init__(self, client: Client, jobs: str, qjobs: str) -> None:
        self.made: dict[str, list[str]] = defaultdict(list)
        self.wrong: list[str] = []
        self._client = client
        self.statuses: dict[str, Object] = {}
        self._watch(jobs, self._job)
        self._watch(qjobs, self._qjob)

    def twice(self, allowed: Iterable[str] = ()) -> dict[str, list[str]]:
        """The Jobs that were made more than once, those apart that had to be."""
        return {name: uids for name, uids in self.made.items() if len(uids) > 1 and name not in allowed}

    def _watch(self, path: str, look: Callable[[Object], None]) -> None:
        """From the moment of this call."""
        since = self._client.version(path)

        def read() -> None:
            version = since
            with contextlib.suppress(urllib3.exceptions.HTTPError):  # the API server has ended
                while True:
                    version = self._follow(path, version, look)

        threading.Thread(target=read, daemon=True).start()

    def _follow(self, path: str, version: str, look: Callable[[Object], None]) -> str:
        """Watch until the server ends it, as it does when the kind changes; from which version to go on."""
        query = {"resourceVersion": version, "timeoutSeconds": "3600"}
        for line in self._client.watch(path, metadata_only=False, query=query):
            event = json.loads(line)
            if event.get("type") not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
                break  # too old, or the kind is just changing
            version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] in ("ADDED", "MODIFIED"):
                look(event["object"])
        return self._look_at_all(path, version, look)

    def _look_at_all(self, path: str, version: str, look: Callable[[Object], None]) -> str:
        """What there is now; the version of that, or the given one where there is no answer yet.

        A status is compared with none from before: an older kind shows less of it, though nobody has written.
        """
        time.sleep(0.1)
        try:
            found = self._client.send("GET", path)
        except RefusedError:
            return version
        if look == self._qjob:
            self.statuses.clear()
        for body in found["items"]:
            look(body)
        return str(found["metadata"]["resourceVersion"])

    def _job(self, job: Object) -> None:
        known, uid = self.made[job["metadata"]["name"]], job["metadata"]["uid"]
        if uid not in known:
            known.append(uid)

    def _qjob(self, body: Object) -> None:
        uid, status = body["metadata"]["uid"], body.get("status")
        before = self.statuses.get(uid, {})
        if not status or status == before:
            return
        try:
            judge(body, before)
        except AssertionError as broken:
            self.wrong.append(f"{body['metadata']['name']}: {broken}")
        self.statuses[uid] = status
