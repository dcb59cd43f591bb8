"""The operator killed at each write of a whole life, before or after the API server did it: the life goes on."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from tests.support.model_cluster import ModelCluster
from tests.support.model_operator import ModelOperator, StillLoop
from tests.support.model_server import Body
from tests.support.searches import BITS, NAMED_PASS, search
from tests.support.status_rules import judge

from quantization_operator.cache import KINDS

pytestmark = pytest.mark.unit

START = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 26
ENDS = {5: "retryable", 22: "success"}
PAUSES = {10: True, 15: False}
"""What happens in which round; between them there is time to begin anew."""


class KilledOnce:
    """A job that fails once, is paused, goes on and succeeds, while the operator is killed at one of its writes."""

    def __init__(self, write: int, arrived: bool, workers: int) -> None:
        self.loop = StillLoop()
        self.cluster = ModelCluster(lambda: START + timedelta(seconds=self.loop.moment))
        self.operator = ModelOperator(self.loop, self.cluster.server, START)
        several = (NAMED_PASS, search(BITS), ("parallelism", workers)) if workers > 1 else ()
        self.uid = self.cluster.submit("job", ("backoffLimit", 2), *several)
        self.write, self.arrived, self.writes = write, arrived, 0
        self.statuses: list[Body] = [{}]

    def exchange(self) -> None:
        """Let requests come and go; kill the operator at the write."""
        while self.operator.network.calls:
            call = self.operator.network.calls[0]
            if call.method != "GET":
                self.writes += 1
                if self.writes == self.write:
                    self.operator.kill()
                    if self.arrived:
                        call.arrive(self.cluster.server)
                    self.operator = ModelOperator(self.loop, self.cluster.server, START)
                    continue
            call.arrive(self.cluster.server)
            call.come_back()
            self.loop.settle()
            self.look()

    def look(self) -> None:
        body = self.cluster.server.objects["QuantizationJob"][self.uid]
        status = body.get("status", {})
        if status and status != self.statuses[-1]:
            judge(body, self.statuses[-1])
            self.statuses.append(status)

    def play(self) -> Body:
        """The last status."""
        for turn in range(ROUNDS):
            self.cluster.stop()
            for uid in list(self.cluster.server.objects["Pod"]):
                self.cluster.start(uid)
                if turn in ENDS:
                    self.cluster.end(uid, ENDS[turn])
            self.cluster.control()
            if turn in PAUSES:
                self.cluster.pause(self.uid, PAUSES[turn])
            for kind in KINDS:
                while self.operator.behind(kind):
                    self.operator.deliver(kind)
            self.loop.settle(10)
            self.exchange()
            self.look()
        self.operator.kill()
        self.loop.close()
        return self.statuses[-1]


@pytest.mark.parametrize("workers", [1, 2], ids=["one pod", "two workers"])
@pytest.mark.parametrize("arrived", [False, True], ids=["before it", "after it"])
def test_killed_at_each_write_the_job_ends_as_without(arrived: bool, workers: int) -> None:
    undisturbed = KilledOnce(0, arrived, workers)
    expected = undisturbed.play()
    assert (expected["phase"], expected["attempts"]) == ("Succeeded", {"failed": workers, "disrupted": 0})
    assert {status.get("phase") for status in undisturbed.statuses} >= {"Running", "Suspended", "Succeeded"}
    for write in count(1):
        if write > undisturbed.writes:
            break
        life = KilledOnce(write, arrived, workers)
        end = life.play()
        assert (end["phase"], end["attempts"]["failed"]) == ("Succeeded", workers), f"write {write}"
        assert life.cluster.truth[life.uid].made == 2, (
            f"write {write}: one Job before the pause, one after it"
        )
    assert undisturbed.writes >= 12
