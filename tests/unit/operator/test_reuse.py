"""spec.reuse Trusted: whose result is believed, and for whom an artifact is kept (`policies/reuse.py`)."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import ENDED, RESULT, condition_status, quantization_job, result_status
from tests.support.decisions import DONE, TRUSTED, read_whole
from tests.support.manifests import REMOVED, VALID, manifest

from quantization_api.spec import QuantizationJobSpec
from quantization_operator.decision import Peer
from quantization_operator.policies import reuse
from quantization_operator.snapshots import FINALIZER, QuantizationJob

pytestmark = pytest.mark.unit

SECOND = timedelta(seconds=1)
END = datetime.fromisoformat(ENDED)
WORKFLOW: dict[str, Any] = VALID["spec"]["workflow"]
SCRAMBLED = {
    key: WORKFLOW[key][::-1] if key == "data_configs" else WORKFLOW[key] for key in reversed(list(WORKFLOW))
}
Change = tuple[str, Any]


def volume(claim: str, path: str = "/models", name: str = "models", **more: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, "persistentVolumeClaim": {"claimName": claim}} | more


def mounted(*volumes: dict[str, Any]) -> Change:
    return ("template.volumes", list(volumes))


TEXTS = {"name": "texts", "mountPath": "/texts", "configMap": {"name": "texts"}}

SAME: dict[str, tuple[list[Change], list[Change], bool]] = {
    # what the one asks for, and the other asked for; whether the other is believed
    "all is the same": ([], [], True),
    "the workflow in another order of keys and names": ([("workflow", SCRAMBLED)], [], True),
    "a default that is written out": ([("workflow.passes.0.bits", 4)], [], True),
    "more bits": ([("workflow.passes.0.bits", 8)], [], False),
    "another model": ([("workflow.input_model.model_path", "s3://models/x")], [], False),
    "a revision is expected": ([("workflow.input_model.revision", "sha256:" + "a" * 64)], [], False),
    "another text": (
        [("workflow.data_configs.0.load_dataset_config.data_name", "s3://datasets/x")],
        [],
        False,
    ),
    "nothing is measured": ([("workflow.evaluators", REMOVED), ("workflow.evaluator", REMOVED)], [], False),
    "another output": ([("output.uri", "s3://artifacts/x")], [], False),
    "the same output, with a slash": ([("output.uri", VALID["spec"]["output"]["uri"] + "/")], [], True),
    "another server": ([("storage.endpoint", "http://x")], [], False),
    "the same server, with a slash": (
        [("storage.endpoint", VALID["spec"]["storage"]["endpoint"] + "/")],
        [],
        True,
    ),
    "AWS": ([("storage.endpoint", REMOVED)], [], False),
    "AWS, both": ([("storage.endpoint", REMOVED)], [("storage.endpoint", REMOVED)], True),
    "an image of its own": ([("template.image", "quantizer:2")], [], False),
    "the other had an image of its own": ([], [("template.image", "quantizer:1")], False),
    "another image": ([("template.image", "quantizer:2")], [("template.image", "quantizer:1")], False),
    "the same image": ([("template.image", "quantizer:1")], [("template.image", "quantizer:1")], True),
    "the same volumes, under another name, read only, in another order": (
        [mounted(volume("a", name="x", readOnly=True), TEXTS)],
        [mounted(TEXTS, volume("a"))],
        True,
    ),
    "another claim": ([mounted(volume("b"))], [mounted(volume("a"))], False),
    "another path": ([mounted(volume("a", "/m"))], [mounted(volume("a"))], False),
    "another config map": (
        [mounted(TEXTS | {"configMap": {"name": "x"}})],
        [mounted(TEXTS)],
        False,
    ),
    "no volume": ([], [mounted(volume("a"))], False),
    "what cannot change the result differs": (
        [
            ("template.resources", {"limits": {"cpu": 1}}),
            ("template.nodeSelector", {"a": "b"}),
            ("storage.credentialsSecret", {"name": "x"}),
            ("backoffLimit", 0),
            ("artifactPolicy", "Delete"),
        ],
        [("ttlSecondsAfterFinished", 60), ("reuse", "Never")],
        True,
    ),
    "the other's spec is not understood any more": ([], [("backoffLimit", -1)], False),
}


def spec(*changes: Change) -> QuantizationJobSpec:
    return QuantizationJobSpec.model_validate(manifest(*changes)["spec"])


@pytest.mark.parametrize("name", SAME)
def test_believed_is_who_asked_for_the_same(name: str) -> None:
    mine, others, expected = SAME[name]
    assert (reuse.believed(spec(*mine), DONE, (read_whole(*others),)) is not None) == expected


STATES: dict[str, tuple[tuple[QuantizationJob, ...], bool]] = {
    "succeeded": ((read_whole(),), True),
    "gone": ((), False),
    "a namesake": ((read_whole(uid="1"),), False),
    "on its way out": ((read_whole(deletionTimestamp=ENDED, finalizers=[FINALIZER]),), False),
    "failed": ((read_whole(status=condition_status("Stalled", "Internal")),), False),
    "runs": ((read_whole(status=condition_status("Reconciling", "Running")),), False),
    "changed since it was looked at": ((read_whole(generation=2),), False),
    "without an artifact": ((read_whole(status=condition_status("Ready", "Succeeded")),), False),
    "with an artifact that nothing names": (
        (read_whole(status=result_status(artifact={"uri": "s3://artifacts/x"})),),
        False,
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_believed_is_who_succeeded_and_stays(name: str) -> None:
    earlier, expected = STATES[name]
    found = reuse.believed(spec(), DONE, earlier)
    assert (found is not None) == expected
    if found is not None:
        assert (found.recipe, found.artifact, found.metrics) == (
            RESULT.recipe,
            RESULT.artifact,
            RESULT.metrics,
        )


@pytest.mark.parametrize(
    ("peers", "last"),
    [
        ([], None),
        ([replace(DONE, finished=False)], None),
        ([replace(DONE, deleting=True)], None),
        ([DONE], "0"),
        ([DONE, replace(DONE, uid="1", completed=END + SECOND)], "1"),
        ([replace(DONE, uid="1", completed=END + SECOND), DONE], "1"),
        ([DONE, replace(DONE, uid="1", completed=END + SECOND, deleting=True)], "0"),
        ([DONE, replace(DONE, uid="1", completed=None)], "0"),
    ],
    ids=[
        "alone",
        "another runs",
        "another goes",
        "one",
        "the later of two",
        "in any order",
        "the later one goes",
        "one whose end nobody wrote",
    ],
)
def test_only_who_succeeded_last_knows_what_lies_at_the_output(peers: list[Peer], last: str | None) -> None:
    found = reuse.last(peers)
    assert (found.uid if found else None) == last


@pytest.mark.parametrize(
    ("changes", "believes"),
    [
        ([TRUSTED], True),
        ([], False),
        ([("reuse", "Allowed")], False),
        ([("reuse", "Never")], False),
        ([TRUSTED, ("suspend", True)], False),
        ([TRUSTED, ("backoffLimit", -1)], False),
    ],
    ids=[
        "Trusted",
        "as it is by default",
        "Allowed",
        "Never",
        "Trusted, and paused",
        "Trusted, and not understood",
    ],
)
def test_another_job_is_believed_only_where_that_is_asked_for(changes: list[Change], believes: bool) -> None:
    assert (reuse.trusts(QuantizationJob.of(quantization_job(*changes)).spec) is not None) == believes


def test_nobody_is_believed_by_a_job_whose_spec_is_not_needed_any_more() -> None:
    assert reuse.trusts("") is None


DELETED = END + timedelta(hours=1)


def leaving(status: dict[str, Any] | None = None) -> QuantizationJob:
    at = DELETED.isoformat()
    body = quantization_job(status=status or result_status(), deletionTimestamp=at, finalizers=[FINALIZER])
    return QuantizationJob.of(body)


def waits(*changes: Change, created: datetime = DELETED - SECOND, **more: Any) -> Peer:
    """A job that has the same output, and no Job yet."""
    given = {
        "has_job": False,
        "finished": False,
        "deleting": False,
        "spec": QuantizationJob.of(quantization_job(*changes)).spec,
    }
    return Peer(name="heir", uid="heir", created=created, **(given | more))


@pytest.mark.parametrize(
    ("qjob", "peer", "kept"),
    [
        (leaving(), waits(TRUSTED), True),
        (leaving(), waits(TRUSTED, created=DELETED), True),
        (leaving(), waits(TRUSTED, created=DELETED + SECOND), False),
        (leaving(), waits(), False),
        (leaving(), waits(TRUSTED, ("suspend", True)), False),
        (leaving(), waits(TRUSTED, ("workflow.passes.0.bits", 8)), False),
        (leaving(), waits(TRUSTED, deleting=True), False),
        (leaving(), waits(TRUSTED, spec=""), False),
        (leaving(condition_status("Reconciling", "Running")), waits(TRUSTED), False),
        (leaving(condition_status("Stalled", "Internal")), waits(TRUSTED), False),
        (QuantizationJob.of(quantization_job(status=result_status())), waits(TRUSTED), False),
    ],
    ids=[
        "it may have been read just now",
        "of the same second",
        "who came later knows of the deletion",
        "who does not trust has a pod that looks",
        "who is paused",
        "who asks for something else",
        "who goes as well",
        "who has a Job, or has ended",
        "a run that is stopped has no result",
        "nor has one that failed",
        "who stays has no heir",
    ],
)
def test_an_artifact_is_kept_for_who_may_be_taking_it_over(
    qjob: QuantizationJob, peer: Peer, kept: bool
) -> None:
    assert (reuse.heir(qjob, [peer]) is not None) == kept
