"""Which failures are tried again.

The Job controller counts attempts and makes new pods; this is what it is told, and the one case it cannot
see: an out-of-memory kill ends with exit code 137 like any kill from outside, but it would come back.

A pause deletes the Job, and with it its count. The Job that follows carries what was counted before it in an
annotation, and may fail as often as is left of backoffLimit.
"""

from collections.abc import Sequence
from typing import Any

from quantization_api.failures import CATALOGUE, PERMANENT_EXIT_CODES, Category
from quantization_api.pod import CONTAINER_NAME
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Attempts, Failure
from quantization_operator.diagnose import pod_failure
from quantization_operator.parsing import LARGEST_INTEGER
from quantization_operator.policies import added
from quantization_operator.snapshots import SIGTERM_EXIT_CODE, ChildJob, ChildPod
from quantization_operator.workers import by_age

_NOT_ITS_FAULT = (Category.DISRUPTED, Category.NODE_LOST)


def pod_failure_policy() -> dict[str, Any]:
    """podFailurePolicy of the Job (KEP-3329). The first rule that matches wins: a disruption is never counted.

    Eviction, preemption, drain, node loss: the condition DisruptionTarget. A pod that was deleted by hand has no
    such condition, but the quantizer ends with 143 after SIGTERM, and nothing sends it one from inside.
    """
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            _on_exit_codes("Ignore", (SIGTERM_EXIT_CODE,)),
            _on_exit_codes("FailJob", PERMANENT_EXIT_CODES),
        ]
    }


def _on_exit_codes(action: str, codes: Sequence[int]) -> dict[str, Any]:
    return {
        "action": action,
        "onExitCodes": {"containerName": CONTAINER_NAME, "operator": "In", "values": list(codes)},
    }


def hopeless(pods: Sequence[ChildPod]) -> Failure | None:
    """A permanent failure that the Job would try again: not one of the exit codes that end it by themselves."""
    for pod in reversed(by_age(pods)):
        if pod.disruption or pod.exit_code in PERMANENT_EXIT_CODES:
            continue
        found = pod_failure(pod)
        if found is not None and CATALOGUE[found.category].permanent:
            return found
    return None


def blameless(pods: Sequence[ChildPod]) -> int:
    """Pods that count as failed for Kubernetes although nothing was wrong with them: their node forgot them."""
    return sum(1 for cause in _counted_failures(pods) if cause.category in _NOT_ITS_FAULT)


def blamed(pods: Sequence[ChildPod]) -> int:
    """Pods that failed by themselves."""
    return len(faults(pods))


def faults(pods: Sequence[ChildPod]) -> list[Failure]:
    """Why pods failed by themselves, the newest pod's last."""
    return [cause for cause in _counted_failures(pods) if cause.category not in _NOT_ITS_FAULT]


def _counted_failures(pods: Sequence[ChildPod]) -> list[Failure]:
    """Why pods ended that Kubernetes counts as failed, the newest pod's last."""
    own = [pod for pod in by_age(pods) if not (pod.taken_away or added.spoiled(pod))]
    return [found for pod in own if (found := pod_failure(pod)) is not None]


def counted(attempts: Attempts | None) -> int:
    """Failed attempts that the next Job starts with."""
    return attempts.failed if attempts else 0


def job_fields(spec: QuantizationJobSpec, before: int) -> dict[str, Any]:
    """The fields of the Job's spec. before: attempts that earlier Jobs counted; the Job has what they left."""
    return {
        "backoffLimit": max(0, spec.backoff_limit - before),
        "podReplacementPolicy": "Failed",  # two pods never write to the same output (KEP-3939)
        "podFailurePolicy": pod_failure_policy(),
    }


def attempts(
    before: Attempts | None, child: ChildJob | None, disruptions: int, pods: Sequence[ChildPod]
) -> Attempts | None:
    """Failed and disrupted attempts so far; None while there are none.

    They never shrink, although pods and Jobs come and go. A failed attempt is one that a pod shows: the Job's own
    counter has pods in it that were forgotten by their node, and does not say which, once these are gone or while
    they are not known yet. `disruptions`: pods that were taken away, those that are gone included.
    """
    known = before or Attempts()
    failed = max(known.failed, child.failed_before + blamed(pods) if child else 0)
    disrupted = max(known.disrupted, disruptions + blameless(pods))
    if not (failed or disrupted):
        return before
    return Attempts(failed=min(failed, LARGEST_INTEGER), disrupted=min(disrupted, LARGEST_INTEGER))
