"""What is played in the storm, what must hold at each of its steps, and how it ends."""

import json
import logging
from datetime import UTC, datetime, timedelta

from hypothesis.stateful import RuleBasedStateMachine, invariant
from tests.support.model_cluster import ModelCluster
from tests.support.model_operator import Call, Defects, ModelOperator, StillLoop
from tests.support.model_server import Body, deleting, owner, selected
from tests.support.status_rules import ended, judge

from quantization_operator.cache import KINDS, Kind
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import QJOB_UID_LABEL

START = datetime(2026, 1, 1, tzinfo=UTC)
OVERTAKEN_ROUNDS = 5
"""So many requests in a row are answered later than the watch tells of what they did."""
STILL_ROUNDS = 2
"""In the first of them the last answers may come, in the second what was to be tried again is."""
TTL_SECONDS = 20
MOST_SKEW_HOURS = 3
"""How far the operator's clock may be from the right time, either way."""
EXPIRY_SECONDS = TTL_SECONDS + 2 * 3600 * MOST_SKEW_HOURS
"""So long an end may stay: it came when the clock was furthest ahead, and was looked at when it was furthest behind."""
PATIENCE = timedelta(seconds=OperatorSettings().image_pull_patience_seconds)
MOST_ROUNDS = 60
"""In so many rounds of a calm cluster every job has ended."""


class JudgedCluster(RuleBasedStateMachine):
    """One cluster, one operator after another, and the judge of both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.cluster = ModelCluster(lambda: START + timedelta(seconds=self.loop.moment))
        self.server = self.cluster.server
        self.operator = ModelOperator(self.loop, self.server, START)
        self.written: dict[str, Body] = {}
        self.late: list[Call] = []
        self.least_skew = self.most_skew = timedelta()
        self.defects = Defects()
        logging.getLogger("quantization_operator.controller").addHandler(self.defects)

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
            again = truth.pauses + truth.corrections + truth.removed_by_hand + truth.made_late
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

    @invariant()
    def nothing_expires_early(self) -> None:
        """By the clock that the operator has; a jump of it may bring that forward, but never to before the end."""
        for body, when in self.server.removed:
            status, ttl = body.get("status", {}), body["spec"].get("ttlSecondsAfterFinished")
            assert ended(status), f"removed before its end: {body}"
            assert ttl is not None, f"removed, though it has no time to live: {body}"
            completed = datetime.fromisoformat(status["completionTime"])
            assert when + self.most_skew >= completed + timedelta(seconds=ttl), f"removed at {when}: {body}"
        self.server.removed.clear()

    def jump(self, skew: timedelta) -> None:
        """Set the operator's clock so far from the right time."""
        self.operator.skew = skew
        self.least_skew, self.most_skew = min(self.least_skew, skew), max(self.most_skew, skew)

    def compare(self, uid: str, status: Body) -> None:
        """Compare a status with what happened."""
        truth = self.cluster.truth[uid]
        attempts = status.get("attempts", {})
        assert attempts.get("failed", 0) <= truth.blamed, f"{attempts} attempts, {truth} happened"
        assert attempts.get("disrupted", 0) <= len(truth.taken), f"{attempts} attempts, {truth} happened"
        if status["phase"] == "Succeeded":
            assert truth.succeeded
        if status["phase"] == "Failed":
            category = status["failure"]["category"]
            assert category in truth.causes, f"{status['failure']}: {truth}"
            if category == "ImagePullFailed":
                assert truth.no_image_since is not None
                waited = self.cluster.now() - truth.no_image_since + self.most_skew - self.least_skew
                assert waited >= PATIENCE, f"patience ended after {waited}: {truth}"

    def goes_on(self, then: str) -> None:
        """A while in which nothing is wrong, short or long; or in which the watch is faster than the answers."""
        if then == "overtaken":
            for _ in range(OVERTAKEN_ROUNDS):
                calls = list(self.operator.network.calls)
                for call in calls:
                    call.arrive(self.server)
                self.cluster.stop()
                self.told()
                for call in calls:
                    call.come_back()
                self.loop.settle()
        if then == "gets on":
            self.cluster.control()
            for uid in list(self.server.objects["Pod"]):
                self.cluster.start(uid)
        if then:
            self.told()
        if then in ("answered", "gets on"):
            self.operator.exchange(30)

    def arrives_late(self, call: Call) -> None:
        """A request that the operator gave up arrives."""
        self.late.remove(call)
        made = {uid: truth.made for uid, truth in self.cluster.truth.items()}
        call.arrive(self.server)
        for uid, truth in self.cluster.truth.items():
            truth.made_late += truth.made - made.get(uid, 0)

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
            while self.late:
                self.arrives_late(self.late[0])
            for sweeps in (False, True):
                still = 0
                for _ in range(MOST_ROUNDS):
                    still = 0 if self.calm_round(sweeps) else still + 1
                    if still == STILL_ROUNDS:
                        break
                self.loop.settle(EXPIRY_SECONDS)
                for _ in range(STILL_ROUNDS):
                    self.calm_round(sweeps)
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
        self.cluster.without_image.clear()
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
        self.nothing_expires_early()
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
                assert "ttlSecondsAfterFinished" not in body["spec"], f"it does not expire: {story}"
        for job in self.server.objects["Job"].values():
            assert not owner(job) or owner(job) in self.server.objects["QuantizationJob"], "a Job of nobody"

    def cache_is_right(self) -> None:
        """It has what is there, and nothing else: at once when the watch missed nothing, else after a sweep."""
        for kind in KINDS:
            selector = "" if kind == "QuantizationJob" else QJOB_UID_LABEL
            there = {uid for uid, body in self.server.objects[kind].items() if selected(body, selector)}
            assert set(self.operator.cache.uids(kind)) == there, f"the cache of {kind} is not what is there"

    def some(self, kind: Kind, index: int) -> list[str]:
        """The uid of one object, or nothing when there is none."""
        uids = list(self.server.objects[kind])
        return [uids[index % len(uids)]] if uids else []
