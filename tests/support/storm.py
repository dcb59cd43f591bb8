"""The operator in a storm of random events, faults and restarts: what must hold at every step, and how it ends.

A state machine for hypothesis. The operator's own code runs in it, from the cache to the writer; the API server, the
Job controller, the kubelet, a queue, the user, the watch and the network are played (`model_*.py`).
"""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.model_cluster import OUTCOMES, ModelCluster
from tests.support.model_operator import Defects, ModelOperator, StillLoop
from tests.support.model_server import Body, Told, deleting, owner, selected
from tests.support.status_rules import ended, judge

from quantization_operator.cache import KINDS, Kind
from quantization_operator.snapshots import JOB_UID_LABEL

START = datetime(2026, 1, 1, tzinfo=UTC)
INDEX = st.integers(0, 11)
REFUSALS = st.sampled_from([409, 410, 422, 429, 500, 503, 0])
THEN = st.sampled_from(["", "", "told", "answered", "answered", "overtaken", "gets on", "gets on", "gets on"])
"""How far the world gets before the next thing happens to it."""
KINDS_OF_JOBS = ("plain", "queued", "paused", "artifact", "foreign")
MOST_ROUNDS = 60
"""In so many rounds of a calm cluster every job has ended."""


class Storm(RuleBasedStateMachine):
    """One cluster, one operator after another, and everything that may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.cluster = ModelCluster(lambda: START + timedelta(seconds=self.loop.moment))
        self.server = self.cluster.server
        self.operator = ModelOperator(self.loop, self.server, START)
        self.written: dict[str, Body] = {}
        self.defects = Defects()
        logging.getLogger("quantization_operator.controller").addHandler(self.defects)

    # --- the user --------------------------------------------------------------------------------------------

    @initialize(then=THEN)
    def first(self, then: str) -> None:
        """Most of what is interesting happens to a plain job."""
        self.cluster.submit("first", ("backoffLimit", 1))
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
        self.cluster.submit(f"job-{len(self.server.told['QuantizationJob'])}", *more, queue=kind == "queued")
        self.goes_on(then)

    @precondition(lambda self: self.server.objects["QuantizationJob"])
    @rule(index=INDEX, paused=st.booleans(), then=THEN)
    def pause(self, index: int, paused: bool, then: str) -> None:
        for uid in self.some("QuantizationJob", index):
            self.cluster.pause(uid, paused)
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
    @rule(index=INDEX, then=THEN)
    def fail_once(self, index: int, then: str) -> None:
        """The commonest way of a pod to end badly, and of its Job to go on."""
        for uid in self.some("Pod", index):
            self.cluster.end(uid, "retryable")
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
                return  # final, and right so: see test_operator_reconcile
            self.operator.fail(call, code, arrived=arrived and code in (0, 500, 503))

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

    @rule(what=st.sampled_from(["sweep", "clock", "webhook", "quota"]), hours=st.integers(-3, 3))
    def upset(self, what: str, hours: int) -> None:
        match what:
            case "sweep":
                self.operator.sweep()
            case "clock":
                self.operator.skew = timedelta(hours=hours)
            case "webhook":
                self.cluster.refuses = 500
            case "quota":
                self.cluster.refuses = 403

    @rule(seconds=st.sampled_from([0.2, 1, 5, 30, 700]), then=THEN)
    def time_passes(self, seconds: float, then: str) -> None:
        self.loop.settle(seconds)
        self.goes_on(then)

    # --- what must hold --------------------------------------------------------------------------------------

    @invariant()
    def no_defect(self) -> None:
        assert not self.defects.found, self.defects.found[0]

    @invariant()
    def one_live_job(self) -> None:
        owners = [
            owner(job) for job in self.server.objects["Job"].values() if owner(job) and not deleting(job)
        ]
        assert len(owners) == len(set(owners)), "two live Jobs of one QuantizationJob"
        for uid, truth in self.cluster.truth.items():
            again = truth.pauses + truth.removed_by_hand
            assert truth.made <= 1 + again, f"{uid}: {truth.made} Jobs, {again} reasons for a new one"

    @invariant()
    def statuses_hold(self) -> None:
        for uid, body in self.server.objects["QuantizationJob"].items():
            status = body.get("status", {})
            if body["spec"].get("managedBy"):
                assert not status, "the status of an object that another controller manages"
            before = self.written.get(uid, {})
            if status and status != before:
                judge(body, before)
                self.compare(uid, status)
                self.written[uid] = json.loads(json.dumps(status))

    def compare(self, uid: str, status: Body) -> None:
        """Compare a status with what happened."""
        truth = self.cluster.truth[uid]
        attempts = status.get("attempts", {})
        assert attempts.get("failed", 0) <= truth.blamed, f"{attempts} attempts, {truth} happened"
        assert attempts.get("disrupted", 0) <= len(truth.taken), f"{attempts} attempts, {truth} happened"
        if status["phase"] == "Succeeded":
            assert truth.succeeded
        if status["phase"] == "Failed":
            assert status["failure"]["category"] in truth.causes, f"{status['failure']}: {truth}"

    def goes_on(self, then: str) -> None:
        """A while in which nothing is wrong, short or long; or in which the watch is faster than the answers."""
        if then == "overtaken":
            for call in self.operator.network.calls:
                call.arrive(self.server)
            self.cluster.stop()
        if then == "gets on":
            self.cluster.control()
            for uid in list(self.server.objects["Pod"]):
                self.cluster.start(uid)
        if then:
            self.told()
        if then in ("answered", "overtaken", "gets on"):
            self.operator.exchange(30)

    def told(self) -> None:
        """All news arrives."""
        for kind in KINDS:
            while self.operator.behind(kind):
                self.operator.deliver(kind)
        self.loop.settle()

    # --- how it ends -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """The storm is over: pods succeed, queues admit, and everything arrives. Every job gets to its end."""
        try:
            for sweeps in (False, True):
                for _ in range(MOST_ROUNDS):
                    if not self.calm_round(sweeps):
                        break
                if sweeps or not self.operator.missed:
                    self.everything_ended()
                    self.cache_is_right()
        finally:
            self.operator.kill()
            self.loop.close()
            logging.getLogger("quantization_operator.controller").removeHandler(self.defects)

    def calm_round(self, sweeps: bool) -> bool:
        """Whether anything happened."""
        self.operator.skew, self.cluster.refuses = timedelta(), 0
        before = self.server._version
        self.cluster.control()
        for uid, job in list(self.server.objects["Job"].items()):
            if job["spec"].get("suspend") and not deleting(job):
                self.cluster.admit_by_queue(uid, True)
        for uid in list(self.server.objects["Pod"]):
            self.cluster.start(uid)
            self.cluster.end(uid, "success")
        self.cluster.control()
        self.told()
        self.loop.settle(61)
        assert self.operator.exchange(200) < 200, "it writes and writes"
        if sweeps:
            self.operator.sweep()
            self.operator.exchange(200)
        self.no_defect()
        self.one_live_job()
        self.statuses_hold()
        return self.server._version != before

    def everything_ended(self) -> None:
        """The right end for each."""
        for uid, body in self.server.objects["QuantizationJob"].items():
            status = body.get("status", {})
            lives = [j for j in self.server.objects["Job"].values() if owner(j) == uid and not deleting(j)]
            story = f"{body['spec'].get('suspend')} {status} {self.cluster.truth[uid]}"
            assert not deleting(body), f"it does not go: {body['metadata']}"
            if body["spec"].get("managedBy"):
                assert not lives, "a Job for an object of another controller"
            elif not ended(status):
                assert body["spec"].get("suspend"), f"it does not end: {story}"
                assert (status.get("phase"), lives) == ("Suspended", []), story
            else:
                assert not [j for j in lives if not j.get("status", {}).get("conditions")], (
                    f"it lingers: {story}"
                )
                assert status["observedGeneration"] == body["metadata"]["generation"], story
        for job in self.server.objects["Job"].values():
            assert not owner(job) or owner(job) in self.server.objects["QuantizationJob"], "a Job of nobody"

    def cache_is_right(self) -> None:
        """It has what is there, and nothing else: at once when the watch missed nothing, else after a sweep."""
        for kind in KINDS:
            selector = "" if kind == "QuantizationJob" else JOB_UID_LABEL
            there = {uid for uid, body in self.server.objects[kind].items() if selected(body, selector)}
            assert set(self.operator.cache.uids(kind)) == there, f"the cache of {kind} is not what is there"

    def some(self, kind: Kind, index: int) -> list[str]:
        """The uid of one object, or nothing when there is none."""
        uids = list(self.server.objects[kind])
        return [uids[index % len(uids)]] if uids else []
