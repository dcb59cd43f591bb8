"""Before there is a Job (`rules/beginning.py`): a pause, a taken output, a trusted result, a Job made or refused."""

from dataclasses import replace
from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    ENDED,
    NAME,
    RESULT,
    child,
    condition_status,
    ended,
    pod,
    quantization_job,
    result_status,
    running,
    succeeded,
    terminated,
)
from tests.support.decisions import (
    DELETED,
    DENIED,
    DONE,
    FRESH,
    MADE,
    NO_ANSWER,
    OTHER,
    RUNS,
    TRUSTED,
    Case,
    decide,
    read_whole,
    verify,
)

from quantization_api.failures import Category
from quantization_operator.decision import Rejection
from quantization_operator.snapshots import FAILED_BEFORE_ANNOTATION, FINALIZER

pytestmark = pytest.mark.unit

INVALID = ("backoffLimit", -1)
PAUSE = ("suspend", True)
DELETE = ("artifactPolicy", "Delete")
PAUSED = {k: v for k, v in condition_status("Suspended", "Suspended").items() if k != "jobName"}
READ = {"peers": (DONE,), "earlier": (read_whole(),)}
FORBIDDEN = Rejection(422, "ValidatingAdmissionPolicy 'no' with binding 'no' denied request: no Jobs today")

