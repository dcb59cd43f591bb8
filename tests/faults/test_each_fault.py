"""Faults of docs/faults.md that no other test injects, each on a real API server; the test plays kubelet and user."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.support.cluster_objects import failed_result
from tests.support.manifests import manifest
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import DEPLOY, until
from tests.support.webhooks import CREATES_A_JOB, DenyingWebhook, configuration, in_force, unreachable

from local_cluster.control_plane import ApiServer
from quantization_operator.workload import job_name

pytestmark = pytest.mark.faults

REFUSED = ("True", "JobRefused")
RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ApiServer(controllers=True) as api:
        yield Cluster(api, tmp_path_factory.mktemp("faults"))


def kubectl(cluster: Cluster, *args: str) -> None:
    cluster.api.kubectl(*args, "-n", NAMESPACE)


def gone(cluster: Cluster, name: str, uid: str) -> None:
    until(f"{name} is gone", lambda: not cluster.read("qj", name))
    until(f"the Job of {name} is gone", lambda: not cluster.jobs(uid))


def told(cluster: Cluster, name: str) -> str:
    """What the status of a job says to the one who waits for its Job, once it does."""

    def message() -> str:
        conditions = {c["type"]: c for c in cluster.status(name).get("conditions", [])}
        waits = conditions.get("Reconciling", {"status": "False", "reason": ""})
        return conditions["Ready"]["message"] if (waits["status"], waits["reason"]) == REFUSED else ""

    return until("the refusal", message)


def test_deleted_in_each_phase_nothing_is_left(cluster: Cluster) -> None:
    with cluster.operator():
        uids = {name: cluster.submit(f"in-{name}") for name in ("pending", "running", "failed", "succeeded")}
        uids["suspended"] = cluster.submit("in-suspended", ("suspend", True))
        pods = {name: cluster.pod(uid) for name, uid in uids.items() if name != "suspended"}
        cluster.kubelet_says(pods["running"], "Running", RUNS)
        cluster.ends(pods["failed"], 66, failed_result("ModelNotFound"))
        cluster.succeeds(pods["succeeded"])
        for name, uid in uids.items():
            cluster.phase(f"in-{name}", name.capitalize())
            kubectl(cluster, "delete", "qj", f"in-{name}", "--wait=false")
            gone(cluster, f"in-{name}", uid)


def test_what_changed_while_the_operator_was_down_is_caught_up(cluster: Cluster) -> None:
    names = ("succeeds", "fails", "is-deleted", "is-paused", "loses-its-job")
    with cluster.operator():
        uids = {name: cluster.submit(name) for name in names}
        pods = {name: cluster.pod(uid) for name, uid in uids.items()}
        for name, pod in pods.items():
            cluster.kubelet_says(pod, "Running", RUNS)
            cluster.phase(name, "Running")
    cluster.succeeds(pods["succeeds"])
    cluster.ends(pods["fails"], 66, failed_result("ModelNotFound"))
    kubectl(cluster, "delete", "qj", "is-deleted")
    kubectl(
        cluster, "patch", "qj", "is-paused", "--type=merge", "-p", json.dumps({"spec": {"suspend": True}})
    )
    kubectl(cluster, "delete", "job", job_name("loses-its-job", uids["loses-its-job"]))
    uids["is-new"] = cluster.submit("is-new")
    with cluster.operator():
        cluster.phase("succeeds", "Succeeded")
        assert cluster.phase("fails", "Failed")["failure"]["category"] == "ModelNotFound"
        assert cluster.phase("loses-its-job", "Failed")["failure"]["category"] == "JobDeleted"
        cluster.phase("is-paused", "Suspended")
        cluster.pod(uids["is-new"])
        gone(cluster, "is-deleted", uids["is-deleted"])


def test_a_job_that_quota_refuses_is_told_and_made_later(cluster: Cluster) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-jobs", "namespace": NAMESPACE},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    cluster.apply(quota)
    until("quota", lambda: cluster.read("resourcequota", "no-jobs").get("status", {}).get("hard"))
    with cluster.operator():
        uid = cluster.submit("no-quota")
        assert "or raise its ResourceQuota" in told(cluster, "no-quota")
        assert cluster.status("no-quota")["phase"] == "Pending"
        assert not cluster.jobs(uid)
        kubectl(cluster, "delete", "resourcequota", "no-jobs")
        until("the Job", lambda: cluster.jobs(uid))


def test_while_an_admission_webhook_does_not_answer_the_job_waits(cluster: Cluster) -> None:
    with cluster.operator() as operator:
        with in_force(cluster, unreachable("CREATE"), *CREATES_A_JOB):
            uid = cluster.submit("unanswered")
            message = told(cluster, "unanswered")
            assert 'failed calling webhook "nobody.example.com"' in message
            assert "ask its administrator" in message
            assert cluster.status("unanswered")["phase"] == "Pending"
            assert operator.metric(r'quantization_api_requests_total\{code="500",verb="POST"')
            assert not cluster.jobs(uid)
        until("the Job", lambda: cluster.jobs(uid))


def test_a_job_that_a_webhook_denies_without_a_code_is_told_and_made_later(
    cluster: Cluster, tmp_path: Path
) -> None:
    with DenyingWebhook(tmp_path, "no GPU jobs before noon") as webhook, cluster.operator() as operator:
        with in_force(cluster, configuration("noon", webhook.client, "CREATE"), *CREATES_A_JOB):
            uid = cluster.submit("denied")
            message = told(cluster, "denied")
            assert 'webhook "noon.example.com" denied the request: no GPU jobs before noon' in message
            assert "ask the owner of that policy for an exception" in message
            assert cluster.status("denied")["phase"] == "Pending"
            assert operator.metric(r'quantization_api_requests_total\{code="400",verb="POST"')
            assert not cluster.jobs(uid)
        until("the Job", lambda: cluster.jobs(uid))


@pytest.mark.parametrize("reason", ["Forbidden", None], ids=["with a reason", "without one"])
def test_a_job_that_a_policy_forbids_is_told_and_made_later(cluster: Cluster, reason: str | None) -> None:
    """Without a reason the API server answers 422, the code of a manifest that is wrong."""
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-jobs-today"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["batch"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["jobs"],
                    }
                ]
            },
            "validations": [
                {"expression": "false", "message": "no Jobs today"} | ({"reason": reason} if reason else {})
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-jobs-today"},
        "spec": {"policyName": "no-jobs-today", "validationActions": ["Deny"]},
    }
    cluster.apply(policy)
    cluster.apply(binding)
    probe = (*CREATES_A_JOB, "--dry-run=server", "-n", NAMESPACE)
    until("the policy works", lambda: cluster.api.kubectl(*probe, check=False).returncode != 0)
    with cluster.operator():
        name = "forbidden" if reason else "forbidden-without-a-reason"
        uid = cluster.submit(name)
        message = told(cluster, name)
        assert "no Jobs today" in message
        assert "ask the owner of that policy for an exception" in message
        cluster.api.kubectl("delete", "validatingadmissionpolicybinding", "no-jobs-today")
        cluster.api.kubectl("delete", "validatingadmissionpolicy", "no-jobs-today")
        until("the Job", lambda: cluster.jobs(uid))


def test_an_object_stored_before_the_schema_changed_is_named(cluster: Cluster) -> None:
    definition = cluster.api.kubectl("kustomize", DEPLOY / "crd").stdout
    (now,) = (d for d in yaml.safe_load_all(definition) if d["kind"] == "CustomResourceDefinition")
    before = yaml.safe_load(yaml.safe_dump(now))
    (version,) = before["spec"]["versions"]
    version["schema"]["openAPIV3Schema"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    name, namespace = "quantizationjobs.quantization.dev", ("-n", NAMESPACE)
    cluster.api.kubectl("replace", "-f", "-", stdin=yaml.safe_dump(before))
    old = manifest()
    old["spec"]["workflow"]["passes"] = [{"type": "NoSuchPass", "bits": 3}]
    old["metadata"] |= {"name": "old", "namespace": NAMESPACE}
    store = ("apply", "-f", "-")
    until(
        "the old schema",
        lambda: not cluster.api.kubectl(*store, stdin=yaml.safe_dump(old), check=False).returncode,
    )
    now["metadata"]["resourceVersion"] = json.loads(
        cluster.api.kubectl("get", "crd", name, "-o", "json").stdout
    )["metadata"]["resourceVersion"]
    cluster.api.kubectl("replace", "-f", "-", stdin=yaml.safe_dump(now))
    another = yaml.safe_dump(old | {"metadata": {"name": "another", "namespace": NAMESPACE}})
    check = ("apply", "--dry-run=server", "-f", "-")
    until("the new schema", lambda: cluster.api.kubectl(*check, stdin=another, check=False).returncode)
    with cluster.operator():
        failure = cluster.phase("old", "Failed")["failure"]
        assert failure["category"] == "InvalidWorkflow"
        assert "NoSuchPass" in failure["message"]
    cluster.api.kubectl("delete", "qj", "old", *namespace)
