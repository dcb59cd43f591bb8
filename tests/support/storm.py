"""The operator in a storm of random events, faults and restarts.

A state machine for hypothesis. The operator's own code runs in it, from the cache to the writer; the API server, the
Job controller, the kubelet, a queue, the user, the watch and the network are played (`model_*.py`). What must hold
stands in `storm_judge.py`.
"""

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from tests.support.model_cluster import OUTCOMES
from tests.support.model_operator import ModelOperator
from tests.support.model_server import Told
from tests.support.searches import BITS, NAMED_PASS, search
from tests.support.storm_judge import MOST_SKEW_HOURS, START, TTL_SECONDS, JudgedCluster

from quantization_operator.cache import KINDS, Kind

INDEX = st.integers(0, 11)
REFUSALS = st.sampled_from([409, 410, 422, 429, 500, 503, 0])
THEN = st.sampled_from(["", "", "told", "answered", "answered", "overtaken", "gets on", "gets on", "gets on"])
"""How far the world gets before the next thing happens to it."""
SECONDS = st.sampled_from([0.2, 1, 5, 30, 700])
KINDS_OF_JOBS = ("plain", "queued", "paused", "artifact", "foreign", "expiring", "no image", "search")
WORKERS: tuple[tuple[str, Any], ...] = (NAMED_PASS, search(BITS), ("parallelism", 2))


