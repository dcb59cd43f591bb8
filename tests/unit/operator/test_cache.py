"""The cache keeps the newest of what it is told, in whatever order, and little of what has ended."""

import itertools
from datetime import datetime
from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    ENDED,
    JOB_UID,
    UID,
    child,
    condition_status,
    controlled_by,
    disruption,
    ended,
    quantization_job,
    running,
    succeeded,
    terminated,
)

from quantization_operator.cache import REMEMBERED_DROPS, Cache, Key, kind_of
from quantization_operator.identity import identify
from quantization_operator.ownership import pods_of
from quantization_operator.read import Listed, Listing
from quantization_operator.snapshots import (
    FINALIZER,
    QJOB_UID_LABEL,
    ChildJob,
    ChildPod,
    QuantizationJob,
    place_of,
)
from quantization_operator.sweep import ghosts, late

pytestmark = pytest.mark.unit

KEY = Key("default", UID)


def test_objects_of_one_job_come_together_in_any_order() -> None:
    parts = [QuantizationJob.of(quantization_job()), ChildJob.of(child()), ChildPod.of(running())]
    for order in itertools.permutations(parts):
        cache = Cache()
        assert [cache.put(part) for part in order] == [KEY] * 3
        record = cache.record(KEY)
        assert record is not None
        assert record.qjob == parts[0]
        assert list(record.jobs.values()) == [parts[1]]
        assert list(record.pods.values()) == [parts[2]]


def test_an_old_or_repeated_event_is_no_news() -> None:
    cache = Cache()
    new, old = ChildJob.of(child(resourceVersion="100")), ChildJob.of(child(resourceVersion="99"))
    assert cache.put(new) == KEY
    assert cache.put(old) is None
    assert cache.put(new) is None
    assert cache.find("Job", JOB_UID) == new


def test_a_new_version_that_says_nothing_new_is_kept_and_decides_nothing() -> None:
    cache = Cache()
    for of, body in ((QuantizationJob.of, quantization_job), (ChildJob.of, child), (ChildPod.of, running)):
        first = of(body(resourceVersion="100"))
        assert cache.put(first) == KEY
        assert cache.put(of(body(resourceVersion="101"))) is None
        known = cache.find(kind_of(first), first.uid)
        assert known is not None
        assert known.resource_version == 101, "later writes name this version"
    assert cache.put(ChildPod.of(succeeded(resourceVersion="102"))) == KEY
    assert cache.put(ChildJob.of(child(resourceVersion="103", deletionTimestamp=ENDED))) == KEY


@pytest.mark.parametrize("labels", [{}, None, {QJOB_UID_LABEL: ""}, {QJOB_UID_LABEL: 7}, "x"])
def test_an_object_of_nobody_is_none_for_the_watch_and_for_a_listing(labels: Any) -> None:
    for kind, of, body in (("Job", ChildJob.of, child), ("Pod", ChildPod.of, running)):
        assert of(body(labels=labels)) is None
        assert identify(kind, body(labels=labels)) is None  # type: ignore[arg-type]


def test_an_object_that_changes_its_owner_leaves_the_one_before() -> None:
    cache = Cache()
    cache.put(ChildPod.of(running()))
    assert cache.put(ChildPod.of(running(labels={QJOB_UID_LABEL: "other"}, resourceVersion="31"))) == Key(
        "default", "other"
    )
    assert cache.record(KEY) is None
    assert cache.lose("Pod", running()["metadata"]["uid"]) == Key("default", "other")
    assert len(cache) == 0
    assert cache.put(ChildPod.of(running(resourceVersion="32"))) == KEY, "it may be somebody's again"


def test_a_uid_in_another_namespace_is_another_job() -> None:
    cache = Cache()
    for snapshot in (
        QuantizationJob.of(quantization_job()),
        ChildJob.of(child(namespace="evil")),
        ChildPod.of(running(namespace="evil")),
    ):
        cache.put(snapshot)
    mine, theirs = cache.record(KEY), cache.record(Key("evil", UID))
    assert mine is not None
    assert (mine.jobs, mine.pods) == ({}, {})
    assert theirs is not None
    assert theirs.qjob is None


def test_nothing_is_left_of_a_job_that_is_gone() -> None:
    cache = Cache()
    pod = ChildPod.of(running())
    for snapshot in (QuantizationJob.of(quantization_job()), ChildJob.of(child()), pod):
        cache.put(snapshot)
    assert cache.drop("QuantizationJob", UID) == KEY
    assert cache.drop("Job", JOB_UID) == KEY
    assert cache.drop("Pod", pod.uid) == KEY
    assert cache.drop("Pod", pod.uid) is None
    assert len(cache) == 0
    assert not any(cache.uids(kind) for kind in ("QuantizationJob", "Job", "Pod"))


