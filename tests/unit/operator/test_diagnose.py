"""Each state that Kubernetes can show is named by its cause."""

from datetime import timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    child,
    disruption,
    ended,
    failed_result,
    pod,
    running,
    succeeded,
    terminated,
    unscheduled,
    waiting,
)

from quantization_api.failures import CATALOGUE, Category
from quantization_api.pod import RunResult
from quantization_api.status import Failure
from quantization_operator.diagnose import job_failure, pod_failure, success_of
from quantization_operator.hindrances import waiting_problem
from quantization_operator.snapshots import ChildJob, ChildPod, KubernetesWarning

pytestmark = pytest.mark.unit

NO_SPACE = 'Usage of EmptyDir volume "quantizer-scratch" exceeds the limit "10Gi". '
LOW_MEMORY = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "

ENDS: dict[str, tuple[dict[str, Any], Category | None, str]] = {
    "its own words": (terminated(66, failed_result("ModelNotFound")), Category.MODEL_NOT_FOUND, "not there"),
    "own words win over the exit code": (
        terminated(75, failed_result("GpuOutOfMemory")),
        Category.GPU_OUT_OF_MEMORY,
        "",
    ),
    "own words win over an OOM kill of another process": (
        terminated(65, failed_result("DataInsufficient"), reason="OOMKilled"),
        Category.DATA_INSUFFICIENT,
        "",
    ),
    "the kernel's OOM killer": (terminated(137, reason="OOMKilled"), Category.HOST_OUT_OF_MEMORY, "memory"),
    "OOM killed before": (
        terminated(1, last_state={"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
        Category.HOST_OUT_OF_MEMORY,
        "",
    ),
    "killed from outside": (terminated(137), Category.DISRUPTED, "137"),
    "the node restarted": (
        terminated(137, reason="ContainerStatusUnknown"),
        Category.DISRUPTED,
        "node restarted",
    ),
    "scratch is full": (
        pod(phase="Failed", status={"reason": "Evicted", "message": NO_SPACE}),
        Category.SCRATCH_FULL,
        "EmptyDir",
    ),
    "the node is short of memory": (
        terminated(143, status={"reason": "Evicted", "message": LOW_MEMORY}),
        Category.DISRUPTED,
        "low on resource",
    ),
    "evicted by the API": (terminated(143, conditions=[disruption()]), Category.DISRUPTED, "Eviction API"),
    "preempted": (
        terminated(143, conditions=[disruption("PreemptionByScheduler", "preempting")]),
        Category.DISRUPTED,
        "PreemptionByScheduler",
    ),
    "the node was lost": (
        terminated(137, conditions=[disruption("DeletionByTaintManager", "taint")]),
        Category.NODE_LOST,
        "taint",
    ),
    "preempted, whatever the quantizer makes of its SIGTERM": (
        terminated(
            143,
            failed_result("Disrupted", "stopped by SIGTERM"),
            conditions=[disruption("PreemptionByScheduler")],
        ),
        Category.DISRUPTED,
        "PreemptionByScheduler",
    ),
    "a failure of its own while it is taken away": (
        terminated(66, failed_result("ModelNotFound"), conditions=[disruption()]),
        Category.MODEL_NOT_FOUND,
        "not there",
    ),
    "stopped by SIGTERM and nothing says by whom": (
        terminated(143, failed_result("Disrupted", "stopped by SIGTERM")),
        Category.DISRUPTED,
        "stopped by SIGTERM",
    ),
    "no such program in the image": (
        terminated(128, 'exec: "quantizer": executable file not found in $PATH', reason="StartError"),
        Category.IMAGE_UNUSABLE,
        "executable file not found",
    ),
    "a program of another architecture, as runc leaves it": (
        terminated(1, "exec /usr/local/bin/quantizer: exec format error\n"),
        Category.IMAGE_UNUSABLE,
        "could not be started",
    ),
    "a log that only names such a thing": (
        terminated(1, "exec format error\nin a helper"),
        Category.INTERNAL,
        "exit code 1",
    ),
    "a crash with a log": (
        terminated(1, "Traceback ...\nValueError: x"),
        Category.INTERNAL,
        "ValueError: x",
    ),
    "usage": (terminated(64, "usage: quantizer"), Category.INTERNAL, "exit code 64"),
    "an exit code of one category": (terminated(77, ""), Category.ACCESS_DENIED, "exit code 77"),
    "a message cut in half": (
        terminated(78, failed_result("InvalidWorkflow")[:-9]),
        Category.INVALID_WORKFLOW,
        "exit code 78",
    ),
    "failed without a container": (
        pod(phase="Failed", status={"reason": "UnexpectedAdmissionError", "message": "no GPU"}),
        Category.DISRUPTED,
        "no GPU",
    ),
    "a success": (succeeded(), None, ""),
    "exit 0 with a killed child process": (terminated(0, "", reason="OOMKilled"), None, ""),
    "still running": (running(), None, ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_a_pod_has_a_cause(name: str) -> None:
    body, category, said = ENDS[name]
    found = pod_failure(ChildPod.of(body))
    if category is None:
        assert found is None
        return
    assert found is not None
    assert found.category is category
    assert said in found.message
    assert found.hint
    assert found.pod_name == body["metadata"]["name"]


JOBS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], Category, str]] = {
    "deadline, whatever the pod says": (
        ended("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"),
        [terminated(143, failed_result("Disrupted"))],
        Category.DEADLINE_EXCEEDED,
        "longer than",
    ),
    "a permanent exit code": (
        ended("Failed", "PodFailurePolicy", "Container quantizer failed with exit code 66"),
        [terminated(66, failed_result("DataNotFound"))],
        Category.DATA_NOT_FOUND,
        "not there",
    ),
    "too many attempts: the last one that is to blame": (
        ended("Failed", "BackoffLimitExceeded", "Job has reached the limit", failed=2),
        [
            terminated(75, failed_result("StorageUnavailable", "no answer"), name="a"),
            terminated(143, name="b", conditions=[disruption()], creationTimestamp="2026-01-01T00:05:00Z"),
        ],
        Category.STORAGE_UNAVAILABLE,
        "2 attempts failed; the last one: no answer",
    ),
    "only disruptions": (
        ended("Failed", "BackoffLimitExceeded", "limit", failed=1),
        [terminated(137)],
        Category.DISRUPTED,
        "137",
    ),
    "no pod is left": (
        ended("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        [],
        Category.INTERNAL,
        "BackoffLimitExceeded",
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_the_end_of_a_job_has_a_cause(name: str) -> None:
    status, pods, category, said = JOBS[name]
    found = job_failure(ChildJob.of(child(status=status)), [ChildPod.of(p) for p in pods])
    assert found.category is category
    assert said in found.message


def test_a_success_needs_a_valid_result() -> None:
    assert isinstance(success_of([ChildPod.of(succeeded())]), RunResult)
    assert success_of([]) is None
    assert success_of([ChildPod.of(running())]) is None
    for message in ("", "not JSON", "{}", '{"artifact": {"uri": "s3://a/b"}}'):
        found = success_of([ChildPod.of(terminated(0, message))])
        assert isinstance(found, Failure), message
        assert found.category is Category.INTERNAL
        assert "left no valid result" in found.message


def test_a_success_after_a_failed_attempt_is_a_success() -> None:
    first = terminated(75, failed_result("StorageUnavailable"), name="first")
    assert isinstance(success_of([ChildPod.of(succeeded()), ChildPod.of(first)]), RunResult)


PULL = 'failed to resolve reference "localhost:5000/none:1": not found'
MISSING_SECRET = 'secret "s3-writer" not found'


def beside(
    own: dict[str, Any], first: dict[str, tuple[str, str]] | None = None, **added: tuple[str, str]
) -> dict[str, Any]:
    """A pod with containers that wait, beside the quantizer's: reason and message by name; first: init containers."""

    def waits(containers: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
        return [
            {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}
            for name, (reason, message) in containers.items()
        ]

    quantizer = {"name": "quantizer", "state": own}
    return pod(
        status={"initContainerStatuses": waits(first or {}), "containerStatuses": [*waits(added), quantizer]}
    )


WAITS: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]], Category | None, str, str]] = {
    "image that does not exist": (
        [waiting("ErrImagePull", PULL)],
        [],
        Category.IMAGE_PULL_FAILED,
        "image",
        "not found",
    ),
    "image in back-off": (
        [waiting("ImagePullBackOff", "Back-off pulling image")],
        [],
        Category.IMAGE_PULL_FAILED,
        "image",
        "Back-off",
    ),
    "no image name": (
        [waiting("InvalidImageName", "couldn't parse image name")],
        [],
        Category.IMAGE_PULL_FAILED,
        "image",
        "InvalidImageName",
    ),
    "missing secret": (
        [waiting("CreateContainerConfigError", MISSING_SECRET)],
        [],
        Category.ACCESS_DENIED,
        "start",
        "s3-writer",
    ),
    "other configuration error": (
        [waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")],
        [],
        Category.IMAGE_UNUSABLE,
        "start",
        "runAsNonRoot",
    ),
    "no node fits": (
        [pod(node="", conditions=[unscheduled()])],
        [],
        Category.UNSCHEDULABLE,
        "schedule",
        "gpu",
    ),
    "lost node": (
        [
            running(
                conditions=[disruption("DeletionByTaintManager")],
                deletionTimestamp="2026-01-01T00:05:00Z",
            )
        ],
        [],
        Category.NODE_LOST,
        "never",
        "node-1",
    ),
    "pods refused by Pod Security": (
        [],
        [("FailedCreate", 'pods "x" is forbidden: violates PodSecurity "restricted:latest"')],
        Category.ADMISSION_DENIED,
        "start",
        "PodSecurity",
    ),
    "pods refused by quota": (
        [],
        [("FailedCreate", 'pods "x" is forbidden: exceeded quota: gpus, requested: pods=1')],
        Category.QUOTA_EXCEEDED,
        "schedule",
        "exceeded quota",
    ),
    "volume that cannot be mounted": (
        [waiting("ContainerCreating")],
        [("FailedMount", 'configmap "text" not found')],
        Category.VOLUME_NOT_FOUND,
        "start",
        "text",
    ),
    "image of an init container that something added": (
        [
            beside(
                {"waiting": {"reason": "PodInitializing"}},
                first={"init-mesh": ("ErrImagePull", PULL), "later": ("PodInitializing", "")},
            )
        ],
        [],
        Category.IMAGE_PULL_FAILED,
        "image",
        "ErrImagePull of container init-mesh, which something added to the pod: failed to resolve",
    ),
    "no image name of a sidecar that something added": (
        [beside({"waiting": {"reason": "ContainerCreating"}}, mesh=("InvalidImageName", "couldn't parse"))],
        [],
        Category.IMAGE_PULL_FAILED,
        "image",
        "InvalidImageName of container mesh",
    ),
    "secret of a sidecar that something added": (
        [
            beside(
                {"waiting": {"reason": "ContainerCreating"}},
                mesh=("CreateContainerConfigError", MISSING_SECRET),
            )
        ],
        [],
        Category.ADDED_CONTAINER,
        "start",
        'CreateContainerConfigError of container mesh, which something added to the pod: secret "s3-writer"',
    ),
    "image of the quantizer, and of a sidecar": (
        [beside({"waiting": {"reason": "ErrImagePull", "message": PULL}}, mesh=("ErrImagePull", "other"))],
        [],
        Category.IMAGE_PULL_FAILED,
        "image",
        "ErrImagePull: failed to resolve",
    ),
    "the quantizer runs, whatever a sidecar waits for": (
        [beside({"running": {}}, mesh=("ErrImagePull", PULL))],
        [],
        None,
        "",
        "",
    ),
    "the quantizer has ended, whatever a sidecar waits for": (
        [beside({"terminated": {"exitCode": 0}}, mesh=("ErrImagePull", PULL))],
        [],
        None,
        "",
        "",
    ),
    "unrelated warnings": ([running()], [("Unhealthy", "probe failed")], None, "", ""),
    "starting": ([waiting("ContainerCreating")], [], None, "", ""),
    "running": ([running()], [], None, "", ""),
    "a failed pod's past is no present": (
        [terminated(1, conditions=[unscheduled()], name="old")],
        [],
        None,
        "",
        "",
    ),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_a_job_waits_for_has_a_name(name: str) -> None:
    pods, warnings, category, patience, said = WAITS[name]
    found = waiting_problem(
        [ChildPod.of(p) for p in pods], [KubernetesWarning(reason, text, None) for reason, text in warnings]
    )
    if category is None:
        assert found is None
        return
    assert found is not None
    assert found.failure.category is category
    assert found.patience == patience
    assert said in found.failure.message


def test_the_cure_of_an_added_container_is_where_it_is_added() -> None:
    for reason in ("ErrImagePull", "CreateContainerConfigError"):
        body = beside(
            {"waiting": {"reason": "PodInitializing"}}, first={"init-mesh": (reason, MISSING_SECRET)}
        )
        found = waiting_problem([ChildPod.of(body)], [])
        assert found is not None
        assert "container init-mesh where it is added" in found.failure.hint
        assert "spec." not in found.failure.hint


def test_only_what_was_refused_after_the_last_pod_was_made_is_news() -> None:
    last = ChildPod.of(terminated(143, conditions=[disruption()]))
    for seconds, news in ((-30, False), (0, False), (1, True)):
        seen = last.created + timedelta(seconds=seconds)
        warning = KubernetesWarning("FailedCreate", "exceeded quota", seen)
        assert (waiting_problem([last], [warning]) is not None) == news, seconds


def test_a_back_off_is_the_same_problem_as_the_error_before_it() -> None:
    first = waiting_problem([ChildPod.of(waiting("ErrImagePull", "x"))], [])
    then = waiting_problem([ChildPod.of(waiting("ImagePullBackOff", "y"))], [])
    assert first is not None
    assert then is not None
    assert first.key == then.key


def test_what_a_pod_says_is_one_printable_line_that_keeps_its_head_and_its_end() -> None:
    said = "what was done \x1b[31mred\x00\n" + "x" * 5000 + " the error"
    for body in (
        terminated(1, said),
        terminated(1, failed_result("DataNotFound", said[:1000])),
        pod(phase="Failed", status={"message": said, "reason": "Evicted"}),
    ):
        cause = pod_failure(ChildPod.of(body))
        assert cause is not None
        assert cause.message.isprintable()
        assert "what was done red" in cause.message
    assert cause.message.endswith("the error")


def test_every_hint_of_the_catalogue_fits_a_status() -> None:
    for category, entry in CATALOGUE.items():
        Failure(category=category, message="x", hint=entry.cure)