CASES: dict[str, Case] = {
    # --- before the Job
    "a new job: make the Job": Case(qjob=quantization_job(), rule="create", creates=True),
    "an invalid stored spec: refused with the sentence": Case(
        qjob=quantization_job(INVALID),
        rule="refused spec",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        said="spec.backoffLimit: must be greater",
        events=("InvalidWorkflow",),
    ),
    "the API server finds the Job invalid: refused": Case(
        qjob=quantization_job(),
        more={"rejection": Rejection(422, "spec.template.spec.tolerations[0].operator: Invalid")},
        rule="refused job",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        said="tolerations",
        events=("InvalidWorkflow",),
    ),
    "the API server cannot read the Job: refused": Case(
        qjob=quantization_job(),
        more={"rejection": Rejection(400, "Job in version v1 cannot be handled: quantities must match")},
        rule="refused job",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        said="quantities must match",
        events=("InvalidWorkflow",),
    ),
    "a webhook or a quota refuses the Job: told, and tried again": Case(
        qjob=quantization_job(),
        more={"rejection": Rejection(403, "exceeded quota: no-jobs, requested: count/jobs.batch=1")},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="count/jobs.batch=1. Delete Jobs of the namespace",
        events=("JobRefused",),
        retried=True,
    ),
    "a webhook that names no code denies the Job: told with the way out, and tried again": Case(
        qjob=quantization_job(),
        more={"rejection": DENIED},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="denied the request: not before noon. Change what the message names",
        events=("JobRefused",),
        retried=True,
    ),
    "a policy that names no reason denies the Job: told with the way out, and tried again": Case(
        qjob=quantization_job(),
        more={"rejection": FORBIDDEN},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="denied request: no Jobs today. Change what the message names",
        events=("JobRefused",),
        retried=True,
    ),
    "a webhook does not answer: told whom to tell, and tried again": Case(
        qjob=quantization_job(),
        more={"rejection": NO_ANSWER},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="connection refused. The policy server does not answer: ask its administrator",
        events=("JobRefused",),
        retried=True,
    ),
    "nobody knows why the Job is refused: the message has a way out all the same": Case(
        qjob=quantization_job(),
        more={"rejection": Rejection(403, "no.")},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="no. The message says what rejected the Job: ask its owner.",
        events=("JobRefused",),
        retried=True,
    ),
    "the Job's name is taken by somebody else": Case(
        qjob=quantization_job(),
        more={"rejection": Rejection(409, f"a Job named {NAME} exists", taken=True)},
        rule="name taken",
        phase="Failed",
        category=Category.INTERNAL,
        said=NAME,
        events=("Internal",),
    ),
    # --- pause
    "paused before it began: no Job is made": Case(
        qjob=quantization_job(PAUSE),
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        events=("Suspended",),
    ),
    "paused, but its spec cannot be run: told at once": Case(
        qjob=quantization_job(PAUSE, INVALID),
        rule="refused spec",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        events=("InvalidWorkflow",),
    ),
    "paused while it runs: the Job is deleted": Case(
        qjob=quantization_job(PAUSE, status=RUNS, generation=2),
        child=child(),
        pods=[running()],
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        deletes=True,
        events=("Suspended",),
    ),
    "paused, but killed before the Job was deleted: delete it": Case(
        qjob=quantization_job(PAUSE, status=PAUSED), child=child(), rule="paused", deletes=True
    ),
    "paused, and the Job is on its way out: nothing": Case(
        qjob=quantization_job(PAUSE, status=PAUSED), child=child(deletionTimestamp=DELETED), rule="paused"
    ),
    "paused: nothing": Case(qjob=quantization_job(PAUSE, status=PAUSED), rule="paused"),
    "paused in a queue: the Job is deleted": Case(
        qjob=quantization_job(PAUSE, status=MADE),
        child=child(suspend=True),
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        deletes=True,
        events=("Suspended",),
    ),
    "paused when the Job was deleted by hand: a pause all the same": Case(
        qjob=quantization_job(PAUSE, status=RUNS),
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        events=("Suspended",),
    ),
    "paused too late, the Job is complete: its result counts": Case(
        qjob=quantization_job(PAUSE, status=RUNS),
        child=child(status=ended("Complete")),
        pods=[succeeded()],
        rule="complete",
        phase="Succeeded",
        reason="Succeeded",
        events=("Succeeded",),
    ),
    "paused too late, the quantizer is done: wait for its Job": Case(
        qjob=quantization_job(PAUSE, status=RUNS), child=child(), pods=[succeeded()], rule="ending"
    ),
    "the pause ended: make a new Job": Case(
        qjob=quantization_job(status=PAUSED), rule="create", creates=True
    ),
    "the pause ended, but the earlier Job is still there: wait for it": Case(
        qjob=quantization_job(status=PAUSED),
        child=child(deletionTimestamp=DELETED),
        pods=[running(deletionTimestamp=DELETED)],
        rule="stopping",
        phase="Pending",
        reason="Stopping",
        said=NAME,
    ),
    "the pause ended before the Job was deleted, or before that is known: it goes all the same": Case(
        qjob=quantization_job(status=PAUSED | {"observedGeneration": 2}, generation=3),
        child=child(generation=1),
        pods=[running()],
        rule="stopping",
        phase="Pending",
        reason="Stopping",
        said=NAME,
        deletes=True,
    ),
    "the pause ended, and the next Job runs": Case(
        qjob=quantization_job(status=PAUSED | {"observedGeneration": 2}, generation=3),
        child=child(generation=3),
        pods=[running()],
        rule="running",
        phase="Running",
        reason="Running",
        events=("Started",),
    ),
    "a Job deleted by hand, with a pod that has not ended: as it is": Case(
        qjob=quantization_job(status=RUNS),
        child=child(deletionTimestamp=DELETED),
        pods=[running()],
        rule="running",
    ),
    "finished: a pause has no effect": Case(
        qjob=quantization_job(PAUSE, status=condition_status("Ready", "Succeeded")), rule="finished"
    ),
    # --- the output
    "another job has the output: refused before a pod is paid for": Case(
        qjob=quantization_job(),
        more={"peers": (OTHER,)},
        rule="output taken",
        phase="Failed",
        category=Category.ARTIFACT_CONFLICT,
        said="QuantizationJob other uses the output s3://artifacts/stories15m-gptq",
        events=("ArtifactConflict",),
    ),
    "another job has the output, but this one runs: it goes on": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[running()],
        more={"peers": (OTHER,)},
        rule="running",
    ),
    "another job has the output, and this one is paused: judged when it goes on": Case(
        qjob=quantization_job(PAUSE, status=PAUSED), more={"peers": (OTHER,)}, rule="paused"
    ),
    "another job had the output, and is being deleted: wait": Case(
        qjob=quantization_job(),
        more={"peers": (replace(OTHER, deleting=True),)},
        rule="output in use",
        phase="Pending",
        reason="OutputInUse",
        said="other",
        events=("OutputInUse",),
        requeued=5.0,
    ),
    "another job succeeded at the output: the pod decides": Case(
        qjob=quantization_job(), more={"peers": (DONE,)}, rule="create", creates=True
    ),
    # --- a result that is trusted
    "who succeeded may be believed: read what it is now": Case(
        qjob=quantization_job(TRUSTED), more={"peers": (DONE,)}, rule="trusted", look="earlier"
    ),
    "who is believed asked for the same: look whether a Job was made all the same": Case(
        qjob=quantization_job(TRUSTED), more=READ, rule="trusted", look="objects"
    ),
    "who is believed asked for the same: its result, and no Job": Case(
        qjob=quantization_job(TRUSTED),
        more=READ | FRESH,
        rule="trusted",
        phase="Succeeded",
        reason="Succeeded",
        said="took over the result of QuantizationJob other without reading it: the artifact is at s3://artifacts/stories15m-gptq",
        events=("Succeeded",),
    ),
    "it expires as any other": Case(
        qjob=quantization_job(TRUSTED, ("ttlSecondsAfterFinished", 60)),
        more=READ | FRESH,
        rule="trusted",
        phase="Succeeded",
        reason="Succeeded",
        events=("Succeeded",),
        requeued=60.0,
    ),
    "its artifact is to go with it: the finalizer comes before the result": Case(
        qjob=quantization_job(TRUSTED, DELETE), more=READ | FRESH, rule="trusted", finalizers=(FINALIZER,)
    ),
    "it has the finalizer: the result": Case(
        qjob=quantization_job(TRUSTED, DELETE, finalizers=[FINALIZER]),
        more=READ | FRESH,
        rule="trusted",
        phase="Succeeded",
        reason="Succeeded",
        events=("Succeeded",),
    ),
    "who succeeded asked for something else: the pod decides": Case(
        qjob=quantization_job(TRUSTED),
        more=READ | {"earlier": (read_whole(("workflow.passes.0.bits", 8)),)},
        rule="create",
        creates=True,
    ),
    "who succeeded is gone: the pod decides": Case(
        qjob=quantization_job(TRUSTED), more=READ | {"earlier": ()}, rule="create", creates=True
    ),
    "nobody is believed, and the Job is refused: told": Case(
        qjob=quantization_job(TRUSTED),
        more=READ | {"earlier": (), "rejection": DENIED},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        events=("JobRefused",),
        retried=True,
    ),
    "nobody has succeeded yet: the pod decides": Case(
        qjob=quantization_job(TRUSTED), rule="create", creates=True
    ),
    "who may be believed goes: wait, and then the pod decides": Case(
        qjob=quantization_job(TRUSTED),
        more={"peers": (replace(DONE, deleting=True),)},
        rule="output in use",
        phase="Pending",
        reason="OutputInUse",
        said="other",
        events=("OutputInUse",),
        requeued=5.0,
    ),
    "who could be believed soon runs: refused as without trust": Case(
        qjob=quantization_job(TRUSTED),
        more={"peers": (OTHER,)},
        rule="output taken",
        phase="Failed",
        category=Category.ARTIFACT_CONFLICT,
        events=("ArtifactConflict",),
    ),
    "it trusts, and is paused: no result before the pause ends": Case(
        qjob=quantization_job(TRUSTED, PAUSE),
        more=READ | FRESH,
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        events=("Suspended",),
    ),
    "it trusts, and has a Job: that goes on": Case(
        qjob=quantization_job(TRUSTED, status=RUNS),
        child=child(),
        pods=[running()],
        more=READ | FRESH,
        rule="running",
    ),
    "it trusts, and its Job waits in a queue: that stays there": Case(
        qjob=quantization_job(TRUSTED, status=MADE),
        child=child(suspend=True),
        more=READ | FRESH,
        rule="waiting",
        phase="Queued",
        reason="Queued",
        events=("Queued",),
    ),
    "it failed before it had a Job, and was changed: the pod decides": Case(
        qjob=quantization_job(
            TRUSTED, generation=2, status=condition_status("Stalled", "ArtifactConflict", jobName="")
        ),
        more=READ | FRESH,
        rule="create",
        creates=True,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_what_is_observed(case: Case) -> None:
    verify(case)


def test_attempts_are_carried_over_a_pause() -> None:
    counted = RUNS | {"attempts": {"failed": 2, "disrupted": 1}}
    body = quantization_job(("backoffLimit", 3), PAUSE, status=counted)
    paused = decide(Case(qjob=body, child=child(status={"failed": 2}), more={"disruptions": 1})).status
    assert paused is not None
    assert paused.job_name is None
    written = paused.model_dump(mode="json", by_alias=True, exclude_none=True)
    made = decide(Case(qjob=quantization_job(("backoffLimit", 3), status=written))).create
    assert made is not None
    assert made["spec"]["backoffLimit"] == 1
    second = child(status={"failed": 1}, annotations=made["metadata"]["annotations"])
    pods = [running(), terminated(75, name="x")]
    after = decide(Case(qjob=quantization_job(status=written), child=second, pods=pods)).status
    assert after is not None
    assert after.attempts is not None
    assert (after.attempts.failed, after.attempts.disrupted) == (3, 1)
    assert made["metadata"]["annotations"][FAILED_BEFORE_ANNOTATION] == "2"


def test_a_pause_is_neither_progress_nor_failure() -> None:
    status = decide(CASES["paused while it runs: the Job is deleted"]).status
    assert status is not None
    assert {c.type: c.status for c in status.conditions} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "True",
    }


