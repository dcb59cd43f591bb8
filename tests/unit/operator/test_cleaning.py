"""The Job that removes an artifact is watched like any other (`rules/cleaning.py`)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    child,
    condition_status,
    quantization_job,
    running,
    terminated,
    waiting,
)
from tests.support.decisions import FRESH, NOW, RUNS, SETTINGS, Case, decide, verify

from quantization_operator import workload
from quantization_operator.policies import admission
from quantization_operator.queue_entry import QUEUE_LABEL
from quantization_operator.snapshots import FINALIZER, ChildJob, ChildPod, KubernetesWarning, QuantizationJob

pytestmark = pytest.mark.unit

QUEUE = {"labels": {QUEUE_LABEL: "gpu"}}
PULL = waiting("ErrImagePull", "quantizer:gone: not found")
REFUSED = KubernetesWarning(
    "FailedCreate", "minimum memory usage per Container is 2Gi, but request is 256Mi", NOW
)
ENDED = condition_status("Ready", "Succeeded", completionTime=CREATED)


def leaving(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """A job that was deleted, and whose artifact is to go with it."""
    going = {"deletionTimestamp": CREATED, "finalizers": [FINALIZER]}
    return quantization_job(("artifactPolicy", "Delete"), status=status, **going, **metadata)


def removing(*pods: dict[str, Any], suspend: bool = False, **more: Any) -> dict[str, Any]:
    """What is observed while the Job that removes it is there."""
    job = ChildJob.of(child(name="cleanup", uid="cleanup", ownerReferences=[], suspend=suspend))
    return {"cleanup": job, "cleanup_pods": tuple(map(ChildPod.of, pods))} | more


TOLD = ("CleanUpWaits",)
CASES: dict[str, Case] = {
    "its image cannot be pulled: told at once": Case(
        qjob=leaving(ENDED), more=removing(PULL), rule="clean up", events=TOLD, requeued=15.0
    ),
    "that is known: told once": Case(
        qjob=leaving(ENDED),
        more=removing(PULL, problem=("ImagePullFailed/" + PULL["metadata"]["name"], NOW)),
        rule="clean up",
        requeued=15.0,
    ),
    "its image cannot be pulled for too long: let it go, and say so": Case(
        qjob=leaving(ENDED),
        more=removing(
            PULL,
            problem=(
                "ImagePullFailed/" + PULL["metadata"]["name"],
                NOW - timedelta(seconds=SETTINGS.image_pull_patience_seconds),
            ),
        ),
        rule="released",
        releases=True,
        deletes=True,
        events=("ArtifactLeft",),
    ),
    "it has no pod: its events say why": Case(
        qjob=leaving(ENDED), more=removing(), rule="clean up", look="events"
    ),
    "nothing says why: look again": Case(
        qjob=leaving(ENDED), more=removing(warnings=()), rule="clean up", requeued=15.0
    ),
    "a LimitRange refuses its resources: another Job, without any": Case(
        qjob=leaving(ENDED),
        more=removing(warnings=(REFUSED,)),
        rule="clean up",
        deletes=True,
        requeued=588.0,
    ),
    "a LimitRange refuses that one too: told": Case(
        qjob=leaving(ENDED),
        more=removing(warnings=(REFUSED,), problem=("without resources", NOW)),
        rule="clean up",
        events=TOLD,
        requeued=15.0,
    ),
    "its queue holds it: told": Case(
        qjob=leaving(ENDED), more=removing(suspend=True), rule="clean up", events=TOLD, requeued=588.0
    ),
    "no pod of the job ever began: nothing is to be removed": Case(
        qjob=leaving(
            condition_status(
                "Stalled",
                "ImagePullFailed",
                failure={"category": "ImagePullFailed", "message": "not found"},
                completionTime=CREATED,
            )
        ),
        more=FRESH,
        rule="cleaned up",
        releases=True,
    ),
    "no Job was ever made: nothing is to be removed": Case(
        qjob=leaving({}), more=FRESH, rule="cleaned up", releases=True
    ),
    "an attempt was made before its image was gone: it is removed": Case(
        qjob=leaving(
            condition_status(
                "Stalled",
                "ImagePullFailed",
                failure={"category": "ImagePullFailed", "message": "not found"},
                completionTime=CREATED,
                attempts={"failed": 0, "disrupted": 1},
            )
        ),
        more=FRESH,
        rule="clean up",
        creates=True,
    ),
    "it failed for good in the middle: it is removed": Case(
        qjob=leaving(RUNS), pods=[terminated(66)], more=FRESH, rule="clean up", creates=True
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_what_is_observed(case: Case) -> None:
    verify(case)


def test_what_hinders_it_is_told_with_its_cause_and_its_cure() -> None:
    (event,) = decide(CASES["its image cannot be pulled: told at once"]).events
    assert "quantizer:gone: not found" in event.message
    assert "spec.template.image" in event.message


def test_the_next_job_asks_for_no_resources() -> None:
    case = Case(qjob=leaving(ENDED), more=FRESH | {"problem": ("without resources", NOW)})
    made = decide(case).create
    assert made is not None
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {}
    first = decide(replace(case, more=FRESH)).create
    assert first is not None
    assert first["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]


def test_it_is_in_the_queue_of_the_job() -> None:
    several = {"kueue.x-k8s.io/job-min-parallelism": "2", "kueue.x-k8s.io/podset-required-topology": "rack"}
    qjob = QuantizationJob.of(leaving(ENDED, **QUEUE, annotations=several))
    assert qjob is not None
    spec = admission.admit(qjob.spec, qjob.problem)
    made = workload.build_cleanup(qjob, spec, SETTINGS, None)  # type: ignore[arg-type]
    assert made["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    assert made["metadata"]["annotations"] == {"kueue.x-k8s.io/podset-required-topology": "rack"}


def test_a_job_that_runs_is_not_asked_about() -> None:
    assert decide(Case(qjob=leaving(ENDED), more=removing(running()))).requeue_after == 588.0