def test_the_unfinished_are_known_without_a_look_at_all() -> None:
    cache = Cache()
    cache.put(ChildJob.of(child()))
    assert cache.unfinished() == [], "there is a Job, its QuantizationJob is not known yet"
    cache.put(QuantizationJob.of(quantization_job()))
    assert cache.unfinished() == [cache.record(KEY)]
    cache.put(
        QuantizationJob.of(
            quantization_job(status=condition_status("Ready", "Succeeded"), resourceVersion="11")
        )
    )
    assert cache.unfinished() == []
    cache.put(QuantizationJob.of(quantization_job(uid="other", name="other")))
    assert cache.unfinished() == [cache.record(Key("default", "other"))]
    cache.drop("QuantizationJob", "other")
    assert cache.unfinished() == []


def test_an_answer_that_comes_after_the_end_does_not_bring_the_dead_back() -> None:
    cache = Cache()
    cache.put(ChildJob.of(child(resourceVersion="100")))
    cache.drop("Job", JOB_UID)
    assert cache.put(ChildJob.of(child(resourceVersion="101"))) is None, (
        "the answer to our own deletion, late"
    )
    assert cache.find("Job", JOB_UID) is None
    other = ChildJob.of(child(uid="another", resourceVersion="102"))
    assert cache.put(other) == KEY
    cache.drop("Job", "never-seen")
    assert cache.put(ChildJob.of(child(uid="never-seen", resourceVersion="103"))) is None


def test_what_is_remembered_of_the_dead_is_bounded() -> None:
    cache = Cache()
    for number in range(REMEMBERED_DROPS + 10):
        cache.drop("Job", f"job-{number}")
    assert cache.put(ChildJob.of(child(uid="job-0"))) == KEY
    assert cache.put(ChildJob.of(child(uid="job-10"))) is None


def test_disruptions_are_remembered_when_their_pods_are_gone() -> None:
    cache = Cache()
    cache.put(ChildJob.of(child()))
    for name in ("a", "b"):
        pod = ChildPod.of(terminated(143, name=name, conditions=[disruption()]))
        cache.put(pod)
        cache.put(QuantizationJob.of(quantization_job(resourceVersion="1")))
        cache.drop("Pod", pod.uid)
    record = cache.record(KEY)
    assert record is not None
    assert len(record.disruptions) == 2


def test_a_finished_job_keeps_its_identity_and_no_texts() -> None:
    cache = Cache()
    cache.put(ChildPod.of(succeeded()))
    cache.put(QuantizationJob.of(quantization_job(status=condition_status("Ready", "Succeeded"))))
    record = cache.record(KEY)
    assert record is not None
    assert record.qjob is not None
    assert (record.qjob.spec, record.qjob.status) == ("", "")
    assert record.qjob.finished == "Succeeded"
    assert [pod.ended_message for pod in record.pods.values()] == [""]
    cache.put(ChildPod.of(succeeded(resourceVersion="31")))
    assert [pod.ended_message for pod in record.pods.values()] == [""]


def test_the_spec_is_kept_until_the_job_is_made() -> None:
    assert QuantizationJob.of(quantization_job()).spec
    assert not QuantizationJob.of(quantization_job(status=condition_status("Reconciling"))).spec


@pytest.mark.parametrize(
    ("status", "metadata", "changes", "found"),
    [
        (None, {}, (), True),
        (condition_status("Ready", "Succeeded"), {}, (), True),
        (condition_status("Stalled", "Internal"), {}, (), False),
        (condition_status("Stalled"), {"deletionTimestamp": CREATED, "finalizers": [FINALIZER]}, (), True),
        (None, {"namespace": "elsewhere"}, (), False),
        (None, {}, (("output.uri", "s3://artifacts/elsewhere"),), False),
        (None, {}, (("output.uri", "s3://artifacts/stories15m-gptq/"),), True),
        (None, {}, (("storage.endpoint", "http://another"),), False),
        (None, {}, (("managedBy", "kueue.x-k8s.io/multikueue"),), False),
    ],
    ids=[
        "unfinished",
        "succeeded",
        "failed",
        "failed, but its artifact is being removed",
        "another namespace",
        "another output",
        "the same output, with a slash",
        "another server",
        "another controller's",
    ],
)
def test_jobs_with_the_same_output_are_found(
    status: dict[str, Any] | None, metadata: dict[str, Any], changes: Any, found: bool
) -> None:
    cache, me = Cache(), QuantizationJob.of(quantization_job())
    cache.put(me)
    assert cache.peers(me) == ()
    cache.put(
        QuantizationJob.of(
            quantization_job(*changes, status=status, **({"uid": "other", "name": "other"} | metadata))
        )
    )
    assert [peer.name for peer in cache.peers(me)] == (["other"] if found else [])
    cache.drop("QuantizationJob", "other")
    assert cache.peers(me) == ()


