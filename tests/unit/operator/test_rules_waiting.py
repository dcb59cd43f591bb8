"""A Job that waiting for its pod, or its pod for a node, an image, a queue (`rules/progressing.py`)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    JOB_UID,
    NAME,
    UID,
    child,
    pod,
    quantization_job,
    terminated,
    unscheduled,
    waiting,
)
from tests.support.decisions import (
    LATER,
    NOT_SECURE,
    NOW,
    QUOTA,
    RUNS,
    SETTINGS,
    Case,
    decide,
    observe,
    verify,
)

from quantization_api.failures import Category
from quantization_operator.queue_entry import QUEUE_LABEL, QueueEntry
from quantization_operator.reconcile import reconcile
from quantization_operator.snapshots import QJOB_UID_LABEL

pytestmark = pytest.mark.unit


def in_queue(**metadata: Any) -> dict[str, Any]:
    """The child Job, suspended by Kueue."""
    labels = {QJOB_UID_LABEL: UID, QUEUE_LABEL: "batch"}
    return child(suspend=True, labels=labels, **metadata)


CASES: dict[str, Case] = {
    "no status yet, but the Job is there (killed between create and status): go on with it": Case(
        qjob=quantization_job(),
        child=child(),
        rule="waiting",
        phase="Pending",
        reason="Starting",
        said="waiting for its pod",
        events=("JobCreated",),
        requeued=3.0,
        now=NOW - timedelta(seconds=10),
    ),
    "its Job was made just now: that its pod starts is not told yet": Case(
        qjob=quantization_job(), child=child(), rule="waiting", requeued=1.5, now=NOW - timedelta(seconds=12)
    ),
    "a pod was lost already: told at once": Case(
        qjob=quantization_job(),
        child=child(),
        more={"disruptions": 1},
        rule="waiting",
        phase="Pending",
        reason="Starting",
        events=("Disrupted", "JobCreated"),
        requeued=5.0,
        now=NOW - timedelta(seconds=12),
    ),
    "a pod was forgotten by its node already: told at once": Case(
        qjob=quantization_job(),
        child=child(),
        pods=[terminated(137, reason="ContainerStatusUnknown", name="a"), pod({}, name="b")],
        rule="waiting",
        phase="Pending",
        reason="Starting",
        events=("Disrupted", "JobCreated"),
        requeued=19.0,
        now=NOW - timedelta(seconds=1),
    ),
    "no pod yet": Case(child=child(), rule="waiting", now=NOW - timedelta(seconds=10), requeued=3.0),
    "no pod for a while: read the events of the Job": Case(child=child(), rule="waiting", look="events"),
    "no pod, and no event says why": Case(
        child=child(), more={"warnings": ()}, rule="waiting", requeued=15.0
    ),
    "pods refused by quota: told, and waited for": Case(
        child=child(),
        more={"warnings": (QUOTA,)},
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        said="exceeded quota",
        events=("PodRefused",),
        requeued=15.0,
    ),
    "quota is waited for without end": Case(
        child=child(),
        more={"warnings": (QUOTA,), "problem": ("QuotaExceeded/", NOW)},
        now=LATER,
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        events=("PodRefused",),
        requeued=300.0,
    ),
    "pods refused by Pod Security: out of patience": Case(
        child=child(),
        more={"warnings": (NOT_SECURE,), "problem": ("AdmissionDenied/", NOW)},
        now=LATER,
        rule="out of patience",
        phase="Failed",
        category=Category.ADMISSION_DENIED,
        said="PodSecurity",
        deletes=True,
        events=("AdmissionDenied",),
    ),
    "no node fits: shown while it waits": Case(
        child=child(),
        pods=[pod(node="", conditions=[unscheduled()])],
        now=LATER,
        rule="waiting",
        phase="Pending",
        reason="Unschedulable",
        said="Insufficient nvidia.com/gpu",
        events=("Unschedulable",),
    ),
    "starting on a node": Case(
        child=child(),
        pods=[waiting("ContainerCreating")],
        rule="waiting",
        phase="Pending",
        reason="Starting",
        said="on node node-1",
        requeued=18.0,
    ),
    "starting slowly: read the events of the pod": Case(
        child=child(), pods=[waiting("ContainerCreating")], now=LATER, rule="waiting", look="events"
    ),
    "an image that cannot be pulled: told, and patience begins": Case(
        child=child(),
        pods=[waiting("ErrImagePull", "not found")],
        rule="waiting",
        phase="Pending",
        reason="ImagePullFailed",
        said="not found",
        events=("ImagePullFailed",),
        requeued=120.0,
    ),
    "an image that cannot be pulled: patience ends": Case(
        child=child(),
        pods=[waiting("ImagePullBackOff", "Back-off")],
        more={"problem": (f"ImagePullFailed/{NAME}-abcde", NOW - timedelta(seconds=120))},
        rule="out of patience",
        phase="Failed",
        category=Category.IMAGE_PULL_FAILED,
        deletes=True,
        events=("ImagePullFailed",),
    ),
    "an image name that is none: at once": Case(
        child=child(),
        pods=[waiting("InvalidImageName", "couldn't parse")],
        rule="out of patience",
        phase="Failed",
        category=Category.IMAGE_PULL_FAILED,
        deletes=True,
        events=("ImagePullFailed",),
    ),
    "another problem than before: its own patience": Case(
        child=child(),
        pods=[waiting("CreateContainerConfigError", 'secret "s3" not found')],
        more={"problem": (f"ImagePullFailed/{NAME}-abcde", NOW - timedelta(hours=1))},
        rule="waiting",
        phase="Pending",
        reason="CreateContainerConfigError",
        events=("CreateContainerConfigError",),
        requeued=45.0,
    ),
    "a missing Secret: access denied": Case(
        child=child(),
        pods=[waiting("CreateContainerConfigError", 'secret "s3" not found')],
        more={"problem": (f"AccessDenied/{NAME}-abcde", NOW - timedelta(seconds=45))},
        rule="out of patience",
        phase="Failed",
        category=Category.ACCESS_DENIED,
        deletes=True,
        events=("AccessDenied",),
    ),
    "suspended by a queue": Case(
        child=child(suspend=True),
        rule="waiting",
        phase="Queued",
        reason="Queued",
        events=("Queued",),
        now=LATER,
    ),
    "suspended by Kueue, which was not asked yet": Case(child=in_queue(), rule="waiting", look="queue"),
    "in Kueue's line": Case(
        child=in_queue(),
        more={"queue": QueueEntry(NOW, "job-a", "no quota", position=3)},
        rule="waiting",
        phase="Queued",
        reason="Queued",
        said="position 3 in LocalQueue batch: no quota",
        events=("Queued",),
        requeued=8.0,
    ),
    "Kueue's answer is old": Case(
        child=in_queue(),
        more={"queue": QueueEntry(NOW - timedelta(seconds=8), "job-a", position=3)},
        rule="waiting",
        look="queue",
    ),
    "preempted by Kueue while its pod was starting": Case(
        child=in_queue(),
        more={
            "queue": QueueEntry(
                NOW, "job-a", evicted="Preempted", evicted_message="for a workload", position=1
            )
        },
        rule="waiting",
        phase="Queued",
        reason="Preempted",
        said="for a workload",
        events=("Preempted",),
        requeued=6.0,
    ),
    "preempted by Kueue, its pod has saved its layers": Case(
        qjob=quantization_job(status=RUNS),
        child=in_queue(),
        pods=[terminated(143)],
        more={"queue": QueueEntry(NOW, "job-a", evicted="Preempted", position=1), "disruptions": 1},
        rule="waiting",
        phase="Queued",
        reason="Preempted",
        events=("Disrupted", "Preempted"),
        requeued=6.0,
    ),
    "suspended after it ran": Case(
        qjob=quantization_job(status=RUNS),
        child=child(suspend=True),
        rule="waiting",
        phase="Queued",
        reason="Preempted",
        events=("Preempted",),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_what_is_observed(case: Case) -> None:
    verify(case)


def test_the_first_status_names_the_passes() -> None:
    status = decide(Case(qjob=quantization_job(), child=child(), more={"warnings": ()})).status
    assert status is not None
    assert status.passes == "GptqQuantizer"


def test_where_a_pod_starts_is_no_write_of_its_own_unless_it_stays_there() -> None:
    """Each write wakes all who watch, and most pods run before anybody has read on which node."""
    first = decide(Case(qjob=quantization_job(), child=child(), now=NOW - timedelta(seconds=10))).status
    assert first is not None
    status = first.model_dump(mode="json", by_alias=True, exclude_none=True)
    placed = Case(qjob=quantization_job(status=status), child=child(), pods=[waiting("ContainerCreating")])
    young = replace(placed, now=NOW - timedelta(seconds=1))  # the pod was made a second before
    decision = decide(young)
    assert (decision.status, decision.requeue_after) == (None, 0.5)
    behind = decide(replace(placed, now=NOW - timedelta(hours=1)))
    assert behind.status is not None, "a clock that is an hour behind is not waited for"
    stays = decide(placed).status
    assert stays is not None
    assert "on node node-1" in stays.conditions[0].message
    assert decide(replace(young, pods=[pod({"running": {}})])).status is not None, (
        "that it runs is told at once"
    )
    assert decide(replace(young, more={"disruptions": 1})).status is not None, "and so is what is counted"


def test_patience_with_an_unschedulable_pod_is_a_setting() -> None:
    settings = SETTINGS.model_copy(update={"unschedulable_patience_seconds": 60.0})
    body = pod(node="", conditions=[unscheduled()])
    case = Case(
        child=child(),
        pods=[body],
        more={"problem": (f"Unschedulable/{NAME}-abcde", NOW - timedelta(minutes=1))},
    )
    decision = reconcile(observe(case), settings, NOW)
    assert decision.rule == "out of patience"
    assert decision.delete is not None
    assert decision.delete.uid == JOB_UID
