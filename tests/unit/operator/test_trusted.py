"""A result that is trusted, taken over by the operator's own code: without a Job, and never while it is removed."""

from datetime import UTC, datetime, timedelta
from itertools import count, product

import pytest
from tests.support.decisions import TRUSTED
from tests.support.model_cluster import ModelCluster
from tests.support.model_operator import Call, ModelOperator, StillLoop
from tests.support.model_server import Body, owner
from tests.support.status_rules import judge

from quantization_operator.cache import KINDS
from quantization_operator.workload import cleanup_name

pytestmark = pytest.mark.unit

START = datetime(2026, 1, 1, tzinfo=UTC)
OUTPUT = ("output.uri", "s3://artifacts/shared")
DELETE = ("artifactPolicy", "Delete")
ROUNDS = 12


class TwoJobs:
    """One job succeeds, and a second one trusts it. What is sent is counted from the second one's beginning.

    kill: at this request the operator is killed, before or after it arrived. delete: at this one the first job is
    deleted, and the watch says so at once, or only later. held: all that follows from that overtakes this request.
    """

    def __init__(
        self, kill: int = 0, delete: int = 0, arrived: bool = False, told: bool = True, held: bool = False
    ):
        self.loop = StillLoop()
        self.cluster = ModelCluster(lambda: START + timedelta(seconds=self.loop.moment))
        self.server = self.cluster.server
        self.operator = ModelOperator(self.loop, self.server, START)
        self.kill, self.delete, self.arrived, self.told, self.held = 0, 0, arrived, told, held
        self.sent: list[Call] = []
        self.first = self.cluster.submit("first", OUTPUT, DELETE)
        self.goes_on()
        assert self.status(self.first)["phase"] == "Succeeded"
        self.sent.clear()
        self.kill, self.delete = kill, delete
        self.second = self.cluster.submit("second", OUTPUT, DELETE, TRUSTED)
        self.goes_on()

    def status(self, uid: str) -> Body:
        status: Body = self.server.objects["QuantizationJob"][uid].get("status", {})
        return status

    def goes_on(self) -> None:
        """Time passes; pods succeed, and so do clean-ups."""
        for _ in range(ROUNDS):
            self.tell()
            self.loop.settle(6)
            self.exchange()
            self.cluster.control()
            for uid in list(self.server.objects["Pod"]):
                self.cluster.start(uid)
                self.cluster.end(uid, "success")
            self.cluster.control()

    def tell(self) -> None:
        for kind in KINDS:
            while self.operator.behind(kind):
                self.operator.deliver(kind)
        self.loop.settle()

    def exchange(self) -> None:
        waits: list[Call] = []
        while calls := self.operator.network.calls:
            call = next((call for call in calls if call not in waits), calls[0])
            if call not in self.sent:
                self.sent.append(call)
                if len(self.sent) == self.kill:
                    self.operator.kill()
                    if self.arrived:
                        call.arrive(self.server)
                    self.operator = ModelOperator(self.loop, self.server, START)
                    continue
                if len(self.sent) == self.delete:
                    if self.arrived:
                        call.arrive(self.server)
                    self.server.delete("QuantizationJob", self.first)
                    if self.told:
                        self.tell()
                    waits = [call] if self.held else []
                    continue
            call.arrive(self.server)
            call.come_back()
            self.loop.settle()

    def end(self) -> Body:
        """The last status of the second job, when all is over."""
        self.operator.kill()
        self.loop.close()
        body = self.server.objects["QuantizationJob"][self.second]
        judge(body, {})
        return self.status(self.second)

    def jobs_of_second(self) -> int:
        return len(
            {t.body["metadata"]["uid"] for t in self.server.told["Job"] if owner(t.body) == self.second}
        )

    def removed(self) -> bool:
        """Whether a clean-up of the first job's artifact was ever made."""
        name = cleanup_name("first", self.first)
        return any(told.body["metadata"]["name"] == name for told in self.server.told["Job"])


def writes(calls: list[Call]) -> list[str]:
    return [f"{c.method} {c.path.rpartition('/')[2]}" for c in calls if c.method != "GET"]


def test_a_result_is_taken_over_in_three_writes_and_three_reads() -> None:
    two = TwoJobs()
    status = two.end()
    assert (status["phase"], status["artifact"]["reusedFrom"]) == ("Succeeded", OUTPUT[1])
    assert "jobName" not in status
    assert two.jobs_of_second() == 0
    assert writes(two.sent) == ["PATCH second", "PATCH status", "POST events"], "finalizer, status, event"
    assert len(two.sent) == 6
    (event,) = (e for e in two.server.events.values() if e["involvedObject"]["name"] == "second")
    assert (event["reason"], event["type"]) == ("Succeeded", "Normal")
    assert "QuantizationJob first" in event["message"]


@pytest.mark.parametrize("arrived", [False, True], ids=["before it", "after it"])
def test_killed_at_each_request_the_result_is_taken_over_all_the_same(arrived: bool) -> None:
    for request in count(1):
        two = TwoJobs(kill=request, arrived=arrived)
        assert two.end()["phase"] == "Succeeded", f"request {request}"
        assert two.jobs_of_second() == 0, f"request {request}"
        if request > len(two.sent):
            break
    assert request > 6


@pytest.mark.parametrize("told", [True, False], ids=["told at once", "told later"])
def test_an_artifact_that_is_removed_is_never_a_trusted_result(told: bool) -> None:
    """The first job is deleted at each request of the second, which has the artifact or makes it again."""
    ends = set()
    for arrived, held in product((False, True), repeat=2):
        for request in count(1):
            two = TwoJobs(delete=request, arrived=arrived, told=told, held=held)
            status, made = two.end(), two.jobs_of_second()
            if request > len(two.sent):
                break
            case = f"request {request}, {arrived=}, {held=}: {made} Jobs, removed: {two.removed()}"
            assert status["phase"] == "Succeeded", case
            assert two.first not in two.server.objects["QuantizationJob"], case
            assert made == 1 or not two.removed(), case
            ends.add((made, two.removed()))
        assert request > 6
    assert (0, False) in ends
