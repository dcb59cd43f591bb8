"""A Job is believed by its place, its name, who controls it, and the uid that was recorded when it was made."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.cluster_objects import (
    JOB_UID,
    NAME,
    RESULT,
    UID,
    child,
    condition_status,
    controlled_by,
    ended,
    quantization_job,
    running,
    succeeded,
    terminated,
)
from tests.support.decisions import NOW, SETTINGS

from quantization_api.failures import Category
from quantization_api.pod import RunResult
from quantization_operator.cache import Cache, Key
from quantization_operator.controller import Controller
from quantization_operator.decision import Observed
from quantization_operator.diagnose import forged, result_of
from quantization_operator.ownership import cleanup_job, fits, own_job, pods_of, stray_job
from quantization_operator.reconcile import reconcile
from quantization_operator.snapshots import GENERATION_ANNOTATION, ChildJob, ChildPod, QuantizationJob
from quantization_operator.workload import cleanup_name

pytestmark = pytest.mark.unit

REQUEST = QuantizationJob.of(quantization_job())
OWN = ChildJob.of(child())
OUTPUT = REQUEST.output

FOREIGN: dict[str, dict[str, Any]] = {
    "in another namespace": child(namespace="evil"),
    "of another name": child(name="x"),
    "controlled by nothing": child(ownerReferences=[]),
    "only referring to it": child(
        ownerReferences=[r | {"controller": False} for r in controlled_by("QuantizationJob", "job", UID)]
    ),
    "controlled by a Deployment of the uid": child(
        ownerReferences=[r | {"kind": "Deployment"} for r in controlled_by("QuantizationJob", "job", UID)]
    ),
    "controlled by another group's kind": child(
        ownerReferences=[r | {"apiVersion": "x/v1"} for r in controlled_by("QuantizationJob", "job", UID)]
    ),
    "controlled by another QuantizationJob": child(
        ownerReferences=controlled_by("QuantizationJob", "job", "other")
    ),
    "made for a generation that is not there yet": child(annotations={GENERATION_ANNOTATION: "2"}),
    "labelled for another": child(labels={"quantization.dev/job-uid": "other"}),
}


@pytest.mark.parametrize("body", FOREIGN.values(), ids=FOREIGN)
def test_a_job_that_does_not_fit_is_not_its_own(body: dict[str, Any]) -> None:
    foreign = ChildJob.of(body)
    assert foreign is not None
    assert not fits(REQUEST, foreign)
    assert own_job(REQUEST, [foreign, OWN], "") == OWN
    assert own_job(REQUEST, [foreign], "") is None


def test_of_two_that_fit_the_recorded_one_is_believed() -> None:
    other = replace(OWN, uid="other")
    assert own_job(REQUEST, [other, OWN], JOB_UID) == OWN
    assert stray_job(REQUEST, [other, OWN], JOB_UID) == other
    assert own_job(REQUEST, [other], JOB_UID) is None
    assert stray_job(REQUEST, [other], "") is None


def test_the_clean_up_job_is_one_of_its_namespace_that_nothing_controls() -> None:
    name = cleanup_name("job", UID)
    real = ChildJob.of(child(name=name, ownerReferences=[]))
    forged_ones = [
        ChildJob.of(child(name=name)),
        ChildJob.of(child(name=name, ownerReferences=[], namespace="evil")),
        ChildJob.of(child(name=name, ownerReferences=controlled_by("Job", "x", "x"))),
    ]
    assert cleanup_job(REQUEST, forged_ones) is None
    assert cleanup_job(REQUEST, [*forged_ones, real]) == real


def test_a_pod_is_one_of_the_job_that_controls_it() -> None:
    own = ChildPod.of(running())
    foreign = [
        ChildPod.of(running(namespace="evil")),
        ChildPod.of(running(ownerReferences=[{"uid": JOB_UID, "controller": True, "kind": "ReplicaSet"}])),
        ChildPod.of(running(ownerReferences=[])),
    ]
    assert pods_of(OWN, [*foreign, own]) == (own,)
    assert pods_of(None, [own]) == ()


def test_a_job_of_which_no_uid_is_recorded_is_looked_at_before_it_is_believed() -> None:
    done = ChildJob.of(child(status=ended("Complete")))
    pods = (ChildPod.of(succeeded()),)
    unproven = Observed(REQUEST, child=done, pods=pods, proven=False)
    assert reconcile(unproven, SETTINGS, NOW).look == "objects"
    decision = reconcile(replace(unproven, proven=True, fresh=True), SETTINGS, NOW)
    assert decision.status is not None
    assert (decision.status.phase, decision.status.job_uid) == ("Succeeded", JOB_UID)


def test_a_job_in_place_of_the_recorded_one_is_no_result_and_goes() -> None:
    qjob = QuantizationJob.of(quantization_job(status=condition_status("Reconciling", "Running")))
    stray = ChildJob.of(child(uid="stray", status=ended("Complete")))
    observed = Observed(qjob, stray=stray, fresh=True, adopted=JOB_UID)
    decision = reconcile(observed, SETTINGS, NOW)
    assert decision.status is not None
    assert decision.status.failure is not None
    assert decision.status.failure.category is Category.JOB_DELETED
    assert decision.status.job_uid == JOB_UID
    assert decision.delete == stray
    paused = QuantizationJob.of(
        quantization_job(("suspend", True), status=condition_status("Reconciling", "Running"))
    )
    assert reconcile(replace(observed, qjob=paused), SETTINGS, NOW).delete == stray


def result(**changes: Any) -> RunResult:
    assert RESULT.artifact is not None
    made = {key: changes.pop(key) for key in list(changes) if key != "recipe"}
    return RESULT.model_copy(update={"artifact": RESULT.artifact.model_copy(update=made)} | changes)


RECIPE = RESULT.recipe
FORGED: dict[str, tuple[RunResult, str | None]] = {
    "another place": (result(uri="s3://attacker/backdoored-model"), None),
    "found at another place": (result(reused_from="s3://attacker/x"), None),
    "no recipe": (result(recipe=None), None),
    "a recipe that is no digest": (result(recipe="sha256:abc"), None),
    "a recipe with more behind it": (result(recipe=f"{RECIPE}\n"), None),
    "another recipe than before": (result(), "sha256:" + "c" * 64),
    "no artifact": (RunResult(recipe=RECIPE), None),
}


@pytest.mark.parametrize(("told", "before"), FORGED.values(), ids=FORGED)
def test_a_result_that_the_quantizer_would_not_tell_is_refused(told: RunResult, before: str | None) -> None:
    failure = forged(told, OUTPUT, before)
    assert failure is not None
    assert "who may write pods" in failure.hint


def test_the_quantizers_own_result_is_none_of_them() -> None:
    assert forged(result(), OUTPUT, None) is None
    assert forged(result(reused_from=OUTPUT), OUTPUT, RECIPE) is None


def test_a_completed_job_whose_pod_tells_of_another_place_has_failed() -> None:
    told = result(uri="s3://attacker/backdoored-model").to_message()
    observed = Observed(
        REQUEST, child=ChildJob.of(child(status=ended("Complete"))), pods=(ChildPod.of(terminated(0, told)),)
    )
    decision = reconcile(observed, SETTINGS, NOW)
    assert decision.status is not None
    assert decision.status.phase == "Failed"
    assert decision.status.artifact is None
    assert decision.status.failure is not None
    assert "s3://attacker/backdoored-model" in decision.status.failure.message


HOSTILE = {
    "a huge size": RESULT.to_message().replace("8000000", "1" + "0" * 30),
    "infinite": RESULT.to_message().replace("3.7", "Infinity"),
    "not a number": RESULT.to_message().replace("10.2", "NaN"),
    "too large a number": RESULT.to_message().replace("10.2", "1e999"),
    "deep": "[" * 4000,
    "deep objects": '{"artifact":' * 3000,
    "a surrogate": '{"failure":{"category":"Internal","message":"a\\ud800b"}}',
    "a real surrogate": '{"failure":{"category":"Internal","message":"\ud800"}}',
    "a huge exit code": '{"failure":{"category":"Internal","message":"x","exitCode":1' + "0" * 30 + "}}",
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
def test_a_termination_message_that_is_no_result_is_told_as_such(said: str) -> None:
    pod = ChildPod.of(terminated(0, said))
    assert pod is not None
    assert result_of(pod) is None
    observed = Observed(REQUEST, child=ChildJob.of(child(status=ended("Complete"))), pods=(pod,))
    decision = reconcile(observed, SETTINGS, NOW)
    assert decision.status is not None
    assert decision.status.failure is not None
    assert "no valid result" in decision.status.failure.message
    decision.status.model_dump_json().encode()


def test_what_a_quantizer_says_of_its_failure_is_cleaned() -> None:
    said = '{"failure":{"category":"Internal","message":"a\\u0000b\\u001b[31m\\nred","hint":"\\u202ex"}}'
    pod = ChildPod.of(terminated(70, said))
    assert pod is not None
    found = result_of(pod)
    assert found is not None
    assert found.failure is not None
    assert (found.failure.message, found.failure.hint) == ("a b | red", "x")


class Nobody:
    """Neither reads nor writes."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def observed_of(*snapshots: Any) -> Observed:
    """What the controller observes of a cache."""
    cache, nobody = Cache(), Nobody()
    for snapshot in snapshots:
        cache.put(snapshot)
    controller = Controller(
        cache,
        nobody,  # type: ignore[arg-type]
        nobody,  # type: ignore[arg-type]
        nobody,  # type: ignore[arg-type]
        nobody,  # type: ignore[arg-type]
        nobody,  # type: ignore[arg-type]
        SETTINGS,
        lambda: datetime(2026, 1, 1, tzinfo=UTC),
        lambda: 0.0,
    )
    record = cache.record(Key("default", UID))
    assert record is not None
    assert record.qjob is not None
    return asyncio.run(_now(controller, record))


async def _now(controller: Controller, record: Any) -> Observed:
    from quantization_operator.controller import Extra

    return controller._observe(record, record.qjob, Extra())


def test_a_foreign_job_with_the_uid_never_displaces_the_own_one_in_whatever_order_they_are_known() -> None:
    status = condition_status("Reconciling", "Running")
    qjob, own = QuantizationJob.of(quantization_job(status=status)), ChildJob.of(child())
    foreign = ChildJob.of(child(uid="aaa", namespace="evil", status=ended("Complete")))
    for order in ((qjob, own, foreign), (foreign, own, qjob), (foreign, qjob, own)):
        observed = observed_of(*order)
        assert observed.child == own
        assert observed.proven


def test_without_a_recorded_uid_the_observation_is_not_proven() -> None:
    status = condition_status("Reconciling", "Running")
    del status["jobUid"]
    observed = observed_of(QuantizationJob.of(quantization_job(status=status)), ChildJob.of(child()))
    assert observed.child is not None
    assert observed.child.name == NAME
    assert not observed.proven
