"""What a Job waits for that is not running: a table of checks of which the first that knows wins. Pure.

The evidence is what the kubelet and the scheduler say in a pod's status, and the events of a pod or of the Job.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from quantization_api.failures import Category
from quantization_api.pod import CONTAINER_NAME
from quantization_api.status import Failure
from quantization_operator import cures
from quantization_operator.diagnose import failure, with_cure
from quantization_operator.pods import CONFIG_REASONS, CRASHING, IMAGE_REASONS, ChildPod, KubernetesWarning
from quantization_operator.workers import by_age, idle, living

Patience = Literal["image", "start", "schedule", "never"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why nothing runs yet."""

    reason: str
    failure: Failure
    patience: Patience
    """Which setting says how long that is tolerated."""

    @property
    def key(self) -> str:
        """What makes two looks at it the same problem: messages change, for example with a back-off."""
        return f"{self.failure.category}/{self.failure.pod_name or ''}"

    @property
    def told(self) -> str:
        """For the one who waits."""
        return with_cure(self.failure)


def _added_container(pod: ChildPod) -> str:
    """The container that waits, in words, if it is not the quantizer's; the operator makes pods without others."""
    if pod.waiting_container == CONTAINER_NAME:
        return ""
    return f"container {pod.waiting_container}, which something added to the pod"


def _image(pod: ChildPod) -> Problem | None:
    if pod.waiting_reason not in IMAGE_REASONS:
        return None
    said = f"{pod.waiting_reason}: {pod.waiting_message}"
    hint = cures.cure(cures.IMAGE, said)
    if added := _added_container(pod):
        said = f"{pod.waiting_reason} of {added}: {pod.waiting_message}"
        hint = f"Correct the image of container {pod.waiting_container} where it is added, or keep it out of the pod."
    found = failure(Category.IMAGE_PULL_FAILED, said, pod, hint)
    return Problem("ImagePullFailed", found, "image")


CONFIGURATION_KINDS = (
    (r"configmap|persistentvolumeclaim|volume|mount", Category.VOLUME_NOT_FOUND),
    (r"runAsNonRoot|run as root|executable file not found|no such file|exec", Category.IMAGE_UNUSABLE),
)
"""What a container's configuration lacks, by the kubelet's words."""
SCHEDULING_KINDS = (
    (r'persistentvolumeclaim "[^"]*" not found', Category.VOLUME_NOT_FOUND),
    (r"resourceclaim\S* .*not found", Category.RESOURCE_CLAIM_NOT_FOUND),
)
"""What a pod without a node lacks that more nodes would not bring, by the scheduler's words."""
CLAIM_IS_MADE = re.compile(r"to create the resourceclaim")
"""The scheduler waits for a claim to be made from its template: that takes a moment, or an event says why it is not."""
REFUSAL_KINDS = (
    (r"exceeded quota|failed quota|count/jobs", Category.QUOTA_EXCEEDED),
    (r"serviceaccount .* not found", Category.SERVICE_ACCOUNT_NOT_FOUND),
    (r"no PriorityClass", Category.PRIORITY_CLASS_NOT_FOUND),
    (r"RuntimeClass .* not found", Category.RUNTIME_CLASS_NOT_FOUND),
)
"""Why the API server refuses a Job or its pod, by its words; for any other reason a rule of somebody denies it."""


def _kind(table: Sequence[tuple[str, Category]], message: str, otherwise: Category) -> Category:
    return next((kind for words, kind in table if re.search(words, message)), otherwise)


def refused(message: str) -> Category:
    """Why the API server does not take a Job or a pod."""
    return _kind(REFUSAL_KINDS, message, Category.ADMISSION_DENIED)


def _configuration(pod: ChildPod) -> Problem | None:
    """A missing Secret is AccessDenied: its cure (look at credentialsSecret) is the one that helps."""
    if pod.waiting_reason not in CONFIG_REASONS:
        return None
    message = pod.waiting_message or pod.waiting_reason
    if added := _added_container(pod):
        found = failure(
            Category.ADDED_CONTAINER,
            f"{pod.waiting_reason} of {added}: {message}",
            pod,
            hint=f"Correct container {pod.waiting_container} where it is added, or keep it out of the pod.",
        )
    elif "secret" in message.lower():
        found = failure(
            Category.ACCESS_DENIED,
            message,
            pod,
            hint=cures.cure(cures.SECRET, message),
        )
    else:
        hint = cures.cure(cures.CONFIGURATION, message)
        kind = _kind(CONFIGURATION_KINDS, message, Category.INTERNAL)
        found = failure(kind, f"{pod.waiting_reason}: {message}", pod, hint)
    return Problem(pod.waiting_reason, found, "start")


def _crashing(pod: ChildPod) -> Problem | None:
    """A native sidecar that does not come up keeps the quantizer from starting, without end."""
    if pod.waiting_reason != CRASHING:
        return None
    found = failure(
        Category.ADDED_CONTAINER, f"{CRASHING} of {_added_container(pod)}: {pod.waiting_message}", pod
    )
    return Problem("AddedContainerFails", found, "start")


