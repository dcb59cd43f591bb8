"""The policies of a job that waits or runs: its spec, its deadline, the patience with it, and what it reports."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import quantization_job

from quantization_api.failures import Category
from quantization_api.pod import RunProgress
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Failure, Trials
from quantization_operator.diagnose import failure
from quantization_operator.hindrances import Patience, Problem
from quantization_operator.policies import admission, again, deadline, patience, reporting
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import QuantizationJob

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([], None),
        ([("backoffLimit", -1)], "spec.backoffLimit: must be greater"),
        ([("workflow.passes", [{"type": "NoSuchPass"}])], "spec.workflow.passes[0]"),
        ([("workflow.user_script", "x.py")], "user_script"),
        ([("backoffLimit", -1), ("ttlSecondsAfterFinished", -1)], "; spec.ttlSecondsAfterFinished: "),
    ],
    ids=["one that can be run", "a value", "a place in a list", "refused by name", "each field is named"],
)
def test_a_stored_spec_is_admitted_or_refused_with_a_sentence(
    changes: list[tuple[str, Any]], sentence: str | None
) -> None:
    found = admission.admit(QuantizationJob.of(quantization_job(*changes)).spec)
    if sentence is None:
        assert isinstance(found, QuantizationJobSpec)
        return
    assert isinstance(found, Failure)
    assert found.category is Category.INVALID_WORKFLOW
    assert sentence in found.message


@pytest.mark.parametrize("field", ["template.fromTomorrow", "workflow.fromTomorrow", "fromTomorrow"])
def test_a_field_that_only_a_newer_kind_knows_is_cured_by_the_newer_operator(field: str) -> None:
    """The API server keeps no field that its kind does not know: the operator was taken back, the kind was not."""
    found = admission.admit(QuantizationJob.of(quantization_job((field, "x"))).spec)
    assert isinstance(found, Failure)
    assert found.message == f'unknown field "spec.{field}"'
    assert "Upgrade the operator" in found.hint
    assert again.ANNOTATE in found.hint
    known = admission.admit(QuantizationJob.of(quantization_job(("backoffLimit", -1))).spec)
    assert isinstance(known, Failure)
    assert "Upgrade" not in known.hint


@pytest.mark.parametrize(("seconds", "fields"), [(None, {}), (60, {"activeDeadlineSeconds": 60})])
def test_the_deadline_is_the_jobs_own(seconds: int | None, fields: dict[str, int]) -> None:
    changes = [("activeDeadlineSeconds", seconds)] if seconds else []
    assert (
        deadline.job_fields(QuantizationJobSpec.model_validate(quantization_job(*changes)["spec"])) == fields
    )


@pytest.mark.parametrize(
    ("kind", "message", "waited", "left"),
    [
        ("image", "ErrImagePull: not found", 0, 120.0),
        ("image", "ErrImagePull: not found", 119, 1.0),
        ("image", "ErrImagePull: not found", 500, 0.0),
        ("image", "InvalidImageName: couldn't parse", 0, 0.0),
        ("image", "InvalidImageName of container mesh: couldn't parse", 0, 0.0),
        ("start", "secret not found", 0, 45.0),
        ("schedule", "0/1 nodes are available", 10**6, None),
        ("never", "node-1 stopped answering", 10**6, None),
    ],
    ids=[
        "an image",
        "an image, almost too long",
        "an image, too long",
        "a name that is none",
        "a name that is none, of another container",
        "a start",
        "a node",
        "a lost node",
    ],
)
def test_patience_is_that_of_the_problem(
    kind: Patience, message: str, waited: int, left: float | None
) -> None:
    problem = Problem("Waits", failure(Category.INTERNAL, message), kind)
    since = NOW - timedelta(seconds=waited)
    assert patience.left(problem, since, NOW, OperatorSettings()) == left


def test_patience_with_the_scheduler_is_a_setting() -> None:
    problem = Problem("Unschedulable", failure(Category.UNSCHEDULABLE, "0/1 nodes"), "schedule")
    settings = OperatorSettings(unschedulable_patience_seconds=60)
    assert patience.left(problem, NOW - timedelta(seconds=50), NOW, settings) == 10.0


def at(percent: int, stage: str = "quantize") -> RunProgress:
    return RunProgress(percent=percent, stage=stage)


def point(done: int, stage: str = "quantize") -> RunProgress:
    return RunProgress(percent=40, stage=stage, search=Trials(done=done, total=24))


@pytest.mark.parametrize(
    ("written", "seen", "seconds_ago", "due"),
    [
        (None, None, None, False),
        (None, at(0), None, True),
        (at(40), at(40), 60, False),
        (at(40), at(41), 5, True),
        (at(40), at(41), 4.9, False),
        (at(40), at(41), None, True),
        (at(40), at(30), 5, True),
        (at(40), at(40, "upload"), 5, True),
        (at(40), at(40, "upload"), 1, False),
        (at(40), at(40).model_copy(update={"eta_seconds": 9}), 60, False),
        (point(3), point(3, "upload"), 60, False),
        (point(3), point(4), 5, True),
        (point(3), point(4), 4.9, False),
    ],
    ids=[
        "nothing is known",
        "the first",
        "the same",
        "a percent, in time",
        "a percent, too early",
        "another process wrote the last",
        "it began again",
        "a new stage",
        "a new stage, too early",
        "less than a percent",
        "a new stage of one point of many",
        "a point has ended",
        "a point has ended, too early",
    ],
)
def test_progress_is_written_when_it_is_news(
    written: RunProgress | None, seen: RunProgress | None, seconds_ago: float | None, due: bool
) -> None:
    last = None if seconds_ago is None else NOW - timedelta(seconds=seconds_ago)
    assert reporting.due(written, seen, last, NOW, interval=5) == due
