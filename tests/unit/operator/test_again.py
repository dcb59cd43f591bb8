"""A failed job that is corrected starts again, and what a change that has no effect is told (`policies/again.py`)."""

from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    child,
    condition_status,
    ended,
    quantization_job,
    running,
    terminated,
)
from tests.support.decisions import FRESH, RUNS, SETTINGS, Case, decide, verify

from quantization_api.failures import Category
from quantization_operator import parts, workload
from quantization_operator.policies import admission
from quantization_operator.snapshots import (
    MADE_FROM_ANNOTATION,
    RESTARTS_ANNOTATION,
    ChildJob,
    QuantizationJob,
)

pytestmark = pytest.mark.unit

RETRY = {"annotations": {parts.RETRY_ANNOTATION: "1"}}
MEMORY = ("template.resources", {"limits": {"memory": "64Gi"}})
PARALLELISM = ("parallelism", 1)
TTL = ("ttlSecondsAfterFinished", 86400)


def made_from(*changes: tuple[str, Any], generation: int = 1, **metadata: Any) -> str:
    """What a Job of that manifest says that it was made from."""
    found = QuantizationJob.of(quantization_job(*changes, generation=generation, **metadata))
    assert found is not None
    return found.parts


def failed(**more: Any) -> dict[str, Any]:
    """A status of a job that failed, with a Job that was made from the manifest without changes."""
    counted = {"attempts": {"failed": 3, "disrupted": 1}, "progress": {"percent": 40, "stage": "quantize"}}
    cause = {"failure": {"category": "HostOutOfMemory", "message": "too little"}, "completionTime": CREATED}
    return condition_status("Stalled", "HostOutOfMemory", madeFrom=made_from(), **counted, **cause) | more


def without_job(status: dict[str, Any]) -> dict[str, Any]:
    """The status of a job that failed before there was a Job."""
    return {key: value for key, value in status.items() if key not in ("jobName", "jobUid", "startTime")}


AGAIN: dict[str, tuple[dict[str, Any], str]] = {
    "template": (quantization_job(MEMORY, status=failed(), generation=2), "spec.template changed"),
    "storage": (
        quantization_job(("storage.endpoint", "http://s3.example"), status=failed(), generation=2),
        "spec.storage changed",
    ),
    "backoffLimit": (
        quantization_job(("backoffLimit", 9), status=failed(), generation=2),
        "spec.backoffLimit changed",
    ),
    "activeDeadlineSeconds, and a field that has an effect at once": (
        quantization_job(("activeDeadlineSeconds", 900), TTL, status=failed(), generation=3),
        "spec.activeDeadlineSeconds changed",
    ),
    "the annotation, without a change": (quantization_job(status=failed(), **RETRY), parts.RETRY_ANNOTATION),
    "another value of the annotation": (
        quantization_job(
            status=failed(madeFrom=made_from(**RETRY)), annotations={parts.RETRY_ANNOTATION: "2"}
        ),
        parts.RETRY_ANNOTATION,
    ),
    "the annotation, of a job that never had a Job": (
        quantization_job(status=without_job(failed()), **RETRY),
        parts.RETRY_ANNOTATION,
    ),
    "the annotation, of a job of an earlier release": (
        quantization_job(status={k: v for k, v in failed().items() if k != "madeFrom"}, **RETRY),
        parts.RETRY_ANNOTATION,
    ),
    "a correction from before the failure, which the Job did not have": (
        quantization_job(MEMORY, status=failed(observedGeneration=2), generation=2),
        "spec.template changed",
    ),
}


