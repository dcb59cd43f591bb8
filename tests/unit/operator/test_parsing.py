"""Whatever stands in an object, the operator makes a snapshot of it or leaves it alone, and decides about it."""

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.cluster_objects import (
    UID,
    child,
    condition_status,
    disruption,
    ended,
    failed_result,
    pod,
    quantization_job,
    result_status,
    running,
    succeeded,
    terminated,
    waiting,
)

from quantization_api.failures import Category
from quantization_operator import parsing
from quantization_operator.decision import Observed
from quantization_operator.decode import TOO_DEEP
from quantization_operator.identity import KINDS, MOST_FINALIZERS, identify
from quantization_operator.metrics import Metrics
from quantization_operator.queue_entry import QueueEntry, pending_position
from quantization_operator.reconcile import reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import (
    FAILED_BEFORE_ANNOTATION,
    FINALIZER,
    GENERATION_ANNOTATION,
    QJOB_UID_LABEL,
    ChildJob,
    ChildPod,
    KubernetesWarning,
    QuantizationJob,
)
from quantization_operator.watch import carry

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)
SETTINGS = OperatorSettings(quantizer_image="quantizer:test")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=20)
    | st.sampled_from(
        [
            "True",
            "False",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "2026-01-01T00:00:00",
            "1.5",
            "\ud800",
        ]
    )
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)

DONE = ended("Complete")
BODIES: dict[str, list[dict[str, Any]]] = {
    "QuantizationJob": [
        quantization_job(),
        quantization_job(
            status=condition_status("Reconciling", "Running", attempts={"failed": 1, "disrupted": 2})
        ),
        quantization_job(status=result_status()),
        quantization_job(("ttlSecondsAfterFinished", 5), status=result_status()),
        quantization_job(
            ("artifactPolicy", "Delete"),
            status=condition_status("Reconciling"),
            finalizers=[FINALIZER],
            deletionTimestamp="2026-01-01T00:00:00Z",
        ),
        quantization_job(labels={"kueue.x-k8s.io/queue-name": "lq"}),
    ],
    "Job": [child(), child(status=DONE), child(status=ended("Failed", "BackoffLimitExceeded", failed=2))],
    "Pod": [
        running(),
        succeeded(),
        waiting("ErrImagePull", "x"),
        terminated(66, failed_result("ModelNotFound")),
        pod(conditions=[disruption()]),
    ],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> Any:
    """An object of a kind of which a few values are something else."""
    body: Any = copy.deepcopy(draw(st.sampled_from(BODIES[kind])))
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from(places(body)[1:]))
        there = body
        for key in above:
            there = there[key]
        there[last] = draw(json_values)
        if above == ["metadata"]:
            break  # the identity is mostly whole
    return body


@given(json_values)
def test_any_json_gives_a_snapshot_or_none(body: Any) -> None:
    for of in (QuantizationJob.of, ChildJob.of, ChildPod.of):
        assert of(body) is None
    KubernetesWarning.of(body)
    QueueEntry.of(body, {}, NOW)
    pending_position(body)
    carry(body, "pods")
    assert [identify(kind, body) for kind in KINDS] == [None] * 3


@given(json_values)
def test_every_function_of_parsing_is_total(value: Any) -> None:
    assert isinstance(parsing.mapping(value), dict)
    assert all(isinstance(item, dict) for item in parsing.mappings(value))
    assert parsing.text(value).isprintable()
    assert len(parsing.word(value)) <= parsing.LONGEST_WORD
    assert 0 <= parsing.integer(value) <= parsing.LARGEST_INTEGER
    when = parsing.moment(value)
    assert when is None or (when - NOW) + NOW + timedelta(days=365_000) > NOW
    told, problem = parsing.kept(value, "spec")
    assert isinstance(json.loads(told or "{}"), dict)
    assert (told == "") == (problem != "") or problem.endswith("is not an object")