def test_a_job_leaves_its_output_when_it_fails() -> None:
    cache, me = Cache(), QuantizationJob.of(quantization_job())
    cache.put(QuantizationJob.of(quantization_job(uid="other", name="other")))
    (peer,) = cache.peers(me)
    assert not peer.has_job
    assert peer.spec
    cache.put(ChildJob.of(child(uid="foreign", labels={QJOB_UID_LABEL: "other"})))
    (peer,) = cache.peers(me)
    assert not peer.has_job, "a Job that it does not control is none of its own"
    owners = controlled_by("QuantizationJob", "other", "other")
    cache.put(ChildJob.of(child(labels={QJOB_UID_LABEL: "other"}, ownerReferences=owners)))
    (peer,) = cache.peers(me)
    assert peer.has_job
    failed = condition_status("Stalled", "Internal")
    cache.put(
        QuantizationJob.of(quantization_job(uid="other", name="other", resourceVersion="11", status=failed))
    )
    assert cache.peers(me) == ()


def test_of_a_job_that_succeeded_its_end_is_known_and_nothing_that_takes_room() -> None:
    cache, me = Cache(), QuantizationJob.of(quantization_job())
    done = condition_status("Ready", "Succeeded", completionTime=ENDED)
    cache.put(QuantizationJob.of(quantization_job(uid="other", name="other", status=done)))
    (peer,) = cache.peers(me)
    assert (peer.finished, peer.completed, peer.spec) == (True, datetime.fromisoformat(ENDED), "")


def volume(claim: str) -> dict[str, Any]:
    return {"name": "out", "mountPath": "/out", "persistentVolumeClaim": {"claimName": claim}}


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({}, ""),
        ({"output": "s3://a/b"}, ""),
        ({"output": {"uri": "s3://a/b"}}, " s3://a/b"),
        ({"output": {"uri": "file:///out/x"}, "template": {"volumes": [volume("c")]}}, "c x/"),
        ({"output": {"uri": "file:///outer/x"}, "template": {"volumes": [volume("c")]}}, ""),
        ({"output": {"uri": "file:///out/x"}, "template": {"volumes": ["c"]}}, ""),
    ],
)
def test_a_place_is_what_tells_two_outputs_apart(spec: dict[str, Any], place: str) -> None:
    assert place_of(spec) == place


def test_a_pod_that_its_failing_job_ends_is_no_disruption() -> None:
    """Of several workers one failed for good; the others are told to end before the Job says that it has failed."""
    gives_up = {"conditions": [{"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy"}]}
    for status, expected in ((gives_up, 0), ({}, 1)):
        cache = Cache()
        cache.put(QuantizationJob.of(quantization_job(status={"jobUid": JOB_UID})))
        cache.put(ChildJob.of(child(workers=2, status=status)))
        cache.put(ChildPod.of(terminated(143)))
        record = cache.record(Key("default", UID))
        assert record is not None
        assert len(record.disruptions) == expected


def test_a_pod_that_a_pause_ends_is_no_disruption() -> None:
    for suspend, expected in ((True, 0), (False, 1)):
        cache = Cache()
        cache.put(QuantizationJob.of(quantization_job(("suspend", suspend))))
        cache.put(ChildJob.of(child()))
        cache.put(ChildPod.of(terminated(143)))
        record = cache.record(KEY)
        assert record is not None
        assert len(record.disruptions) == expected


PAUSED = {key: value for key, value in condition_status("Suspended").items() if key != "jobName"}
ON_AGAIN = quantization_job(status=PAUSED | {"observedGeneration": 2}, generation=3)


@pytest.mark.parametrize(
    ("qjob", "first", "expected"),
    [
        (quantization_job(status=condition_status("Reconciling")), child(), 1),
        (quantization_job(), child(), 1),
        (ON_AGAIN, child(generation=3), 1),
        (ON_AGAIN, child(generation=1), 0),
        (ON_AGAIN, child(deletionTimestamp=CREATED), 0),
        (ON_AGAIN, None, 0),
        (quantization_job(("suspend", True)), child(), 0),
    ],
    ids=["runs", "before its status", "after a pause", "from before a pause", "going", "gone", "paused"],
)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_pod_is_disrupted_when_its_job_goes_on(
    qjob: dict[str, Any], first: dict[str, Any] | None, expected: int, order: tuple[int, ...]
) -> None:
    cache = Cache()
    told = [QuantizationJob.of(qjob), ChildJob.of(first) if first else None, ChildPod.of(terminated(143))]
    for snapshot in (told[which] for which in order):
        if snapshot is not None:
            cache.put(snapshot)
    record = cache.record(KEY)
    assert record is not None
    assert len(record.disruptions) == expected


