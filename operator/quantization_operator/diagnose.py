"""From the state of a Job and its pods to a cause with a name: pure, and ordered from certain to guessed.

Two questions are answered here, the first by a table of checks of which the first that knows wins:

- `pod_failure`: why did this pod end without success?
- `job_failure`: why did the Job end without success?

What a Job waits for that is not running is the question of `hindrances`.

The evidence is what Kubernetes keeps in status and events. The quantizer's own words, left as the
termination message, win over everything that can only be inferred from outside.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from quantization_api.failures import CATALOGUE, PERMANENT_EXIT_CODES, Category
from quantization_api.pod import CONTAINER_NAME, RunResult
from quantization_api.status import Failure, Trials
from quantization_api.text import clean
from quantization_operator import cures
from quantization_operator.pods import ChildPod
from quantization_operator.snapshots import ChildJob
from quantization_operator.workers import by_age, ended_well

SIGKILL = 128 + 9
EVIDENCE_LIMIT = 700
"""Characters of a log's end that are copied into a message."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

NODE_LOST_REASONS = ("DeletionByTaintManager", "DeletionByPodGC")
NODE_REFUSALS = ("UnexpectedAdmissionError", "NodeAffinity", "NodeName", "OutOf")
"""Beginnings of the reasons with which a kubelet refuses a pod that was scheduled to it."""

NOT_EXECUTED = re.compile(r"exec \S+: (exec format error|no such file or directory|permission denied)\s*$")
"""All that runc leaves in the log of a program that the kernel did not execute; its exit code is 1, as of any other."""

_COUNTS = Counter(entry.exit_code for entry in CATALOGUE.values())
CATEGORY_OF_EXIT_CODE: dict[int, Category] = {
    int(entry.exit_code): category
    for category, entry in CATALOGUE.items()
    if entry.exit_code is not None and _COUNTS[entry.exit_code] == 1
}
"""Exit codes that belong to one category only: they name a failure even without a message."""


def failure(category: Category, message: str, pod: ChildPod | None = None, hint: str = "") -> Failure:
    """A failure with the catalogue's cure as its hint, unless there is a better one."""
    return Failure(
        category=category,
        message=clean(message),
        hint=hint or CATALOGUE[category].cure,
        exit_code=pod.exit_code if pod else None,
        pod_name=pod.name if pod else None,
    )


def with_cure(cause: Failure) -> str:
    """For the one who waits: what is wrong, and the way out, which nobody should have to wait for."""
    return f"{clean(cause.message, EVIDENCE_LIMIT).rstrip('.')}. {cause.hint}"


def result_of(pod: ChildPod) -> RunResult | None:
    """What the quantizer left as its termination message; None when that is not a result."""
    try:
        result = RunResult.from_message(pod.ended_message)
    except (ValueError, RecursionError):  # also of text that is no Unicode
        return None
    update: dict[str, object] = {}
    if (said := result.failure) is not None:
        update["failure"] = said.model_copy(update={"message": clean(said.message), "hint": clean(said.hint)})
    if (made := result.artifact) is not None:
        readers = [clean(reader, WORDS_LIMIT) for reader in made.readers]
        update["artifact"] = made.model_copy(update={"readers": readers})
    update["trials"] = [
        trial.model_copy(update={"parameters": clean(trial.parameters)}) for trial in result.trials
    ]
    update["search"] = cleaned(result.search)
    return result.model_copy(update=update)


def forged(result: RunResult, output: str, recipe: str | None) -> Failure | None:
    """Why a result is not that of the quantizer: it always tells where it was asked to write, and what it computed.

    output: where the Job was asked to write. recipe: that of an earlier result of the same object, if there was one.
    """
    made = result.artifact
    if made is None or made.uri != output or made.reused_from not in (None, output):
        said = f"the pod reported an artifact at {made.uri if made else '-'}, but its job writes to {output}"
    elif not DIGEST.match(result.recipe or ""):
        said = f"the pod reported an artifact with the recipe {result.recipe or '-'}, which is not a digest"
    elif recipe not in (None, result.recipe):
        said = f"the pod reported recipe {result.recipe}, but the result of this object has recipe {recipe}"
    else:
        return None
    return failure(Category.INTERNAL, said, hint=NOT_THE_QUANTIZER)


