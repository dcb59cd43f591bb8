"""A Job that runs, and what interrupts it (`rules/progressing.py`)."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.support.cluster_objects import (
    CREATED,
    ENDED,
    NAME,
    child,
    condition_status,
    disruption,
    failed_result,
    quantization_job,
    running,
    terminated,
)
from tests.support.decisions import (
    DELETED,
    DENIED,
    LATER,
    NOT_SECURE,
    NOW,
    QUOTA,
    RUNS,
    Case,
    decide,
    verify,
)

from quantization_api.failures import Category
from quantization_api.pod import RunProgress
from quantization_operator.snapshots import KubernetesWarning, QuantizationJob

pytestmark = pytest.mark.unit

EVICTION = datetime.fromisoformat(ENDED)
EVICTED = terminated(143, conditions=[disruption()])
FAILED_ONCE = terminated(75, failed_result("StorageUnavailable", "no answer"))

CASES: dict[str, Case] = {
    "it runs": Case(
        child=child(),
        pods=[running()],
        rule="running",
        phase="Running",
        reason="Running",
        said="on node node-1",
        events=("Started",),
    ),
    "a lost node: told with the way out, and waited for": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[running(conditions=[disruption("DeletionByTaintManager")], deletionTimestamp=DELETED)],
        more={"disruptions": 1},
        now=LATER,
        rule="waiting",
        phase="Pending",
        reason="NodeLost",
        said="Bring the node back; or, if it is off: kubectl taint node node-1 node.kubernetes.io/out-of-service",
        events=("Disrupted", "NodeLost"),
    ),
    "evicted, a new pod is not there yet": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"disruptions": 1},
        now=EVICTION + timedelta(seconds=5),
        rule="waiting",
        phase="Pending",
        reason="Disrupted",
        events=("Disrupted",),
        requeued=15.0,
    ),
    "evicted, by the clock of a node that is ahead": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"disruptions": 1},
        now=EVICTION - timedelta(hours=1),
        rule="waiting",
        phase="Pending",
        reason="Disrupted",
        events=("Disrupted",),
        requeued=20.0,
    ),
    "evicted, and no new pod for a while: read the events of the Job": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        now=EVICTION + timedelta(seconds=20),
        rule="waiting",
        look="events",
    ),
    "evicted, and quota refuses the new pod: told, and waited for": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"warnings": (replace(QUOTA, last_seen=EVICTION),), "disruptions": 1},
        now=EVICTION + timedelta(seconds=20),
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        said="exceeded quota: gpus. Lower or set spec.template.resources",
        events=("Disrupted", "PodRefused"),
        requeued=15.0,
    ),
    "evicted, and quota had refused the pod that was evicted: of the past": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"warnings": (replace(QUOTA, last_seen=NOW - timedelta(seconds=3)),), "disruptions": 1},
        now=EVICTION + timedelta(seconds=20),
        rule="waiting",
        phase="Pending",
        reason="Disrupted",
        events=("Disrupted",),
        requeued=15.0,
    ),
    "evicted, and Pod Security refuses the new pod: out of patience": Case(
        qjob=quantization_job(status=condition_status("Reconciling", "PodRefused")),
        child=child(),
        pods=[EVICTED],
        more={
            "warnings": (replace(NOT_SECURE, last_seen=EVICTION),),
            "problem": ("AdmissionDenied/", EVICTION + timedelta(seconds=20)),
        },
        now=EVICTION + timedelta(seconds=65),
        rule="out of patience",
        phase="Failed",
        category=Category.ADMISSION_DENIED,
        said="PodSecurity",
        deletes=True,
        events=("AdmissionDenied",),
    ),
    "a failed attempt that is tried again": Case(
        qjob=quantization_job(status=RUNS),
        child=child(status={"failed": 1}),
        pods=[FAILED_ONCE],
        now=EVICTION + timedelta(seconds=5),
        rule="waiting",
        phase="Pending",
        reason="Retrying",
        said="StorageUnavailable: no answer",
        events=("AttemptFailed",),
        requeued=15.0,
    ),
    "a failed attempt, and the back-off is long: looked at more and more rarely": Case(
        qjob=quantization_job(status=RUNS),
        child=child(status={"failed": 1}),
        pods=[FAILED_ONCE],
        more={"warnings": ()},
        now=EVICTION + timedelta(seconds=400),
        rule="waiting",
        phase="Pending",
        reason="Retrying",
        events=("AttemptFailed",),
        requeued=100.0,
    ),
    "a failed attempt, and a webhook refuses the next: told": Case(
        qjob=quantization_job(status=RUNS),
        child=child(status={"failed": 1}),
        pods=[FAILED_ONCE],
        more={"warnings": (KubernetesWarning("FailedCreate", DENIED.message, EVICTION),)},
        now=EVICTION + timedelta(seconds=25),
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        said="not before noon. Change what the message names",
        events=("AttemptFailed", "PodRefused"),
        requeued=15.0,
    ),
    "the spec was changed after the Job was made: told that it has no effect": Case(
        qjob=quantization_job(status=RUNS, generation=2),
        child=child(),
        pods=[running()],
        rule="running",
        phase="Running",
        reason="Running",
        events=("ChangeIgnored",),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_what_is_observed(case: Case) -> None:
    verify(case)


@pytest.mark.parametrize(
    ("written", "seen", "seconds_ago", "expected"),
    [
        (None, 0, None, 0),
        (40, 41, 6, 41),
        (40, 41, 4, 40),
        (40, 40, 60, 40),
    ],
    ids=["the first", "a percent and 5 s later", "too early", "nothing new"],
)
def test_progress_is_written_at_a_bounded_rate(
    written: int | None, seen: int, seconds_ago: float | None, expected: int
) -> None:
    status = RUNS | ({"progress": {"percent": written, "stage": "quantize"}} if written is not None else {})
    last = None if seconds_ago is None else NOW - timedelta(seconds=seconds_ago)
    more = {"progress": RunProgress(percent=seen, stage="quantize"), "progress_written": last}
    case = Case(qjob=quantization_job(status=status), child=child(), pods=[running()], more=more)
    decision = decide(case)
    progress = (decision.status or QuantizationJob.of(case.qjob).read_status()).progress
    assert progress is not None
    assert progress.percent == expected


def test_what_the_pod_notices_is_a_warning_event_at_once_and_once() -> None:
    notice = "vLLM and SGLang refuse this artifact; they need sym: true."
    status = RUNS | {"progress": {"percent": 0, "stage": "check"}}
    seen = RunProgress(percent=0, stage="quantize", notice=notice)
    more = {"progress": seen, "progress_written": NOW}
    first = decide(Case(qjob=quantization_job(status=status), child=child(), pods=[running()], more=more))
    assert [(event.type, event.reason, event.message) for event in first.events] == [
        ("Warning", "ServersRefuse", notice)
    ]
    assert first.status is not None
    written = first.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    more = {"progress": seen.model_copy(update={"percent": 50}), "progress_written": None}
    again = decide(Case(qjob=quantization_job(status=written), child=child(), pods=[running()], more=more))
    assert again.status is not None
    assert again.events == ()


def test_a_job_that_runs_when_it_is_told_of_is_one_event() -> None:
    first = decide(Case(qjob=quantization_job(), child=child(), pods=[running()]))
    assert [event.reason for event in first.events] == ["Started"]
    assert first.events[0].message.startswith(f"created Job {NAME}; pod ")
    later = decide(Case(child=child(), pods=[running()]))
    assert [event.reason for event in later.events] == ["Started"]
    assert "created" not in later.events[0].message


def test_attempts_never_shrink_and_a_restarted_node_is_not_blamed_on_the_job() -> None:
    counted = RUNS | {"attempts": {"failed": 2, "disrupted": 3}}
    for pods, failed, expected in (
        ([running()], 0, (2, 3)),
        ([running(), *(terminated(75, name=name) for name in "xyz")], 3, (3, 3)),
        ([running(), terminated(137, reason="ContainerStatusUnknown", name="x")], 3, (2, 4)),
        (
            [running()],
            3,
            (2, 3),
        ),  # of the pod that is the third, nothing is known: it may have been forgotten
    ):
        body = child(status={"failed": failed})
        case = Case(qjob=quantization_job(status=counted), child=body, pods=pods, more={"disruptions": 3})
        status = decide(case).status or QuantizationJob.of(case.qjob).read_status()
        assert status.attempts is not None
        assert (status.attempts.failed, status.attempts.disrupted) == expected


def test_a_corrected_spec_leaves_nothing_of_its_refusal() -> None:
    refused = condition_status(
        "Stalled",
        "InvalidWorkflow",
        completionTime=CREATED,
        failure={"category": "InvalidWorkflow", "message": "no"},
    )
    del refused["jobName"], refused["startTime"]
    corrected = Case(
        qjob=quantization_job(status=refused, generation=2), child=child(generation=2), pods=[running()]
    )
    status = decide(corrected).status
    assert status is not None
    assert status.phase == "Running"
    assert (status.failure, status.completion_time) == (None, None)


def test_a_status_of_an_older_schema_does_not_stop_a_job() -> None:
    old = RUNS | {"phase": "Crunching", "shards": [1, 2]}
    decision = decide(Case(qjob=quantization_job(status=old), child=child(), pods=[running()]))
    assert decision.status is not None
    assert decision.status.phase == "Running"
