"""When things happened, as a client of the API server sees it: the time at which its watch told of them."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import urllib3
from tests.scale.load import JOBS_PATH, Side
from tests.support.api_client import Client

_EVENT = re.compile(rb'\{"type":"(ADDED|MODIFIED|DELETED)"')
_VERSION = re.compile(rb'"resourceVersion":"(\d+)"')


class Diary:
    """The first time of each thing for each object: made (its Job is there), ended (the Job), told (its status).

    jobs_made counts Jobs, so that a second Job of one object is seen. gaps: how often the API server could not go on
    where a watch had ended, so that something may be missing here that happened.
    """

    def __init__(self, client: Client, side: Side) -> None:
        self._client = client
        self._side = side
        self._stopped = False
        self.made: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.phases: dict[str, str] = {}
        self.jobs_made = 0
        self.gaps = 0

    def __enter__(self) -> Self:
        """Watch from now on."""
        for path, note in ((JOBS_PATH, self._job), (self._side.path, self._object)):
            version = self._client.version(path)
            threading.Thread(target=self._follow, args=(path, version, note), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write down nothing more."""
        self._stopped = True

    def wait(self, kind: str, count: int, limit: float) -> bool:
        """Wait until so many objects have such an entry, or for `limit` seconds."""
        deadline = time.monotonic() + limit
        entries: dict[str, float] = getattr(self, kind)
        while len(entries) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        return len(entries) >= count

    def _follow(self, path: str, version: str, note: Callable[[bytes, float], Any]) -> None:
        """Watch for ever, from where the last watch ended; where that is too long ago, something was missed."""
        while not self._stopped:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                for line in self._client.watch(
                    path, metadata_only=False, query={"resourceVersion": version, "timeoutSeconds": "3600"}
                ):
                    if self._stopped:
                        return
                    found = _EVENT.match(line) and _VERSION.search(line)
                    if not found:  # an error instead of an event
                        self.gaps += 1
                        version = self._client.version(path)
                        break
                    version = found[1].decode()
                    note(line, time.monotonic())

    def _job(self, line: bytes, now: float) -> None:
        added, ended = line.startswith(b'{"type":"ADDED"'), b'"type":"Complete"' in line
        if not added and not ended:
            return  # most lines: not worth reading
        name = json.loads(line)["object"]["metadata"].get("labels", {}).get(self._side.job_label, "")
        if added:
            self.jobs_made += 1
            self.made.setdefault(name, now)
        if ended:
            self.ended.setdefault(name, now)

    def _object(self, line: bytes, now: float) -> None:
        if b'"completionTime"' not in line and b'"terminalState"' not in line:
            return
        body = json.loads(line)["object"]
        name = body["metadata"]["name"]
        if name not in self.told:
            status = body["status"]
            self.phases[name] = status.get("phase") or status.get("terminalState") or ""
            self.told[name] = now