def test_a_result_that_is_trusted_is_told_as_one_that_a_pod_found() -> None:
    mine = ("output.uri", "s3://artifacts/stories15m-gptq/")
    figures = {"metrics": [{"name": "ppl", "output": 10.2}], "onFront": True, "best": True}
    trial = {"parameters": "bits=4", "state": "Finished"} | figures
    search = {"done": 4, "total": 4, "best": "bits=4: ppl 10.2", "shown": "4/4"}
    progress = {"percent": 100, "shown": "100 %", "stage": "done", "layer": 6, "layers": 6}
    earlier = read_whole(status=result_status(trials=[trial], search=search, progress=progress))
    status = decide(
        Case(qjob=quantization_job(TRUSTED, mine), more=READ | FRESH | {"earlier": (earlier,)})
    ).status
    assert status is not None
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    result = RESULT.model_dump(mode="json", by_alias=True, exclude_none=True)
    place = {"uri": mine[1], "reusedFrom": mine[1]}
    assert written["artifact"] == result["artifact"] | place
    assert (written["recipe"], written["metrics"]) == (result["recipe"], result["metrics"])
    assert (written["trials"], written["search"], written["progress"]) == ([trial], search, progress)
    assert (written["passes"], written["completionTime"]) == ("GptqQuantizer", "2026-01-01T00:00:12Z")
    assert not {"jobName", "startTime", "failure"} & set(written)
    assert written["completionTime"] != ENDED, "its own end, from which its time to live counts"


