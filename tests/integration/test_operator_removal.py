"""Pauses, ends and removals against a real API server; the test plays the kubelet and the user."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.support.cluster_objects import RESULT, failed_result, result_at
from tests.support.manifests import manifest
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import Operator, until
from tests.support.webhooks import CREATES_A_JOB, in_force, unreachable

from local_cluster.control_plane import ApiServer
from quantization_operator.snapshots import FAILED_BEFORE_ANNOTATION, FINALIZER
from quantization_operator.workload import cleanup_name, job_name

pytestmark = pytest.mark.integration

PAUSE = ("suspend", True)
DELETE = ("artifactPolicy", "Delete")
TRUSTED = ("reuse", "Trusted")


def at(name: str) -> tuple[str, Any]:
    """An output that others have too."""
    return ("output.uri", f"s3://artifacts/{name}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with (
        ApiServer(controllers=True) as api,
        closing(Cluster(api, tmp_path_factory.mktemp("operator"))) as made,
    ):
        yield made


@pytest.fixture
def operator(cluster: Cluster) -> Operator:
    return cluster.standing_operator()


@pytest.fixture
def new_operator(cluster: Cluster) -> Iterator[Operator]:
    """For tests that count what it did."""
    with cluster.operator() as running:
        yield running


def change(cluster: Cluster, name: str, **spec: Any) -> None:
    cluster.api.kubectl(
        "patch", "qj", name, "-n", NAMESPACE, "--type=merge", "-p", json.dumps({"spec": spec})
    )


def delete(cluster: Cluster, name: str, cascade: str = "background") -> None:
    cluster.api.kubectl("delete", "qj", name, "-n", NAMESPACE, "--wait=false", f"--cascade={cascade}")


def the_job(cluster: Cluster, name: str) -> dict[str, Any]:
    """Wait for a Job of this name that is not going away."""

    def living() -> dict[str, Any]:
        body = cluster.read("job", name)
        return body if body and "deletionTimestamp" not in body["metadata"] else {}

    return until(f"Job {name}", living)


def gone(cluster: Cluster, kind: str, name: str) -> None:
    until(f"{kind} {name} is gone", lambda: not cluster.read(kind, name))


def runs(cluster: Cluster, pod: str) -> None:
    cluster.kubelet_says(pod, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})


def succeed(cluster: Cluster, name: str, uid: str) -> None:
    cluster.succeeds(cluster.pod(uid))
    cluster.wait(name, "Ready")


def hold(cluster: Cluster, pod: str) -> None:
    """A pod that takes its time to end, as one with a kubelet does."""
    patch_pod(cluster, pod, ["tests/saving", "batch.kubernetes.io/job-tracking"])


def let_go(cluster: Cluster, pod: str) -> None:
    patch_pod(cluster, pod, None)


def patch_pod(cluster: Cluster, pod: str, finalizers: list[str] | None) -> None:
    body = json.dumps({"metadata": {"finalizers": finalizers}})
    cluster.api.kubectl("patch", "pod", pod, "-n", NAMESPACE, "--type=merge", "-p", body)


def test_a_pause_ends_the_job_and_what_was_counted_is_kept(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("paused", ("backoffLimit", 2))
    name = job_name("paused", uid)
    first = cluster.pod(uid)
    cluster.ends(first, 75, failed_result("StorageUnavailable", "no answer"))
    until("an attempt", lambda: cluster.status("paused").get("attempts", {}).get("failed") == 1)
    earlier = cluster.read("job", name)["metadata"]["uid"]
    runs(cluster, cluster.pod(uid, besides=first))
    cluster.phase("paused", "Running")

    change(cluster, "paused", suspend=True)
    status = cluster.phase("paused", "Suspended")
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "True",
    }
    assert "jobName" not in status
    gone(cluster, "job", name)
    until("no pod", lambda: not cluster.items("pods", f"quantization.dev/job-uid={uid}"))
    assert cluster.phase("paused", "Suspended")["attempts"] == {"failed": 1, "disrupted": 0}

    change(cluster, "paused", suspend=False)
    again = the_job(cluster, name)
    assert again["metadata"]["uid"] != earlier
    assert again["metadata"]["annotations"][FAILED_BEFORE_ANNOTATION] == "1"
    assert again["spec"]["backoffLimit"] == 1
    third = cluster.pod(uid)
    cluster.ends(third, 75, failed_result("StorageUnavailable", "no answer"))
    until("two attempts", lambda: cluster.status("paused").get("attempts", {}).get("failed") == 2)
    cluster.ends(cluster.pod(uid, besides=third), 75, failed_result("StorageUnavailable", "no answer"))
    cluster.wait("paused", "Stalled")
    assert cluster.status("paused")["failure"]["message"] == "3 attempts failed; the last one: no answer."
    assert cluster.status("paused")["attempts"]["failed"] == 3


def test_a_job_that_was_made_paused_has_no_pod_until_it_may(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("made-paused", PAUSE)
    cluster.phase("made-paused", "Suspended")
    assert not cluster.jobs(uid)
    change(cluster, "made-paused", suspend=False)
    succeed(cluster, "made-paused", uid)


def test_a_pause_that_ends_at_once_waits_for_the_pod_to_save(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("hasty")
    name, pod = job_name("hasty", uid), cluster.pod(uid)
    hold(cluster, pod)
    runs(cluster, pod)
    cluster.phase("hasty", "Running")
    change(cluster, "hasty", suspend=True)
    cluster.phase("hasty", "Suspended")
    change(cluster, "hasty", suspend=False)

    def reason() -> str:
        return next((c["reason"] for c in cluster.status("hasty")["conditions"] if c["type"] == "Ready"), "")

    until("it waits", lambda: reason() == "Stopping")
    (old,) = cluster.jobs(uid)
    assert "deletionTimestamp" in old["metadata"], "one Job at a time, and the old one goes"
    let_go(cluster, pod)
    assert the_job(cluster, name)["metadata"]["uid"] != old["metadata"]["uid"]
    succeed(cluster, "hasty", uid)


def test_the_operator_killed_in_a_pause_keeps_it(cluster: Cluster) -> None:
    with cluster.operator():
        uid = cluster.submit("away")
        cluster.pod(uid)
    change(cluster, "away", suspend=True)
    with cluster.operator():
        cluster.phase("away", "Suspended")
        gone(cluster, "job", job_name("away", uid))
    change(cluster, "away", suspend=False)
    with cluster.operator():
        succeed(cluster, "away", uid)


def test_a_queued_job_that_is_paused_is_deleted_and_its_suspension_is_left_to_the_queue(
    cluster: Cluster, operator: Operator
) -> None:
    uid = cluster.submit("queued")
    name = job_name("queued", uid)
    the_job(cluster, name)
    cluster.api.kubectl(
        "patch", "job", name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec":{"suspend":true}}'
    )
    cluster.phase("queued", "Queued")
    change(cluster, "queued", suspend=True)
    cluster.phase("queued", "Suspended")
    gone(cluster, "job", name)
    change(cluster, "queued", suspend=False)
    assert "suspend" not in the_job(cluster, name)["spec"] or not the_job(cluster, name)["spec"]["suspend"]


def test_a_finished_object_is_deleted_when_its_time_is_over(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("short", ("ttlSecondsAfterFinished", 2))
    succeed(cluster, "short", uid)
    gone(cluster, "qj", "short")
    until("its Job is collected", lambda: not cluster.jobs(uid))
    kept = cluster.submit("kept", ("ttlSecondsAfterFinished", 3600))
    succeed(cluster, "kept", kept)
    change(cluster, "kept", ttlSecondsAfterFinished=0)
    gone(cluster, "qj", "kept")


def test_of_two_jobs_with_one_output_the_later_is_refused(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("first", at("one-place"))
    the_job(cluster, job_name("first", uid))
    second = cluster.submit("second", at("one-place/"))
    cluster.wait("second", "Stalled")
    failure = cluster.status("second")["failure"]
    assert failure["category"] == "ArtifactConflict"
    assert "QuantizationJob first uses the output" in failure["message"]
    assert not cluster.jobs(second)
    succeed(cluster, "first", uid)
    third = cluster.submit("third", at("one-place"))
    the_job(cluster, job_name("third", third))


def test_a_result_that_is_reused_is_told_and_counted(cluster: Cluster, new_operator: Operator) -> None:
    uid = cluster.submit("again")
    result = result_at("s3://artifacts/again")
    assert result.artifact is not None
    found = result.artifact.model_copy(update={"reused_from": "s3://artifacts/again"})
    cluster.ends(cluster.pod(uid), 0, RESULT.model_copy(update={"artifact": found}).to_message())
    cluster.wait("again", "Ready")
    assert cluster.status("again")["artifact"]["reusedFrom"] == "s3://artifacts/again"
    assert new_operator.metric("quantization_jobs_reused_total") == 1
    assert new_operator.metric("quantization_artifact_bytes_total") == 0


def test_a_result_that_is_trusted_costs_no_pod_and_is_kept(cluster: Cluster, new_operator: Operator) -> None:
    one = cluster.submit("believed", at("trusted"), DELETE)
    succeed(cluster, "believed", one)
    two = cluster.submit("believer", at("trusted/"), TRUSTED)
    cluster.wait("believer", "Ready")
    first, status = cluster.status("believed"), cluster.status("believer")
    place = {"uri": "s3://artifacts/trusted/", "reusedFrom": "s3://artifacts/trusted/"}
    assert status["artifact"] == first["artifact"] | place
    assert (status["recipe"], status["metrics"]) == (first["recipe"], first["metrics"])
    assert (status["phase"], status["observedGeneration"]) == ("Succeeded", 1)
    assert {"completionTime"} == {"completionTime", "startTime", "jobName", "attempts"} & set(status)
    (ready,) = (c for c in status["conditions"] if c["status"] == "True")
    assert (ready["type"], ready["reason"]) == ("Ready", "Succeeded")
    assert "QuantizationJob believed" in ready["message"]
    until("it is told", lambda: cluster.events("believer") == ["Succeeded"])
    assert new_operator.metric("quantization_jobs_reused_total") == 1

    delete(cluster, "believed")
    gone(cluster, "qj", "believed")
    until("it is told", lambda: "ArtifactKept" in cluster.events("believed"))
    assert not cluster.read("job", cleanup_name("believed", one))
    three = cluster.submit("doubter", at("trusted"), TRUSTED, ("template.image", "quantizer:another"))
    the_job(cluster, job_name("doubter", three))
    assert not cluster.jobs(two)
    assert not cluster.items("pods", f"quantization.dev/job-uid={two}")


def test_an_object_of_another_controller_is_left_alone(cluster: Cluster, operator: Operator) -> None:
    theirs = cluster.submit("theirs", ("managedBy", "kueue.x-k8s.io/multikueue"), DELETE)
    ours = cluster.submit("ours", at("theirs"), ("managedBy", "quantization.dev/operator"))
    succeed(cluster, "ours", ours)
    body = cluster.read("qj", "theirs")
    assert "status" not in body
    assert "finalizers" not in body["metadata"]
    assert not cluster.jobs(theirs)


def test_a_pod_deleted_by_hand_is_no_failed_attempt(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("by-hand", ("backoffLimit", 0))
    first = cluster.pod(uid)
    runs(cluster, first)
    cluster.phase("by-hand", "Running")
    hold(cluster, first)
    cluster.api.kubectl("delete", "pod", first, "-n", NAMESPACE, "--wait=false")
    cluster.ends(first, 143, failed_result("Disrupted", "the run was stopped by SIGTERM before it finished"))
    second = cluster.pod(uid, besides=first)
    until("it is told", lambda: cluster.status("by-hand").get("attempts") == {"failed": 0, "disrupted": 1})
    let_go(cluster, first)
    cluster.succeeds(second)
    cluster.wait("by-hand", "Ready")
    assert cluster.status("by-hand")["attempts"] == {"failed": 0, "disrupted": 1}


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_the_artifact_goes_before_its_object(cluster: Cluster, operator: Operator, cascade: str) -> None:
    name = f"with-{cascade}"
    uid = cluster.submit(name, DELETE)
    job = the_job(cluster, job_name(name, uid))
    assert cluster.read("qj", name)["metadata"]["finalizers"] == [FINALIZER]
    assert job["metadata"]["creationTimestamp"]
    succeed(cluster, name, uid)
    delete(cluster, name, cascade)
    removal = the_job(cluster, cleanup_name(name, uid))
    (container,) = removal["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "delete"
    assert container["args"][-1] == f"s3://artifacts/{name}"
    assert f"--recipe={RESULT.recipe}" in container["args"]
    until("a pod that is admitted where only restricted pods are", lambda: removal_pods(cluster))
    assert cluster.read("qj", name), "it stays until the artifact is gone"
    for pod in removal_pods(cluster):
        cluster.ends(pod, 0)
    gone(cluster, "qj", name)
    assert "ArtifactLeft" not in cluster.events(name)
    cluster.api.kubectl("delete", "job", cleanup_name(name, uid), "-n", NAMESPACE, "--ignore-not-found")


def removal_pods(cluster: Cluster) -> list[str]:
    pods = cluster.items("pods", "app.kubernetes.io/component=cleanup")
    return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Pending"]


def test_a_running_job_stops_before_its_artifact_is_removed(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("stopped", DELETE)
    pod = cluster.pod(uid)
    hold(cluster, pod)
    runs(cluster, pod)
    cluster.phase("stopped", "Running")
    delete(cluster, "stopped")
    until(
        "the Job stops",
        lambda: "deletionTimestamp" in cluster.read("job", job_name("stopped", uid))["metadata"],
    )
    assert not cluster.read("job", cleanup_name("stopped", uid)), "its pod may still write"
    let_go(cluster, pod)
    the_job(cluster, cleanup_name("stopped", uid))
    until("a pod", lambda: removal_pods(cluster))
    for name in removal_pods(cluster):
        cluster.ends(name, 0)
    gone(cluster, "qj", "stopped")


def test_a_clean_up_that_does_not_end_holds_nobody_up(cluster: Cluster) -> None:
    with cluster.operator(cleanup_deadline_seconds=2):
        uid = cluster.submit("stuck", DELETE)
        succeed(cluster, "stuck", uid)
        delete(cluster, "stuck")
        gone(cluster, "qj", "stuck")
        until("it is told", lambda: "ArtifactLeft" in cluster.events("stuck"))
        told = next(e for e in cluster.items("events") if e["reason"] == "ArtifactLeft")
        assert told["type"] == "Warning"
        assert "s3://artifacts/stuck" in told["message"]


def left(cluster: Cluster, name: str) -> str:
    """The event by which the removal of an artifact was given up."""

    def event() -> str:
        found = [e for e in cluster.items("events") if e["involvedObject"]["name"] == name]
        return next((e["message"] for e in found if e["reason"] == "ArtifactLeft"), "")

    return until("it is told", event)


def test_a_clean_up_that_cannot_be_made_holds_nobody_up(cluster: Cluster) -> None:
    with cluster.operator(cleanup_deadline_seconds=2) as operator:
        uid = cluster.submit("no-clean-up", DELETE)
        succeed(cluster, "no-clean-up", uid)
        with in_force(cluster, unreachable("CREATE"), *CREATES_A_JOB):
            delete(cluster, "no-clean-up")
            gone(cluster, "qj", "no-clean-up")
        message = left(cluster, "no-clean-up")
        assert "the artifact may still be at s3://artifacts/no-clean-up" in message
        assert "failed calling webhook" in message
        assert not cluster.read("job", cleanup_name("no-clean-up", uid))
        warnings = [line["message"] for line in operator.log if line["level"] == "warning"]
        assert any("no-clean-up goes" in text and "failed calling webhook" in text for text in warnings)


def test_a_job_that_cannot_be_stopped_holds_nobody_up(cluster: Cluster) -> None:
    with cluster.operator(cleanup_deadline_seconds=2):
        uid = cluster.submit("unstoppable", DELETE)
        job = job_name("unstoppable", uid)
        runs(cluster, cluster.pod(uid))
        cluster.phase("unstoppable", "Running")
        with in_force(cluster, unreachable("DELETE"), "delete", "job", job):
            delete(cluster, "unstoppable")
            gone(cluster, "qj", "unstoppable")
            message = left(cluster, "unstoppable")
            assert "the artifact may still be at s3://artifacts/unstoppable" in message
            assert "failed calling webhook" in message
            assert cluster.read("job", job), "nobody could delete it"
        until("its Job is collected", lambda: not cluster.jobs(uid))


def test_an_artifact_that_another_job_reuses_is_kept(cluster: Cluster, operator: Operator) -> None:
    one = cluster.submit("owner", at("shared"), DELETE)
    succeed(cluster, "owner", one)
    two = cluster.submit("reader", at("shared"))
    succeed(cluster, "reader", two)
    delete(cluster, "owner")
    gone(cluster, "qj", "owner")
    assert not cluster.read("job", cleanup_name("owner", one))
    until("it is told", lambda: "ArtifactKept" in cluster.events("owner"))


def test_without_the_policy_there_is_no_finalizer(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("retained")
    the_job(cluster, job_name("retained", uid))
    assert "finalizers" not in cluster.read("qj", "retained")["metadata"]
    change(cluster, "retained", artifactPolicy="Delete")
    until(
        "the finalizer", lambda: cluster.read("qj", "retained")["metadata"].get("finalizers") == [FINALIZER]
    )
    change(cluster, "retained", artifactPolicy="Retain")
    until("no finalizer", lambda: "finalizers" not in cluster.read("qj", "retained")["metadata"])
    delete(cluster, "retained")
    gone(cluster, "qj", "retained")


def test_a_namespace_that_is_deleted_goes(cluster: Cluster, operator: Operator) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaving"}})
    body = manifest(DELETE)
    body["metadata"] |= {"name": "in-it", "namespace": "leaving"}
    cluster.apply(body)

    def finalizers() -> str:
        found = cluster.api.kubectl(
            "get", "qj", "in-it", "-n", "leaving", "-o", "jsonpath={.metadata.finalizers}{.status.jobName}"
        )
        return found.stdout

    until("the finalizer and the Job", lambda: FINALIZER in finalizers() and "in-it-" in finalizers())
    cluster.api.kubectl("delete", "namespace", "leaving", "--wait=false")
    until(
        "the namespace is gone",
        lambda: cluster.api.kubectl("get", "namespace", "leaving", check=False).returncode != 0,
    )


def test_it_asks_for_nothing_that_it_may_not(cluster: Cluster, new_operator: Operator) -> None:
    uid = cluster.submit("allowed", DELETE, ("ttlSecondsAfterFinished", 1))
    succeed(cluster, "allowed", uid)
    the_job(cluster, cleanup_name("allowed", uid))
    until("a pod", lambda: removal_pods(cluster))
    for name in removal_pods(cluster):
        cluster.ends(name, 0)
    gone(cluster, "qj", "allowed")
    assert new_operator.metric(r'quantization_api_requests_total\{code="403"') == 0
    assert not [line for line in new_operator.log if line["level"] == "error"]