class Storm(JudgedCluster):
    """Everything that may happen to a cluster and to the operator in it."""

    # --- the user --------------------------------------------------------------------------------------------

    @initialize(
        expires=st.booleans(),
        searches=st.sampled_from([False, False, True]),
        has_image=st.sampled_from([True, True, False]),
        then=THEN,
    )
    def first(self, expires: bool, searches: bool, has_image: bool, then: str) -> None:
        """Most of what is interesting happens to a plain job."""
        more = [("ttlSecondsAfterFinished", TTL_SECONDS)] if expires else []
        more += WORKERS if searches else ()
        self.cluster.submit("first", ("backoffLimit", 1), *more, has_image=has_image)
        self.goes_on(then)

    @precondition(lambda self: len(self.server.objects["QuantizationJob"]) < 3)
    @rule(backoff=st.integers(0, 2), kind=st.sampled_from(KINDS_OF_JOBS), then=THEN)
    def submit(self, backoff: int, kind: str, then: str) -> None:
        more: list[tuple[str, Any]] = [("backoffLimit", backoff)]
        match kind:
            case "paused":
                more.append(("suspend", True))
            case "artifact":
                more.append(("artifactPolicy", "Delete"))
            case "foreign":
                more.append(("managedBy", "example.com/dispatcher"))
            case "expiring":
                more.append(("ttlSecondsAfterFinished", TTL_SECONDS))
            case "search":
                more += WORKERS
        name = f"job-{len(self.server.told['QuantizationJob'])}"
        self.cluster.submit(name, *more, queue=kind == "queued", has_image=kind != "no image")
        self.goes_on(then)

    @precondition(lambda self: self.server.objects["QuantizationJob"])
    @rule(index=INDEX, paused=st.booleans(), then=THEN)
    def pause(self, index: int, paused: bool, then: str) -> None:
        for uid in self.some("QuantizationJob", index):
            self.cluster.pause(uid, paused)
        self.goes_on(then)

    @precondition(lambda self: self.server.objects["QuantizationJob"])
    @rule(index=INDEX, annotates=st.booleans(), then=THEN)
    def correct(self, index: int, annotates: bool, then: str) -> None:
        for uid in self.some("QuantizationJob", index):
            self.cluster.correct(uid, annotates)
        self.goes_on(then)

    @precondition(lambda self: self.server.objects["QuantizationJob"])
    @rule(index=INDEX, then=THEN)
    def delete(self, index: int, then: str) -> None:
        for uid in self.some("QuantizationJob", index):
            self.server.delete("QuantizationJob", uid)
        self.goes_on(then)

    @precondition(lambda self: self.server.objects["Job"])
    @rule(index=INDEX, hand=st.sampled_from(["admit", "admit", "suspend", "suspend", "delete"]), then=THEN)
    def another_hand(self, index: int, hand: str, then: str) -> None:
        """A queue starts a Job or takes back what it runs on; or somebody deletes it."""
        for uid in self.some("Job", index):
            if hand == "delete":
                self.cluster.delete_job_by_hand(uid)
            else:
                self.cluster.admit_by_queue(uid, hand == "admit")
        self.goes_on(then)

    # --- Kubernetes ------------------------------------------------------------------------------------------

    @rule(starts=st.booleans(), then=THEN)
    def control(self, starts: bool, then: str) -> None:
        self.cluster.control()
        for uid in list(self.server.objects["Pod"]) if starts else ():
            self.cluster.start(uid)
        self.goes_on(then)

    @precondition(
        lambda self: any(p["status"]["phase"] == "Running" for p in self.server.objects["Pod"].values())
    )
    @rule(index=INDEX, outcome=st.sampled_from(["retryable", "forgotten"]), then=THEN)
    def fail_once(self, index: int, outcome: str, then: str) -> None:
        """Two ways to end badly that Kubernetes counts alike, and after which the Job goes on."""
        for uid in self.some("Pod", index):
            self.cluster.end(uid, outcome)
        self.cluster.control()
        self.goes_on(then)

    @precondition(lambda self: self.server.objects["Pod"])
    @rule(index=INDEX, outcome=st.sampled_from(OUTCOMES), counted=st.booleans(), then=THEN)
    def end(self, index: int, outcome: str, counted: bool, then: str) -> None:
        for uid in self.some("Pod", index):
            self.cluster.end(uid, outcome)
        if counted:
            self.cluster.control()
        self.goes_on(then)

    # --- the watch -------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(KINDS), count=st.integers(1, 4))
    def deliver(self, kind: Kind, count: int) -> None:
        for _ in range(min(count, self.operator.behind(kind))):
            self.operator.deliver(kind)
            self.loop.settle()

    @rule(kind=st.sampled_from(KINDS), how=st.sampled_from(["repeat", "hurry", "gap"]), far=st.integers(1, 5))
    def watch_misbehaves(self, kind: Kind, how: str, far: int) -> None:
        """An event of the past once more, also of the dead; one before its time; or 410: the dead are not told of."""
        told, seen = self.server.told[kind], self.operator.seen[kind]
        match how:
            case "repeat":
                self.tell(kind, told[self.operator.begun[kind] : seen][-far:][:1])
            case "hurry":
                self.tell(kind, told[seen + far :][:1])
            case "gap":
                self.operator.relist(kind)
                self.loop.settle()

    def tell(self, kind: Kind, news: list[Told]) -> None:
        for told in news:
            self.operator.tell(kind, told)
            self.loop.settle()

    # --- the network -----------------------------------------------------------------------------------------

    @rule(limit=st.integers(1, 12))
    def exchange(self, limit: int) -> None:
        self.operator.exchange(limit)

    @precondition(lambda self: self.operator.network.calls)
    @rule(index=INDEX)
    def arrive(self, index: int) -> None:
        """A request arrives; its answer takes its time."""
        if calls := self.operator.network.calls:
            calls[index % len(calls)].arrive(self.server)

    @precondition(lambda self: self.operator.network.calls)
    @rule(index=INDEX)
    def come_back(self, index: int) -> None:
        arrived = [call for call in self.operator.network.calls if call.outcome is not None]
        if arrived:
            arrived[index % len(arrived)].come_back()
            self.loop.settle()

    @precondition(lambda self: self.operator.network.calls)
    @rule(index=INDEX, code=REFUSALS, arrived=st.booleans())
    def fail(self, index: int, code: int, arrived: bool) -> None:
        """An error for an answer. Only silence and 5xx can hide that the server did it; 422 says that it did not."""
        if calls := self.operator.network.calls:
            call = calls[index % len(calls)]
            if code == 422 and call.method == "POST":
                return  # final, and right so: see test_operator_rules_beginning
            self.operator.fail(call, code, arrived=arrived and code in (0, 500, 503))

    @precondition(lambda self: self.operator.network.calls)
    @rule(index=INDEX)
    def give_up(self, index: int) -> None:
        """The operator waits no longer for an answer, and the request is still under way."""
        if calls := self.operator.network.calls:
            call = calls[index % len(calls)]
            if call.outcome is None:
                self.late.append(call)
            self.operator.fail(call, 0, arrived=False)

    @precondition(lambda self: self.late)
    @rule(index=INDEX, then=THEN)
    def arrive_late(self, index: int, then: str) -> None:
        if self.late:
            self.arrives_late(self.late[index % len(self.late)])
        self.goes_on(then)

    # --- the operator's process ------------------------------------------------------------------------------

    @rule(sent=st.booleans(), then=THEN)
    def killed(self, sent: bool, then: str) -> None:
        """What was under way arrives or not; a new process begins."""
        calls = list(self.operator.network.calls)
        self.operator.kill()
        for call in calls if sent else ():
            call.arrive(self.server)
        self.operator = ModelOperator(self.loop, self.server, START)
        self.goes_on(then)

    @rule(hours=st.integers(-MOST_SKEW_HOURS, MOST_SKEW_HOURS), seconds=SECONDS, then=THEN)
    def clock_jumps(self, hours: int, seconds: float, then: str) -> None:
        """And whoever waits for a moment looks at the clock again."""
        self.jump(timedelta(hours=hours))
        self.time_passes(seconds, then)

    @rule(what=st.sampled_from(["sweep", "webhook", "quota", "image"]))
    def upset(self, what: str) -> None:
        match what:
            case "sweep":
                self.operator.sweep()
            case "webhook":
                self.cluster.refuses = 500
            case "quota":
                self.cluster.refuses = 403
            case "image":
                self.cluster.without_image.clear()

    @rule(seconds=SECONDS, then=THEN)
    def time_passes(self, seconds: float, then: str) -> None:
        self.loop.settle(seconds)
        self.goes_on(then)
