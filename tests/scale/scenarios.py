"""The runs: each brings its load, waits until it is through, and gives back what was seen."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import urllib3
from tests.scale.load import JOBS_PATH, PASSING, PATH, PODS_PATH, WITHDRAWN_PATH, Side, bodies, submit
from tests.scale.measures import Latency, Point, Slice, latency, rate, slices
from tests.scale.plane import Plane
from tests.scale.sampling import Sampler, Shares, cpu_seconds
from tests.scale.watching import Diary
from tests.support.api_client import RefusedError
from tests.support.operator_process import Operator, until

LIMIT = 180.0
"""Seconds without anything new after which a run is no longer waited for."""
REST_SECONDS = 10.0
CLEANING_LIMIT = 1200.0
BATCH = 200
MOST_AT_A_TIME = 1000
"""Objects of a churn: created together, and there at most before the next are."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Jobs made as fast as it goes, nobody making their pods. cpu: shares of a core, by process."""

    side: str
    count: int
    job_rate: float
    cpu: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Backlog:
    """Jobs made of objects that were there before their controller, in a cluster that makes and runs their pods."""

    side: str
    count: int
    job_rate: float


@dataclass(frozen=True, slots=True)
class Life:
    """Jobs through their whole life at a steady rate. calls and status_writes: of the operator, for each job.

    whole: from the request to the final status. gaps: of the watches that all this was seen by (`Diary`).
    """

    count: int
    succeeded: int
    jobs_made: int
    point: Point
    whole: Latency
    peak_mb: float
    cpu_share: float
    calls: float
    status_writes: float
    gaps: int = 0
    series: Sequence[Slice] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """An operator that is started among many finished jobs, and then has nothing to do."""

    known: int
    ready_seconds: float
    resident_mb: float
    idle_share: float
    idle_seconds: float


def burst(plane: Plane, side: Side, prefix: str, count: int, controller: int) -> Burst:
    """Create so many objects at once, and watch their Jobs come; their pods are made afterwards."""
    pids = {"the controller": controller, **plane.api.pids}
    pids.pop("kube-controller-manager")
    with Diary(plane.client, side) as diary:
        with plane.without_pods():
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            started, own = time.monotonic(), time.process_time()
            submit(plane.client, side.path, side.bodies(prefix, count), 0)
            diary.wait("made", count, LIMIT)
            passed = time.monotonic() - started
            cpu = {name: (cpu_seconds(pid) - before[name]) / passed for name, pid in pids.items()}
            cpu["the load generator"] = (time.process_time() - own) / passed
        diary.wait("told", count, LIMIT)
    return Burst(side.name, count, rate(diary.made.values()), cpu)


def backlog(
    plane: Plane,
    side: Side,
    prefix: str,
    count: int,
    controller: Callable[[], contextlib.AbstractContextManager[object]],
) -> Backlog:
    """Create so many objects, then start their controller, and watch their Jobs come, and their ends."""
    with Diary(plane.client, side) as diary:
        submit(plane.client, side.path, side.bodies(prefix, count), 0)
        with controller():
            diary.wait("told", count, LIMIT)
    clean(plane, side)
    return Backlog(side.name, len(diary.made), rate(diary.made.values()))


@dataclass(frozen=True, slots=True)
class Load:
    """Objects at a steady rate: when each was sent, and what became of it."""

    rate: float
    sent: Mapping[str, float]
    diary: Diary

    @property
    def point(self) -> Point:
        """For the picture of latency against load."""
        return Point(
            self.rate,
            rate(self.diary.made.values()),
            latency(self.sent, self.diary.made),
            latency(self.diary.ended, self.diary.told),
        )


def load(plane: Plane, side: Side, prefix: str, count: int, per_second: float) -> Load:
    """Create objects at a steady rate, and wait until all have their final status."""
    with Diary(plane.client, side) as diary:
        sent = submit(plane.client, side.path, side.bodies(prefix, count), per_second)
        diary.wait("told", count, LIMIT)
    return Load(per_second, sent, diary)


def life(plane: Plane, side: Side, operator: Operator, prefix: str, count: int, per_second: float) -> Life:
    """Jobs of the operator through their whole life, with what they cost it."""
    before = _requests(operator)
    pids = {"the operator": (operator.process.pid,), **plane.pids, "the load generator": (os.getpid(),)}
    with Sampler(operator.process.pid) as sampler, Shares(pids) as shares:
        seen = load(plane, side, prefix, count, per_second)
        time.sleep(1)  # the last event follows the last status
    calls, writes = (now - then for now, then in zip(_requests(operator), before, strict=True))
    diary = seen.diary
    return Life(
        count,
        sum(phase == "Succeeded" for phase in diary.phases.values()),
        diary.jobs_made,
        seen.point,
        latency(seen.sent, diary.told),
        sampler.peak_mb,
        sampler.cpu_share,
        calls / count,
        writes / count,
        diary.gaps,
        slices(seen.sent, diary.made, diary.ended, diary.told, shares.samples),
    )


def start(plane: Plane, idle_seconds: float) -> Start:
    """Start an operator among all that is there. Its first seconds are not counted as idle."""
    begun = time.monotonic()
    with plane.operator() as operator:
        ready = time.monotonic() - begun
        time.sleep(REST_SECONDS)
        with Sampler(operator.process.pid) as sampler:
            time.sleep(idle_seconds)
        known = operator.metric(r"quantization_jobs\{")
        return Start(int(known), ready, sampler.peak_mb, sampler.cpu_share, idle_seconds)


def churn(plane: Plane, operator: Operator, count: int, limit: float) -> list[tuple[float, int, float]]:
    """Objects that expire when they have ended, or are deleted before; the operator's memory while they come and go.

    At most some thousand are there at a time. It stops after `limit` seconds, however far it went. Samples are
    seconds, objects that are gone, and MB.
    """
    deadline, gone = time.monotonic() + limit, 0
    with Sampler(operator.process.pid, lambda: gone) as sampler:
        for first in range(0, count, BATCH):
            come = min(first + BATCH, count)
            submit(plane.client, PATH, bodies(PASSING, f"churn-{first}", come - first), 0)
            plane.client.send("DELETE", WITHDRAWN_PATH, {"propagationPolicy": "Background"})
            until("room for more", lambda: plane.client.count(PATH) <= MOST_AT_A_TIME, LIMIT)
            gone = come - plane.client.count(PATH)
            if time.monotonic() > deadline:
                break
        until("all are gone", lambda: plane.client.count(PATH) == 0, MOST_AT_A_TIME)
        gone = come
        time.sleep(REST_SECONDS)
    return sampler.samples


def clean(plane: Plane, side: Side) -> None:
    """Remove everything, so that the next run finds an empty server."""
    for path in (side.path, JOBS_PATH, PODS_PATH):
        until(f"nothing is left at {path}", lambda path=path: _emptied(plane, path), CLEANING_LIMIT)  # type: ignore[misc]


def _emptied(plane: Plane, path: str) -> bool:
    """Ask for the end of all; the API server cuts the request off after a minute, and goes on when asked again."""
    with contextlib.suppress(RefusedError, urllib3.exceptions.HTTPError):
        plane.client.send("DELETE", path, {"propagationPolicy": "Background"})
    return plane.client.count(path) == 0


def _requests(operator: Operator) -> tuple[float, float]:
    """All requests of the operator, and its status writes."""
    total = operator.metric(r"quantization_api_requests_total\{")
    return total, operator.metric(r'quantization_api_requests_total\{.*verb="PATCH"')