def _lost_node(pod: ChildPod) -> Problem | None:
    """With a podFailurePolicy no new pod is made until the lost one is Failed (KEP-3939).

    Its kubelet would say so; for a node that is off, the pod collector does, where an administrator vouches for it by
    a taint. Deleting the pod by force does not help: the Job keeps the object by a finalizer, in its last phase.
    """
    if not pod.deleting or pod.disruption != "DeletionByTaintManager" or pod.phase in ("Failed", "Succeeded"):
        return None
    found = failure(
        Category.NODE_LOST,
        f"node {pod.node} stopped answering; pod {pod.name} is terminating and will be replaced once it is gone",
        pod,
        hint="Bring the node back; or, if it is off: "
        f"kubectl taint node {pod.node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
    )
    return Problem("NodeLost", found, "never")


def _unscheduled(pod: ChildPod) -> Problem | None:
    said = pod.unscheduled_message
    if not said or pod.node or CLAIM_IS_MADE.search(said):
        return None
    kind = _kind(SCHEDULING_KINDS, said, Category.UNSCHEDULABLE)
    found = failure(kind, said, pod, cures.cure(cures.SCHEDULING, said))
    return Problem(str(kind), found, "schedule")


POD_PROBLEMS: tuple[Callable[[ChildPod], Problem | None], ...] = (
    _lost_node,
    _image,
    _configuration,
    _crashing,
    _unscheduled,
)


def _mount_problem(warning: KubernetesWarning, pod: ChildPod | None) -> Problem | None:
    if warning.reason not in ("FailedMount", "FailedAttachVolume"):
        return None
    found = failure(
        Category.VOLUME_NOT_FOUND,
        warning.message,
        pod,
        hint="Check spec.template.volumes: the claim or ConfigMap must exist in the job's namespace.",
    )
    return Problem(warning.reason, found, "start")


def _claim_problem(warning: KubernetesWarning, pod: ChildPod | None) -> Problem | None:
    if warning.reason != "FailedResourceClaimCreation":
        return None
    return Problem(
        warning.reason, failure(Category.RESOURCE_CLAIM_NOT_FOUND, warning.message, pod), "schedule"
    )


def _runtime_problem(warning: KubernetesWarning, pod: ChildPod | None) -> Problem | None:
    """The class is there, or the API server would have refused the pod; what it names is not on the node."""
    if warning.reason != "FailedCreatePodSandBox" or "no runtime for" not in warning.message:
        return None
    return Problem(warning.reason, failure(Category.RUNTIME_CLASS_NOT_FOUND, warning.message, pod), "start")


def _refused_pod(warning: KubernetesWarning, pod: ChildPod | None) -> Problem | None:
    """A Job whose pods are refused stays without pods; only its events say why."""
    if warning.reason != "FailedCreate":
        return None
    heals = "exceeded quota" in warning.message or "failed calling webhook" in warning.message
    hint = cures.cure(cures.REFUSED_POD, warning.message)
    found = failure(refused(warning.message), warning.message, pod, hint)
    return Problem("PodRefused", found, "schedule" if heals else "start")


EVENT_PROBLEMS: tuple[Callable[[KubernetesWarning, ChildPod | None], Problem | None], ...] = (
    _mount_problem,
    _claim_problem,
    _runtime_problem,
    _refused_pod,
)


def unnoticed(pods: Sequence[ChildPod]) -> Problem | None:
    """A pod that no scheduler has looked at, though there was time: nobody would ever say why."""
    pod = stuck(pods)
    if pod is None or pod.node or pod.seen_by_scheduler or pod.gated:
        return None
    said = f"no scheduler named {pod.scheduler} has looked at pod {pod.name}"
    kind = Category.SCHEDULER_NOT_FOUND
    return Problem(str(kind), failure(kind, said, pod), "schedule")


def stuck(pods: Sequence[ChildPod]) -> ChildPod | None:
    """The pod whose events say why a Job does not get on; None: the Job's own do."""
    waiting = idle(pods)
    return waiting[-1] if waiting else None


def waiting_problem(pods: Sequence[ChildPod], warnings: Sequence[KubernetesWarning]) -> Problem | None:
    """What keeps a pod of the Job from running, or the Job from making one.

    warnings: of the newest pod that has not begun, else of the Job (`stuck`). Those of the Job from before its last pod
    was made are about the past.
    """
    for pod in reversed(living(pods)):
        for check in POD_PROBLEMS:
            if problem := check(pod):
                return problem
    last = stuck(pods)
    past = by_age(pods)[-1].created if pods and last is None else None
    for warning in warnings:
        if past is not None and warning.last_seen is not None and warning.last_seen <= past:
            continue
        for explains in EVENT_PROBLEMS:
            if problem := explains(warning, last):
                return problem
    return None