def test_attempts_before_a_pause_are_not_forgotten_for_a_result_that_is_trusted() -> None:
    before = PAUSED | {"attempts": {"failed": 1, "disrupted": 2}}
    status = decide(Case(qjob=quantization_job(TRUSTED, status=before), more=READ | FRESH)).status
    assert status is not None
    assert status.attempts is not None
    assert (status.attempts.failed, status.attempts.disrupted) == (1, 2)
    assert status.start_time is None


def test_a_refused_job_is_not_tried_before_the_api_server_wants_it() -> None:
    rejection = replace(DENIED, code=429, retry_after=30.0)
    assert decide(Case(qjob=quantization_job(), more={"rejection": rejection})).retry_after == 30.0


@pytest.mark.parametrize(
    ("body", "made_for", "disrupted"),
    [
        (quantization_job(PAUSE, status=PAUSED, generation=2), {"generation": 1}, 0),
        (quantization_job(PAUSE, status=PAUSED, generation=2), {"deletionTimestamp": DELETED}, 0),
        (quantization_job(status=PAUSED, generation=3), {"deletionTimestamp": DELETED}, 0),
        (quantization_job(status=PAUSED | {"observedGeneration": 2}, generation=3), {"generation": 1}, 0),
        (quantization_job(status=RUNS), {}, 1),
    ],
    ids=["paused", "paused, the Job goes", "on again, the Job goes", "on again, the Job is to go", "by hand"],
)
def test_a_pod_that_a_pause_deletes_counts_for_nothing(
    body: dict[str, Any], made_for: dict[str, Any], disrupted: int
) -> None:
    """The controller that collects pods without a node calls such a pod Failed, without a word why."""
    deleted = pod({"running": {"startedAt": CREATED}}, phase="Failed", deletionTimestamp=DELETED)
    after = Case(qjob=body, child=child(**made_for), pods=[deleted, running(name="next")])
    status = decide(after).status
    attempts = status.attempts if status else None
    assert (attempts.disrupted if attempts else 0) == disrupted
