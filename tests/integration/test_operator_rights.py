"""Every right of the operator's roles is used: without any one of them something that it does is forbidden."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from tests.support.audit import FORBIDDEN, Audit, Right
from tests.support.choice import mostly_nightly
from tests.support.cluster_objects import failed_result
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import DEPLOY, SYSTEM, until

from local_cluster.control_plane import ApiServer
from quantization_operator.workload import job_name

pytestmark = pytest.mark.integration

QUEUE = {"kueue.x-k8s.io/queue-name": "team-queue"}
SETTINGS = {
    "lease_namespace": SYSTEM,
    "start_patience_seconds": 1,
    "image_pull_patience_seconds": 1,
    "sweep_interval_seconds": 5,
}
OF_ADMISSION = Right("quantization.dev", "quantizationjobs/finalizers", "update")
"""Never asked for by a request of its own: an admission plugin looks at it when a Job with an owner is created."""
EVERY_TIME = (OF_ADMISSION,)
KINDS = ("ClusterRole", "Role")
ROLES = [
    document
    for document in yaml.safe_load_all((DEPLOY / "base/rbac.yaml").read_text())
    if document["kind"] in KINDS
]


def granted() -> list[Right]:
    """What the roles of deploy/base grant."""
    return sorted(
        Right(group, resource, verb)
        for role in ROLES
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def without(roles: list[dict[str, Any]], right: Right) -> list[dict[str, Any]]:
    """The roles as they stand, but for one right."""
    kept = copy.deepcopy(roles)
    for rule in (rule for role in kept for rule in role["rules"]):
        if rule["apiGroups"] == [right.group] and rule["resources"] == [right.resource]:
            rule["verbs"] = [verb for verb in rule["verbs"] if verb != right.verb]
    for role in kept:
        role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    return kept


class Life:
    """Jobs that need every right once; ends as soon as `over` says so."""

    def __init__(self, cluster: Cluster, name: str, over: Callable[[], bool]) -> None:
        self._cluster, self._name, self._over = cluster, name, over

    def before(self) -> None:
        """What is there when the operator starts: a Job of somebody else by the name that one of its jobs needs."""
        name = f"taken-{self._name}"
        uid = self._cluster.submit(name)
        other = {"name": job_name(name, uid), "namespace": NAMESPACE}
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "other", "image": "other"}]}}
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": other,
            "spec": {"suspend": True, "template": template},
        }
        self._cluster.apply(body)

    def run(self) -> None:
        """All of it."""
        for step in (self._queued, self._trusted, self._removed, self._again, self._rest):
            if self._over():
                return
            step()

    def _wait(self, what: str, check: Callable[[], Any]) -> Any:
        return until(what, lambda: self._over() or check(), 90)

    def _ends(self, uid: str, *how: Any) -> bool:
        """Whether there is a pod, which then ends; no arguments: with success."""
        pods = self._wait("a pod", lambda: self._cluster.items("pods", f"quantization.dev/job-uid={uid}"))
        if self._over():
            return False
        name = pods[-1]["metadata"]["name"]
        self._cluster.ends(name, *how) if how else self._cluster.succeeds(name)
        return True

    def _queued(self) -> None:
        """Suspended by a queue that has it in its list."""
        uid = self._cluster.submit(f"queued-{self._name}", labels=QUEUE)
        jobs = self._wait("a Job", lambda: self._cluster.jobs(uid))
        if self._over():
            return
        (job,) = jobs
        place = ("job", job["metadata"]["name"], "-n", NAMESPACE)
        self._cluster.apply(
            {
                "apiVersion": "kueue.x-k8s.io/v1beta2",
                "kind": "Workload",
                "metadata": {
                    "name": f"queued-{self._name}",
                    "namespace": NAMESPACE,
                    "labels": {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]},
                },
            }
        )
        self._cluster.api.kubectl("patch", *place, "--type=merge", "-p", '{"spec": {"suspend": true}}')

    def _trusted(self) -> None:
        """A result that is another job's too."""
        name = f"first-{self._name}"
        if self._ends(self._cluster.submit(name)):
            self._wait("success", lambda: self._cluster.status(name).get("phase") == "Succeeded")
            same = ("output.uri", f"s3://artifacts/{name}")
            self._cluster.submit(f"second-{self._name}", same, ("reuse", "Trusted"))

    def _removed(self) -> None:
        """Deleted by its time to live, and its artifact with it."""
        name = f"short-{self._name}"
        policy = (("artifactPolicy", "Delete"), ("ttlSecondsAfterFinished", 1))
        self._ends(self._cluster.submit(name, *policy))

    def _again(self) -> None:
        """Failed, and started again."""
        name = f"again-{self._name}"
        if self._ends(self._cluster.submit(name), 66, failed_result("ModelNotFound")):
            self._wait("failure", lambda: self._cluster.status(name).get("phase") == "Failed")
            note = ("annotate", "qj", name, "-n", NAMESPACE, "quantization.dev/retry=1")
            self._cluster.api.kubectl(*note)

    def _rest(self) -> None:
        """Until all of it was seen."""
        self._wait("all of it", lambda: False)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return Audit(tmp_path_factory.mktemp("audit"), SYSTEM)


@pytest.fixture(scope="module")
def cluster(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    flags = [*audit.flags, "--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]
    with ApiServer(controllers=True, flags={"kube-apiserver": flags}) as api:
        api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(workloads()))
        yield Cluster(api, tmp_path_factory.mktemp("rights"))


def workloads() -> dict[str, Any]:
    """Kueue's kind, as far as it is read."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta2", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "workloads.kueue.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a part of it for a test"},
        },
        "spec": {
            "group": "kueue.x-k8s.io",
            "names": {"kind": "Workload", "plural": "workloads", "singular": "workload"},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def test_every_right_is_used_and_nothing_else_is_asked_for(cluster: Cluster, audit: Audit) -> None:
    unused = {right for right in granted() if right != OF_ADMISSION}

    def all_used() -> bool:
        unused.difference_update(right for right, _ in audit.asked())
        return not unused

    life = Life(cluster, "all", all_used)
    life.before()
    try:
        with cluster.operator(**SETTINGS):
            life.run()
    except AssertionError:
        pytest.fail(f"nothing uses the right to {', '.join(map(str, sorted(unused)))}")
    refused = {str(right) for right, code in audit.asked() if code == FORBIDDEN}
    assert refused == set()


@pytest.mark.parametrize("right", mostly_nightly(granted(), EVERY_TIME), ids=str)
def test_without_a_right_something_is_forbidden(cluster: Cluster, audit: Audit, right: Right) -> None:
    name = f"{right.verb}-{right.resource.replace('/', '-')}"
    since = audit.length

    def refused() -> bool:
        return any(code == FORBIDDEN for _, code in audit.asked(since))

    life = Life(cluster, name, refused)
    life.before()
    apply(cluster, without(ROLES, right))
    operator = cluster.operator(**SETTINGS)
    operator.start()
    try:
        life.run()
    finally:
        operator.__exit__(None, None, None)
        apply(cluster, ROLES)
        cluster.api.kubectl("delete", "lease", "--all", "-n", SYSTEM)
    assert refused()


def apply(cluster: Cluster, roles: list[dict[str, Any]]) -> None:
    """The roles, with nothing but these rules."""
    for role in roles:
        place = ("-n", SYSTEM) if role["kind"] == "Role" else ()
        cluster.api.kubectl("replace", *place, "-f", "-", stdin=yaml.safe_dump(role))
