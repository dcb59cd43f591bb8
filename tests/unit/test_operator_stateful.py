"""The operator in a storm of random events, faults and restarts: what must hold at every step, and how it ends."""

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.model_cluster import OUTCOMES, ModelCluster
from tests.support.model_operator import Defects, ModelOperator, StillLoop
from tests.support.model_server import Body, Told, deleting, labelled, owner

from quantization_operator.cache import KINDS, Kind
from quantization_operator.snapshots import FINALIZER, JOB_UID_LABEL

pytestmark = pytest.mark.unit

START = datetime(2026, 1, 1, tzinfo=UTC)
INDEX = st.integers(0, 11)
REFUSALS = st.sampled_from([409, 410, 422, 429, 500, 503, 0])
MOST_ROUNDS = 60
"""In so many rounds of a calm cluster every job has ended."""


def kstatus(body: Body) -> str:
    """What cli-utils' kstatus reads from an object with conditions."""
    status = body.get("status", {})
    true = {c["type"] for c in status.get("conditions", ()) if c["status"] == "True"}
    if deleting(body):
        return "Terminating"
    if status.get("observedGeneration") != body["metadata"]["generation"] or "Reconciling" in true:
        return "InProgress"
    if "Stalled" in true:
        return "Failed"
    return "Current" if "Ready" in true else "InProgress"


