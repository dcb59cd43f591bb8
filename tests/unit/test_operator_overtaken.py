"""Orders of events in which the operator was once wrong, step by step; the storm tries all others."""

import pytest
from tests.support.storm import Storm

pytestmark = pytest.mark.unit


def begun() -> tuple[Storm, str]:
    """A cluster with a job whose pod runs, and its uid."""
    cluster = Storm()
    uid = cluster.cluster.submit("job", ("backoffLimit", 2))
    for _ in range(3):
        cluster.goes_on("gets on")
    return cluster, uid


def test_a_deletion_whose_answer_comes_after_the_watch_told_of_it_is_final() -> None:
    cluster, uid = begun()
    cluster.cluster.pause(uid, True)
    cluster.told()
    calls = cluster.operator.network.calls
    while calls[0].method != "DELETE":
        cluster.operator.exchange(1)
    (deletion,) = calls
    deletion.arrive(cluster.server)
    cluster.cluster.stop()
    cluster.told()
    assert not cluster.server.objects["Job"]
    deletion.come_back()
    cluster.cluster.pause(uid, False)
    cluster.teardown()
    assert cluster.server.objects["QuantizationJob"][uid]["status"]["phase"] == "Succeeded"
    assert cluster.cluster.truth[uid].made == 2


def test_a_pod_that_its_node_forgot_is_no_failed_attempt_also_before_it_is_known() -> None:
    cluster, uid = begun()
    (pod,) = cluster.server.objects["Pod"]
    cluster.cluster.end(pod, "forgotten")
    cluster.cluster.control()
    while cluster.operator.behind("Job"):  # its count is told, the pod that it counts is not
        cluster.operator.deliver("Job")
    cluster.loop.settle()
    cluster.operator.exchange(10)
    cluster.teardown()
    status = cluster.server.objects["QuantizationJob"][uid]["status"]
    assert (status["phase"], status["attempts"]) == ("Succeeded", {"failed": 0, "disrupted": 1})


def test_a_pod_that_was_evicted_is_counted_also_when_only_the_end_of_its_job_is_known() -> None:
    cluster, uid = begun()
    (first,) = cluster.server.objects["Pod"]
    cluster.cluster.end(first, "evicted")
    cluster.cluster.control()
    (second,) = set(cluster.server.objects["Pod"]) - {first}
    cluster.cluster.end(second, "final")
    cluster.cluster.control()
    while cluster.operator.behind("Job"):  # the watch of pods says nothing
        cluster.operator.deliver("Job")
    cluster.loop.settle()
    cluster.operator.exchange(10)
    cluster.teardown()
    status = cluster.server.objects["QuantizationJob"][uid]["status"]
    assert (status["phase"], status["attempts"]) == ("Failed", {"failed": 1, "disrupted": 1})
