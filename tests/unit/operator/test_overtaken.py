"""Orders of events in which the operator was once wrong, step by step; the storm tries all others."""

import pytest
from tests.support.model_operator import Call
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


def given_up(cluster: Storm, method: str, path: str) -> Call:
    """The next such request, which the operator waits for no longer, and which has not arrived."""
    calls = cluster.operator.network.calls
    while not (calls[0].method == method and calls[0].path.endswith(path)):
        cluster.operator.exchange(1)
    call = calls[0]
    cluster.operator.fail(call, 0, arrived=False)
    return call


def test_the_deletion_of_a_pause_that_arrives_after_its_end_is_no_deletion_by_hand() -> None:
    cluster, uid = begun()
    (job,) = cluster.server.objects["Job"].values()
    cluster.cluster.pause(uid, True)
    cluster.told()
    deletion = given_up(cluster, "DELETE", job["metadata"]["name"])
    cluster.cluster.pause(uid, False)
    cluster.goes_on("answered")
    deletion.arrive(cluster.server)
    cluster.cluster.stop()
    cluster.goes_on("answered")
    cluster.teardown()
    assert cluster.server.objects["QuantizationJob"][uid]["status"]["phase"] == "Succeeded"
    assert cluster.cluster.truth[uid].made == 2


def test_a_late_request_makes_no_job_that_goes_on_after_the_first_was_deleted_by_hand() -> None:
    cluster = Storm()
    uid = cluster.cluster.submit("job", ("backoffLimit", 2))
    cluster.told()
    creation = given_up(cluster, "POST", "/jobs")
    cluster.loop.settle(5)
    for _ in range(3):
        cluster.goes_on("gets on")
    (job,) = cluster.server.objects["Job"]
    cluster.cluster.delete_job_by_hand(job)
    cluster.late.append(creation)
    cluster.arrives_late(creation)
    assert cluster.cluster.truth[uid].made == 2
    cluster.goes_on("answered")
    cluster.teardown()
    status = cluster.server.objects["QuantizationJob"][uid]["status"]
    assert (status["phase"], status["failure"]["category"]) == ("Failed", "JobDeleted")
    assert not cluster.server.objects["Job"]


def test_a_job_that_is_deleted_before_its_name_is_in_the_status_is_not_made_again() -> None:
    cluster = Storm()
    uid = cluster.cluster.submit("job")
    cluster.told()
    while not cluster.server.objects["Job"]:
        cluster.operator.exchange(1)
    cluster.goes_on("answered")
    assert "jobName" not in cluster.server.objects["QuantizationJob"][uid].get("status", {})
    (job,) = cluster.server.objects["Job"]
    cluster.cluster.delete_job_by_hand(job)
    cluster.goes_on("answered")
    cluster.cluster.pause(uid, True)  # a change after the end, which is final
    cluster.teardown()
    assert cluster.server.objects["QuantizationJob"][uid]["status"]["failure"]["category"] == "JobDeleted"
    assert cluster.cluster.truth[uid].made == 1