class Storm(RuleBasedStateMachine):
    """One cluster, one operator after another, and everything that may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.cluster = ModelCluster(lambda: START + timedelta(seconds=self.loop.moment))
        self.server = self.cluster.server
        self.operator = ModelOperator(self.loop, self.server, START)
        self.written: dict[str, Body] = {}
        self.ends: dict[str, Body] = {}
        self.defects = Defects()
        logging.getLogger("quantization_operator.controller").addHandler(self.defects)

    # --- the user --------------------------------------------------------------------------------------------

    @initialize()
    def first(self) -> None:
        """Most of what is interesting happens to a plain job."""
        self.cluster.submit("first", ("backoffLimit", 1))

    @precondition(lambda self: len(self.server.objects["QuantizationJob"]) < 3)
    @rule(backoff=st.integers(0, 2), kind=st.sampled_from(["plain", "queued", "paused", "artifact", "foreign"]))
    def submit(self, backoff: int, kind: str) -> None:
        more: list[tuple[str, Any]] = [("backoffLimit", backoff)]
        match kind:
            case "paused":
                more.append(("suspend", True))
            case "artifact":
                more.append(("artifactPolicy", "Delete"))
            case "foreign":
                more.append(("managedBy", "example.com/dispatcher"))
        self.cluster.submit(f"job-{len(self.server.told['QuantizationJob'])}", *more, queue=kind == "queued")

    @rule(index=INDEX, paused=st.booleans())
    def pause(self, index: int, paused: bool) -> None:
        for uid in self.some("QuantizationJob", index):
            self.cluster.pause(uid, paused)

    @rule(index=INDEX)
    def delete(self, index: int) -> None:
        for uid in self.some("QuantizationJob", index):
            self.server.delete("QuantizationJob", uid)

    @rule(index=INDEX)
    def delete_job_by_hand(self, index: int) -> None:
        for uid in self.some("Job", index):
            self.cluster.delete_job_by_hand(uid)

    @rule(index=INDEX, admitted=st.booleans())
    def queue_decides(self, index: int, admitted: bool) -> None:
        for uid in self.some("Job", index):
            self.cluster.admit_by_queue(uid, admitted)

    # --- Kubernetes ------------------------------------------------------------------------------------------

    @rule()
    def control(self) -> None:
        self.cluster.control()

    @rule(index=INDEX)
    def start(self, index: int) -> None:
        self.cluster.control()
        for uid in self.some("Pod", index):
            self.cluster.start(uid)

    @rule(index=INDEX, outcome=st.sampled_from(OUTCOMES))
    def end(self, index: int, outcome: str) -> None:
        for uid in self.some("Pod", index):
            self.cluster.end(uid, outcome)

    # --- the watch -------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(KINDS), count=st.integers(1, 4))
    def deliver(self, kind: Kind, count: int) -> None:
        for _ in range(min(count, self.operator.behind(kind))):
            self.operator.deliver(kind)
            self.loop.settle()

    @rule(kind=st.sampled_from(KINDS), back=st.integers(1, 6))
    def repeat(self, kind: Kind, back: int) -> None:
        """An event of the past once more, also of an object that is gone."""
        seen = self.server.told[kind][: self.operator.seen[kind]]
        for told in seen[-back:][:1]:
            self.operator.tell(kind, told)
            self.loop.settle()

    @rule(kind=st.sampled_from(KINDS), ahead=st.integers(1, 3))
    def hurry(self, kind: Kind, ahead: int) -> None:
        """An event before those that happened before it."""
        coming = self.server.told[kind][self.operator.seen[kind] :]
        for told in coming[ahead : ahead + 1]:
            self.operator.tell(kind, told)
            self.loop.settle()

    @rule(kind=st.sampled_from(KINDS))
    def gap(self, kind: Kind) -> None:
        """The watch is answered 410: what is there is told, what is gone is not."""
        self.operator.relist(kind)
        self.loop.settle()

    # --- the network -----------------------------------------------------------------------------------------

    @rule(limit=st.integers(1, 12))
    def exchange(self, limit: int) -> None:
        self.operator.exchange(limit)

    @rule(index=INDEX)
    def arrive(self, index: int) -> None:
        """A request arrives; its answer takes its time."""
        if calls := self.operator.network.calls:
            calls[index % len(calls)].arrive(self.server)

    @rule(index=INDEX)
    def come_back(self, index: int) -> None:
        arrived = [call for call in self.operator.network.calls if call.outcome is not None]
        if arrived:
            arrived[index % len(arrived)].come_back()
            self.loop.settle()

    @rule(index=INDEX, code=REFUSALS, arrived=st.booleans())
    def fail(self, index: int, code: int, arrived: bool) -> None:
        """An error for an answer. Only silence and 5xx can hide that the server did it; 422 says that it did not."""
        if calls := self.operator.network.calls:
            call = calls[index % len(calls)]
            if code == 422 and call.method == "POST":
                return  # final, and right so: see test_operator_reconcile
            self.operator.fail(call, code, arrived=arrived and code in (0, 500, 503))

    @rule(code=st.sampled_from([403, 500]))
    def webhook_refuses(self, code: int) -> None:
        """An admission webhook, or quota, refuses the next Job."""
        self.cluster.refuses = code

    # --- the operator's process ------------------------------------------------------------------------------

    @rule(sent=st.booleans())
    def killed(self, sent: bool) -> None:
        """What was under way arrives or not; a new process begins."""
        calls = list(self.operator.network.calls)
        self.operator.kill()
        for call in calls if sent else ():
            call.arrive(self.server)
        self.operator = ModelOperator(self.loop, self.server, START)

    @rule()
    def sweep(self) -> None:
        self.operator.sweep()

    @rule(seconds=st.sampled_from([0.2, 1, 5, 30, 700]))
    def time_passes(self, seconds: float) -> None:
        self.loop.settle(seconds)

    @rule(hours=st.integers(-3, 3))
    def clock_jumps(self, hours: int) -> None:
        self.operator.skew = timedelta(hours=hours)

    # --- what must hold --------------------------------------------------------------------------------------

    @invariant()
    def no_defect(self) -> None:
        assert not self.defects.found, self.defects.found[0]

    @invariant()
    def one_live_job(self) -> None:
        owners = [owner(job) for job in self.server.objects["Job"].values() if owner(job) and not deleting(job)]
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
                self.judge(uid, body, before, status)
                self.written[uid] = json.loads(json.dumps(status))

    def judge(self, uid: str, body: Body, before: Body, status: Body) -> None:
        """A status that was written just now."""
        truth = self.cluster.truth[uid]
        held = [c["type"] for c in status["conditions"] if c["status"] == "True"]
        assert len(held) == 1, f"{held} hold together"
        assert status["observedGeneration"] <= body["metadata"]["generation"]
        reads = kstatus(body | {"metadata": body["metadata"] | {"generation": status["observedGeneration"]}})
        expected = {"Succeeded": "Current", "Failed": "Failed"}.get(status["phase"], "InProgress")
        assert reads in (expected, "Terminating")
        old, new = before.get("attempts", {}), status.get("attempts", {})
        for key in ("failed", "disrupted"):
            assert new.get(key, 0) >= old.get(key, 0), f"attempts shrank: {old} {new}"
        assert new.get("failed", 0) <= truth.blamed, f"{new} attempts, {truth} happened"
        assert new.get("disrupted", 0) <= truth.taken, f"{new} attempts, {truth} happened"
        if end := self.ends.get(uid):
            assert _without_generation(status) == _without_generation(end), "an end is final"
        if status["phase"] == "Succeeded":
            assert truth.succeeded
            assert status["artifact"]
        if status["phase"] == "Failed":
            assert status["failure"]["category"] in truth.causes, f"{status['failure']}: {truth}"
        if status["phase"] in ("Succeeded", "Failed"):
            self.ends[uid] = json.loads(json.dumps(status))

    # --- how it ends -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """The storm is over: pods succeed, queues admit, and everything arrives. Every job gets to its end."""
        try:
            for _ in range(MOST_ROUNDS):
                if not self.calm_round():
                    break
            self.everything_ended()
        finally:
            self.operator.kill()
            self.loop.close()
            logging.getLogger("quantization_operator.controller").removeHandler(self.defects)

    def calm_round(self) -> bool:
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
        for kind in KINDS:
            while self.operator.behind(kind):
                self.operator.deliver(kind)
        self.loop.settle(61)
        assert self.operator.exchange(200) < 200, "it writes and writes"
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
            elif status.get("phase") not in ("Succeeded", "Failed"):
                assert body["spec"].get("suspend"), f"it does not end: {story}"
                assert (status.get("phase"), lives) == ("Suspended", []), story
            else:
                assert not [j for j in lives if not j.get("status", {}).get("conditions")], f"it lingers: {story}"
                assert status["observedGeneration"] == body["metadata"]["generation"], story
        assert not [j for j in self.server.objects["Job"].values() if owner(j) and owner(j) not in self.server.objects["QuantizationJob"]]
        for kind in KINDS:
            there = {u for u, b in self.server.objects[kind].items() if kind == "QuantizationJob" or labelled(b, JOB_UID_LABEL)}
            assert set(self.operator.cache.uids(kind)) == there, f"the cache of {kind} is not what is there"

    def some(self, kind: Kind, index: int) -> list[str]:
        """The uid of one object, or nothing when there is none."""
        uids = list(self.server.objects[kind])
        return [uids[index % len(uids)]] if uids else []


def _without_generation(status: Body) -> Body:
    """What must not change after an end."""
    kept = {key: value for key, value in status.items() if key not in ("observedGeneration", "conditions")}
    conditions = [{k: v for k, v in c.items() if k != "observedGeneration"} for c in status["conditions"]]
    return kept | {"conditions": conditions}


TestStorm = Storm.TestCase
TestStorm.settings = settings(
    max_examples=int(os.environ.get("STORM_EXAMPLES", "100")),
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