def cleaned(search: Trials | None) -> Trials | None:
    """How far a search is, in words that may be shown."""
    best = clean(search.best, WORDS_LIMIT) if search and search.best else None
    return search and search.model_copy(update={"best": best, "shown": None})


WORDS_LIMIT = 256
NOT_THE_QUANTIZER = (
    "Something other than the quantizer wrote this: check spec.template.image and who may write pods and Jobs in this "
    "namespace, then delete the object and apply it again."
)


# --- why a pod ended without success ---------------------------------------------------------------------------


def _own_words(pod: ChildPod) -> Failure | None:
    result = result_of(pod)
    if result is None or result.failure is None:
        return None
    said = result.failure
    if said.category is Category.DISRUPTED and pod.disruption:
        return None  # it only knows that SIGTERM came; who sent it also said why
    return said.model_copy(
        update={
            "hint": said.hint or CATALOGUE[said.category].cure,
            "exit_code": pod.exit_code,
            "pod_name": pod.name,
        }
    )


def _out_of_memory(pod: ChildPod) -> Failure | None:
    if not pod.oom_killed:
        return None
    if pod.oom_killed != CONTAINER_NAME:
        return failure(
            Category.HOST_OUT_OF_MEMORY,
            f"the kernel killed container {pod.oom_killed}, which something added to the pod: it needed more memory "
            "than its limit",
            pod,
            hint=f"Raise the memory limit of container {pod.oom_killed} where it is added, or keep it out of the pod.",
        )
    return failure(
        Category.HOST_OUT_OF_MEMORY,
        "the kernel killed the quantizer: it needed more memory than its limit",
        pod,
    )


def _evicted(pod: ChildPod) -> Failure | None:
    """The kubelet evicts for the pod's own limits (scratch), and for a node that is short of something."""
    if pod.reason != "Evicted":
        return None
    said = pod.message or "evicted by the kubelet"
    if any(words in said for words in ("EmptyDir", "ephemeral local storage", "local ephemeral storage")):
        return failure(Category.SCRATCH_FULL, said, pod)
    return failure(Category.DISRUPTED, said, pod, cures.cure(cures.DISRUPTION, said))


def _refused_by_node(pod: ChildPod) -> Failure | None:
    """The scheduler and the kubelet saw the node differently: a device broke, or it restarted with less."""
    if not pod.reason.startswith(NODE_REFUSALS):
        return None
    return failure(
        Category.DISRUPTED,
        f"the node refused the pod: {pod.reason}: {pod.message}".rstrip(": "),
        pod,
        hint="If it happens again, check the node's devices, or avoid the node with spec.template.nodeSelector.",
    )


def _disrupted(pod: ChildPod) -> Failure | None:
    if not pod.disruption:
        return None
    said = f"{pod.disruption}: {pod.disruption_message}".rstrip(": ")
    if pod.disruption in NODE_LOST_REASONS:
        return failure(Category.NODE_LOST, said, pod)
    return failure(Category.DISRUPTED, said, pod, cures.cure(cures.DISRUPTION, said))


def _node_forgot(pod: ChildPod) -> Failure | None:
    """After a restart of its node the container is gone, and 137 says nothing about the job."""
    if pod.ended_reason == "ContainerStatusUnknown":
        return failure(
            Category.DISRUPTED, "the node restarted and no longer knows how the container ended", pod
        )
    return None


def _not_startable(pod: ChildPod) -> Failure | None:
    if pod.ended_reason in ("StartError", "ContainerCannotRun") or NOT_EXECUTED.match(pod.ended_message):
        return failure(
            Category.IMAGE_UNUSABLE,
            f"the container could not be started: {clean(pod.ended_message, EVIDENCE_LIMIT)}",
            pod,
            hint=cures.cure(cures.CONFIGURATION, pod.ended_message + " exec"),
        )
    return None