@settings(max_examples=200)
@given(
    mutated("QuantizationJob"),
    mutated("Job"),
    st.lists(mutated("Pod"), max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_stored_a_decision_is_made(
    qjob_body: Any, job_body: Any, pod_bodies: list[Any], fresh: bool, remembered: bool
) -> None:
    qjob, job_seen = QuantizationJob.of(qjob_body), ChildJob.of(job_body)
    pods = tuple(found for found in map(ChildPod.of, pod_bodies) if found is not None)
    if qjob is None:
        assert identify("QuantizationJob", qjob_body) is None
        return
    observed = Observed(
        qjob,
        child=job_seen,
        pods=pods,
        cleanup=job_seen if qjob.deleting else None,
        fresh=fresh,
        warnings=(KubernetesWarning.of(qjob_body),) if fresh else None,
        disruptions=2**53 if remembered else 0,
    )
    decision = reconcile(observed, SETTINGS, NOW)
    if decision.status is not None:
        told = decision.status.model_dump_json(by_alias=True, exclude_none=True)
        assert "\\u001b" not in told
        Metrics().observe_transition(qjob, qjob.read_status(), decision.status, NOW)


@pytest.mark.parametrize(
    "annotations",
    [
        {GENERATION_ANNOTATION: "abc"},
        {FAILED_BEFORE_ANNOTATION: "1.5"},
        {FAILED_BEFORE_ANNOTATION: "9" * 5000},
        [],
        7,
    ],
)
def test_an_annotation_that_is_no_number_is_none(annotations: Any) -> None:
    found = ChildJob.of(child(annotations=annotations))
    assert found is not None
    assert (found.generation, found.failed_before) == (0, 0)


def test_too_many_finalizers_are_nobodys() -> None:
    few, many = (
        quantization_job(finalizers=["example.com/x"] * n) for n in (MOST_FINALIZERS, MOST_FINALIZERS + 1)
    )
    assert QuantizationJob.of(few) is not None
    assert QuantizationJob.of(many) is None


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("affinity", "said"),
    [
        (deep(60), "nested deeper"),
        (deep(900), "nested"),
        ({"x": "y" * 1_300_000}, "characters"),
        ({"x": TOO_DEEP}, "nested deeper"),
    ],
    ids=["deep", "deeper", "large", "cut when it was decoded"],
)
def test_a_spec_that_cannot_be_kept_is_refused_by_name(affinity: Any, said: str) -> None:
    body = quantization_job()
    body["spec"].setdefault("template", {})["affinity"] = affinity
    qjob = QuantizationJob.of(body)
    assert qjob is not None
    assert len(qjob.spec) < parsing.LARGEST_KEPT
    decision = reconcile(Observed(qjob), SETTINGS, NOW)
    assert decision.status is not None
    failure = decision.status.failure
    assert failure is not None
    assert failure.category is Category.INVALID_WORKFLOW
    assert said in failure.message
    assert "apply one" in failure.hint


def test_labels_of_a_queue_that_are_too_many_are_refused_and_not_kept() -> None:
    labels = {f"kueue.x-k8s.io/{number}": "x" * 60 for number in range(10_000)}
    qjob = QuantizationJob.of(quantization_job(labels=labels))
    assert qjob is not None
    assert qjob.queue_labels == {}
    decision = reconcile(Observed(qjob), SETTINGS, NOW)
    assert decision.status is not None
    assert decision.status.failure is not None
    assert "its queue" in decision.status.failure.message


def test_what_kopf_carries_is_small_and_says_who_it_is() -> None:
    fields = [{"manager": "x", "fieldsV1": {"f": "y" * 10_000}}]
    body = running(managedFields=fields, annotations={"x": "y" * 10_000})
    carried = carry(body | {"kind": "Pod"})
    assert carried["metadata"]["uid"] == body["metadata"]["uid"]
    assert len(repr(carried)) < 2_000
    assert carry(body, "pods")["kind"] == "Pod", "an object of a list does not say its kind"
    assert carry({"kind": ["x"], "metadata": 7})["metadata"] == {}


def test_an_older_status_that_does_not_fit_is_read_as_far_as_it_goes() -> None:
    status = condition_status(
        "Reconciling", jobName="x" * 4000, conditions=[7, {"type": "Ready"}, *["x"] * 20]
    )
    qjob = QuantizationJob.of(quantization_job(status=status))
    assert qjob is not None
    assert qjob.uid == UID
    assert qjob.read_status().conditions == []


def test_a_label_that_names_a_job_is_not_longer_than_a_label() -> None:
    assert ChildJob.of(child(labels={QJOB_UID_LABEL: "x" * 300})) is None
