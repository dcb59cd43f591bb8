"""Decisions of the operator as a table: what is observed, and what must follow. For the tests of its rules."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import ENDED, condition_status, quantization_job, result_status

from quantization_api.failures import Category
from quantization_api.status import QuantizationJobStatus
from quantization_operator.decision import Decision, Observed, Peer, Rejection
from quantization_operator.reconcile import reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, KubernetesWarning, QuantizationJob

NOW = datetime(2026, 1, 1, 0, 0, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SETTINGS = OperatorSettings(quantizer_image="quantizer:test")
MADE = condition_status("Reconciling", "Starting")
RUNS = condition_status("Reconciling", "Running")
FRESH = {"fresh": True}
DELETED = "2026-01-01T00:05:00Z"
DENIED = Rejection(400, 'admission webhook "noon.example.com" denied the request: not before noon')
NO_ANSWER = Rejection(500, 'failed calling webhook "nobody.example.com": connect: connection refused')
QUOTA = KubernetesWarning("FailedCreate", "exceeded quota: gpus", NOW)
NOT_SECURE = KubernetesWarning("FailedCreate", 'violates PodSecurity "restricted"', NOW)
OTHER = Peer("other", "0", NOW - timedelta(days=1), has_job=True, finished=False, deleting=False)
DONE = replace(OTHER, finished=True, completed=datetime.fromisoformat(ENDED))
TRUSTED = ("reuse", "Trusted")


def read_whole(
    *changes: tuple[str, Any], status: dict[str, Any] | None = None, **metadata: Any
) -> QuantizationJob:
    """What is read of DONE: the same spec as that of `job`, and a result."""
    body = quantization_job(
        *changes, status=status or result_status(), **({"uid": "0", "name": "other"} | metadata)
    )
    return QuantizationJob.of(body, whole=True)


@dataclass(frozen=True)
class Case:
    """What is observed, and the decision that must follow."""

    qjob: dict[str, Any] = field(default_factory=lambda: quantization_job(status=MADE))
    child: dict[str, Any] | None = None
    pods: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    now: datetime = NOW
    rule: str = ""
    phase: str | None = None
    reason: str = ""
    said: str = ""
    """A part of the Ready condition's message."""
    category: Category | None = None
    look: str = ""
    creates: bool = False
    deletes: bool = False
    finalizers: tuple[str, ...] | None = None
    releases: bool = False
    removes: bool = False
    events: tuple[str, ...] = ()
    requeued: float | None = None
    retried: bool = False


def observe(case: Case) -> Observed:
    """What the rules see."""
    return Observed(
        qjob=QuantizationJob.of(case.qjob),
        child=ChildJob.of(case.child) if case.child else None,
        pods=tuple(ChildPod.of(body) for body in case.pods),
        **case.more,
    )


def decide(case: Case) -> Decision:
    """What the operator decides."""
    return reconcile(observe(case), SETTINGS, case.now)


def verify(case: Case) -> None:
    """The decision is the one that the case names, in every part; its status is valid, and is written only once."""
    decision = decide(case)
    _is_as_named(decision, case)
    if case.phase is not None:
        _says(decision.status, case)
    if decision.status is not None:
        written = decision.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        QuantizationJobStatus.model_validate_json(json.dumps(written))
        again = decide(replace(case, qjob=case.qjob | {"status": written}))
        assert (again.status, again.events) == (None, ())


def _is_as_named(decision: Decision, case: Case) -> None:
    assert decision.rule == case.rule
    assert decision.look == case.look
    assert (decision.create is not None) == case.creates
    assert (decision.delete is not None) == case.deletes
    assert decision.finalizers == case.finalizers
    assert (decision.release, decision.remove) == (case.releases, case.removes)
    assert decision.retry == case.retried
    assert tuple(event.reason for event in decision.events) == case.events
    if case.requeued is None:
        assert decision.requeue_after is None
    else:
        assert decision.requeue_after == pytest.approx(case.requeued)


def _says(status: QuantizationJobStatus | None, case: Case) -> None:
    assert status is not None
    assert status.phase == case.phase
    ready = next(c for c in status.conditions if c.type == "Ready")
    assert ready.reason == (case.category or case.reason)
    assert case.said in ready.message
    assert (status.failure.category if status.failure else None) == case.category
    assert (status.completion_time is not None) == (case.phase in ("Succeeded", "Failed"))
    assert status.observed_generation == case.qjob["metadata"]["generation"]