@pytest.mark.parametrize(("qjob", "why"), AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("old", [None, child(status=ended("Failed"))], ids=["no Job", "the old Job"])
def test_a_failed_job_that_is_corrected_starts_again(
    qjob: dict[str, Any], why: str, old: dict[str, Any] | None
) -> None:
    verify(
        Case(
            qjob=qjob,
            child=old,
            rule="start again",
            phase="Pending",
            reason="StartingAgain",
            said=why,
            events=("StartingAgain",),
            requeued=0.0,
        )
    )
    status = decide(Case(qjob=qjob, child=old)).status
    assert status is not None
    assert status.restarts == 1
    assert (status.attempts, status.failure, status.completion_time, status.job_name) == (None,) * 4
    assert (status.progress, status.start_time) == (None, None)


AGAIN_STATUS = condition_status("Reconciling", "StartingAgain", restarts=1, madeFrom=made_from(generation=2))
STARTED_AGAIN = quantization_job(MEMORY, status=without_job(AGAIN_STATUS), generation=2)
AFTER: dict[str, Case] = {
    "its old Job says that it failed: that is of the past, and it goes": Case(
        qjob=STARTED_AGAIN, child=child(status=ended("Failed")), more=FRESH, rule="superseded", deletes=True
    ),
    "its old Job completes after all: that is of the past, too": Case(
        qjob=STARTED_AGAIN,
        child=child(status=ended("Complete"), deletionTimestamp=CREATED),
        pods=[terminated(66)],
        more=FRESH,
        rule="superseded",
    ),
    "its old Job is gone: a new one": Case(qjob=STARTED_AGAIN, more=FRESH, rule="create", creates=True),
}


@pytest.mark.parametrize("case", AFTER.values(), ids=AFTER)
def test_the_job_from_before_is_never_taken_for_the_new_one(case: Case) -> None:
    verify(case)


def test_the_new_job_has_all_its_attempts_and_says_what_it_is_made_from() -> None:
    made = decide(Case(qjob=STARTED_AGAIN, more=FRESH)).create
    assert made is not None
    assert made["spec"]["backoffLimit"] == 3
    job = child(annotations=made["metadata"]["annotations"])
    read = ChildJob.of(job)
    assert read is not None
    assert (read.restarts, read.made_from) == (1, made_from(MEMORY, generation=2))
    status = decide(Case(qjob=STARTED_AGAIN, child=job, pods=[running()])).status
    assert status is not None
    assert (status.phase, status.made_from, status.restarts) == ("Running", read.made_from, 1)


def test_what_is_no_correction_does_not_start_a_failed_job_again() -> None:
    for changes, generation, status in (
        ((TTL,), 2, failed()),
        ((("artifactPolicy", "Retain"),), 2, failed()),
        ((MEMORY,), 1, failed()),  # another schema shows the stored spec differently: nobody changed it
        ((), 2, failed(madeFrom=made_from(**RETRY))),  # the annotation was taken away
        ((), 1, {k: v for k, v in failed().items() if k != "madeFrom"}),  # of an earlier release
    ):
        decision = decide(Case(qjob=quantization_job(*changes, status=status, generation=generation)))
        assert decision.rule == "finished"
        assert decision.events == ()


IGNORED: dict[str, tuple[Case, str, str]] = {
    "template of a running job": (
        Case(
            qjob=quantization_job(MEMORY, TTL, status=RUNS | {"madeFrom": made_from()}, generation=2),
            child=child(annotations={MADE_FROM_ANNOTATION: made_from()}),
            pods=[running()],
        ),
        "spec.template changed",
        "set spec.suspend to true",
    ),
    "parallelism of a failed job": (
        Case(qjob=quantization_job(PARALLELISM, status=failed(), generation=2)),
        "spec.parallelism changed",
        f"kubectl annotate qj job {parts.RETRY_ANNOTATION}=",
    ),
    "template of a job that succeeded": (
        Case(
            qjob=quantization_job(
                MEMORY, status=condition_status("Ready", "Succeeded", madeFrom=made_from()), generation=2
            )
        ),
        "spec.template changed",
        "delete the object and apply it",
    ),
    "the annotation of a job that succeeded": (
        Case(
            qjob=quantization_job(
                status=condition_status("Ready", "Succeeded", madeFrom=made_from()), **RETRY
            )
        ),
        parts.RETRY_ANNOTATION,
        "delete the object and apply it",
    ),
    "anything of a failed job of an earlier release": (
        Case(qjob=quantization_job(MEMORY, status=condition_status("Stalled", "Internal"), generation=2)),
        "spec changed",
        "kubectl annotate",
    ),
}


@pytest.mark.parametrize(("case", "what", "cure"), IGNORED.values(), ids=IGNORED)
def test_a_change_without_effect_is_named_with_what_applies_it(case: Case, what: str, cure: str) -> None:
    decision = decide(case)
    (said,) = [event.message for event in decision.events if event.reason == "ChangeIgnored"]
    assert said.startswith(what)
    assert cure in said
    assert "ttl" not in said
    assert decision.status is not None
    written = decision.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    again = decide(Case(qjob=case.qjob | {"status": written}, child=case.child, pods=case.pods))
    assert [event for event in again.events if event.reason == "ChangeIgnored"] == []


def test_a_change_with_an_effect_is_not_called_ignored() -> None:
    for change in (TTL, ("artifactPolicy", "Retain")):
        case = Case(
            qjob=quantization_job(change, status=RUNS | {"madeFrom": made_from()}, generation=2),
            child=child(annotations={MADE_FROM_ANNOTATION: made_from()}),
            pods=[running()],
        )
        assert [event.reason for event in decide(case).events] == []


def test_a_job_that_fails_without_a_job_remembers_what_it_was_judged_by() -> None:
    refused = quantization_job(("template.volumes", []), status=None, **RETRY)
    refused["spec"]["output"]["uri"] = "file:///nowhere"
    status = decide(Case(qjob=refused)).status
    assert status is not None
    assert status.failure is not None
    assert status.failure.category == Category.INVALID_WORKFLOW
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert decide(Case(qjob=refused | {"status": written})).rule == "finished"


def test_the_text_is_short_whatever_somebody_stored() -> None:
    deep: Any = "x"
    for _ in range(20_000):
        deep = [deep]
    spec = dict.fromkeys(parts.FIELDS, deep)
    said = parts.told(spec, {parts.RETRY_ANNOTATION: "y" * 10_000}, 2**53 - 1)
    assert len(said) <= 256
    assert parts.changed(said, said, 0) == ()


def test_the_manifest_of_a_first_job_says_nothing_of_restarts() -> None:
    found = QuantizationJob.of(quantization_job())
    assert found is not None
    spec = admission.admit(found.spec, found.problem)
    made = workload.build(found, spec, SETTINGS)  # type: ignore[arg-type]
    assert RESTARTS_ANNOTATION not in made["metadata"]["annotations"]
    assert made["metadata"]["annotations"][MADE_FROM_ANNOTATION] == found.parts