def _exit_code(pod: ChildPod) -> Failure | None:
    if pod.exit_code is None or pod.exit_code == 0:
        return None
    tail = clean(pod.ended_message, EVIDENCE_LIMIT)
    said = f"; the end of its log: {tail}" if tail else ""
    if pod.exit_code == SIGKILL:
        return failure(
            Category.DISRUPTED,
            f"the container was killed from outside (exit code 137){said}",
            pod,
            hint="If it happens again on an idle node, suspect memory: raise spec.template.resources.limits.memory.",
        )
    category = CATEGORY_OF_EXIT_CODE.get(pod.exit_code, Category.INTERNAL)
    return failure(
        category, f"the quantizer ended with exit code {pod.exit_code} and left no result{said}", pod
    )


def _added_container_failed(pod: ChildPod) -> Failure | None:
    """The quantizer did not even start, since an init container, or another one, failed."""
    if not pod.failed_container or pod.exit_code is not None:
        return None
    said = f"container {pod.failed_container}, which something added to the pod, failed: {pod.failed_message}"
    return failure(Category.ADDED_CONTAINER, said, pod)


def _deleted_unstarted(pod: ChildPod) -> Failure | None:
    if not pod.deleting or pod.exit_code is not None:
        return None
    return failure(Category.DISRUPTED, "the pod was deleted before its container ran", pod)


POD_CHECKS: tuple[Callable[[ChildPod], Failure | None], ...] = (
    _evicted,  # of an eviction the quantizer only knows that SIGTERM came, the kubelet knows why
    _own_words,
    _out_of_memory,
    _disrupted,
    _refused_by_node,
    _node_forgot,
    _not_startable,
    _exit_code,
    _deleted_unstarted,
    _added_container_failed,
)


def pod_failure(pod: ChildPod) -> Failure | None:
    """Why this pod ended without success; None for one that runs, or that succeeded."""
    if pod.phase != "Failed" and (pod.exit_code is None or pod.exit_code == 0):
        return None
    for check in POD_CHECKS:
        if found := check(pod):
            return found
    return failure(Category.INTERNAL, pod.message or pod.reason or "the pod failed and nothing says why", pod)


# --- why a Job ended without success ---------------------------------------------------------------------------


def job_failure(job: ChildJob, pods: Sequence[ChildPod]) -> Failure:
    """Why a Job that has the condition Failed failed."""
    if job.ended_reason == "DeadlineExceeded":
        return failure(
            Category.DEADLINE_EXCEEDED, job.ended_message or "the Job ran longer than activeDeadlineSeconds"
        )
    failures = [found for pod in by_age(pods) if (found := pod_failure(pod)) is not None]
    if not failures:
        what = f"{job.ended_reason}: {job.ended_message}".strip(": ") or "the Job failed"
        return failure(Category.INTERNAL, f"{what}; its pods are gone, and with them the reason")
    blamed = [f for f in failures if f.category not in (Category.DISRUPTED, Category.NODE_LOST)]
    final = [
        f for f in blamed if job.ended_reason == "PodFailurePolicy" and f.exit_code in PERMANENT_EXIT_CODES
    ]
    last = (final or blamed or failures)[-1]  # of several workers, another may have failed beside
    attempts = job.failed_before + job.failed
    if job.ended_reason == "BackoffLimitExceeded" and attempts > 1:
        return last.model_copy(
            update={"message": clean(f"{attempts} attempts failed; the last one: {last.message}")}
        )
    return last


def success_of(pods: Sequence[ChildPod]) -> RunResult | Failure | None:
    """What a Job that has the condition Complete has to show; None while no pod with an end is known.

    Any worker that ended well has the result of all.
    """
    shown = [_shown(pod) for pod in ended_well(pods)]
    return next((found for found in shown if isinstance(found, RunResult)), shown[-1] if shown else None)


def _shown(pod: ChildPod) -> RunResult | Failure | None:
    """What a pod that ended well has to show."""
    result = result_of(pod)
    if result is not None and result.failure is not None:
        return _own_words(pod)
    if result is not None and result.artifact is not None:
        return result
    tail = clean(pod.ended_message, EVIDENCE_LIMIT)
    return failure(
        Category.INTERNAL,
        "the quantizer ended with exit code 0 but left no valid result" + (f": {tail}" if tail else ""),
        pod,
    )