def test_a_pod_whose_job_is_gone_is_not_counted_when_that_is_told_late() -> None:
    cache = Cache()
    cache.put(QuantizationJob.of(ON_AGAIN))
    cache.put(ChildJob.of(child(deletionTimestamp=CREATED)))
    cache.put(ChildPod.of(running()))
    cache.drop("Job", JOB_UID)
    cache.put(ChildPod.of(terminated(143, resourceVersion="99", conditions=[disruption()])))
    record = cache.record(KEY)
    assert record is not None
    assert not record.disruptions


def test_pods_of_a_job_from_before_a_pause_are_not_those_of_the_next() -> None:
    old = ChildPod.of(terminated(66, name="old", ownerReferences=[{"uid": "before", "controller": True}]))
    new = ChildPod.of(running(name="new"))
    assert pods_of(ChildJob.of(child()), [old, new]) == (new,)
    assert pods_of(None, [old, new]) == ()


def test_the_spec_is_kept_while_it_is_needed_to_clean_up() -> None:
    done = condition_status("Ready", "Succeeded")
    going = {"deletionTimestamp": CREATED, "finalizers": [FINALIZER]}
    assert not QuantizationJob.of(quantization_job(status=done, finalizers=[FINALIZER])).spec
    kept = QuantizationJob.of(quantization_job(status=done, **going))
    assert kept.spec
    assert kept.status


def listing(version: int, **objects: int) -> Listing:
    return Listing({uid: Listed(KEY, "job", rv) for uid, rv in objects.items()}, version)


def test_a_sweep_sees_what_the_watch_missed() -> None:
    cache = Cache()
    cache.put(ChildJob.of(child(resourceVersion="50")))
    uid = JOB_UID
    assert late(cache, "Job", listing(60, **{uid: 50})) == []
    assert [listed.resource_version for listed in late(cache, "Job", listing(60, **{uid: 55}))] == [55]
    assert [listed.name for listed in late(cache, "Job", listing(60, **{uid: 50, "other": 1}))] == ["job"]


def test_what_was_deleted_is_nothing_that_the_watch_missed() -> None:
    cache = Cache()
    cache.put(ChildJob.of(child(resourceVersion="50")))
    cache.drop("Job", JOB_UID)
    assert late(cache, "Job", listing(60, **{JOB_UID: 55})) == []


def test_a_sweep_sees_what_is_gone_but_not_what_is_newer_than_its_listing() -> None:
    cache = Cache()
    cache.put(ChildJob.of(child(resourceVersion="50")))
    assert ghosts(cache, "Job", listing(60)) == [JOB_UID]
    assert ghosts(cache, "Job", listing(49)) == []
    assert ghosts(cache, "Job", listing(60, **{JOB_UID: 50})) == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, ""),
        (ended("Complete"), "Complete"),
        (ended("Failed", "BackoffLimitExceeded"), "Failed"),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}]}, ""),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, ""),
        ({"conditions": [{"type": "Failed", "status": "False"}]}, ""),
    ],
)
def test_only_a_final_condition_ends_a_job(status: dict[str, Any], expected: str) -> None:
    assert ChildJob.of(child(status=status)).ended == expected


@pytest.mark.parametrize(("going", "counted"), [({}, 1), ({"deletionTimestamp": CREATED}, 0)])
def test_a_pod_that_a_pause_ended_is_no_disruption_when_the_pause_is_over(
    going: dict[str, Any], counted: int
) -> None:
    cache = Cache()
    for snapshot in (
        QuantizationJob.of(quantization_job()),
        ChildJob.of(child(**going)),
        ChildPod.of(terminated(143)),
    ):
        cache.put(snapshot)
    record = cache.record(KEY)
    assert record is not None
    assert len(record.disruptions) == counted


@pytest.mark.parametrize(
    ("parts", "presses"),
    [
        ([], False),
        ([QuantizationJob.of(quantization_job())], True),
        ([QuantizationJob.of(quantization_job()), ChildJob.of(child())], False),
        ([ChildJob.of(child())], False),
        (
            [
                QuantizationJob.of(
                    quantization_job(status={**condition_status("Reconciling"), "jobName": "job-0"})
                )
            ],
            False,
        ),
        ([QuantizationJob.of(quantization_job()), ChildJob.of(child(status=ended("Complete")))], True),
        ([QuantizationJob.of(quantization_job(status=condition_status("Stalled")))], False),
        (
            [
                QuantizationJob.of(quantization_job(status=condition_status("Ready"))),
                ChildJob.of(child(status=ended("Complete"))),
            ],
            False,
        ),
    ],
)
def test_the_first_job_and_the_end_press_what_is_between_does_not(parts: list[Any], presses: bool) -> None:
    cache = Cache()
    for part in parts:
        cache.put(part)
    assert cache.presses(KEY) is presses
