"""What a recording of a status keeps, and what of it belongs to one run only."""

import copy
from typing import Any

import pytest
from tests.support.scrubbing import scrubbed

pytestmark = pytest.mark.unit

JOB = "small-0a1b2c3d4e"
FIRST, SECOND = f"{JOB}-x7k2p", f"{JOB}-b4m9q"


def uid(number: int) -> str:
    return f"{number:08d}-1111-4222-8333-444444444444"


def picture() -> dict[str, Any]:
    """A Job with two pods, of which one is told of in an event only."""
    return {
        "job": {
            "metadata": {
                "name": JOB,
                "uid": uid(7),
                "resourceVersion": "4711",
                "creationTimestamp": "2026-11-28T05:00:00Z",
                "managedFields": [{"manager": "kopf"}],
            },
            "spec": {"backoffLimit": 3, "template": {"spec": {}}},
            "status": {"startTime": "2026-11-28T05:00:01Z"},
        },
        "pods": [
            {
                "metadata": {
                    "name": FIRST,
                    "uid": uid(8),
                    "creationTimestamp": "2026-11-28T05:00:02Z",
                    "ownerReferences": [{"uid": uid(7), "name": JOB}],
                },
                "spec": {
                    "nodeName": "local",
                    "containers": [
                        {
                            "image": f"localhost:5000/quantizer@sha256:{'c' * 64}",
                            "env": [{"name": "QUANTIZATION_REQUEST", "value": "who owns it"}],
                        }
                    ],
                },
                "status": {"phase": "Failed", "podIP": "10.251.3.4", "hostIP": "10.252.0.1"},
            }
        ],
        "events": [
            {
                "metadata": {"name": f"{SECOND}.18a2b3", "uid": uid(9)},
                "message": f"dial tcp 10.96.7.1:443: pod {SECOND} of 10.251.3.4 in 1.36.3",
                "eventTime": "2026-11-28T05:01:02.345678Z",
                "source": {"host": "a-machine"},
                "reportingInstance": "default-scheduler-a-machine",
                "involvedObject": {"uid": uid(8), "name": FIRST},
            }
        ],
    }


def test_names_uids_and_addresses_are_numbered_and_still_refer_to_one_another() -> None:
    kept = scrubbed(picture())
    job, (pod,), (event,) = kept["job"], kept["pods"], kept["events"]
    assert job["metadata"]["name"] == "small-0123456789"
    assert job["metadata"]["uid"] == "00000000-0000-4000-8000-000000000001"
    assert pod["metadata"]["name"] == "small-0123456789-00001"
    assert pod["metadata"]["ownerReferences"] == [
        {"uid": job["metadata"]["uid"], "name": job["metadata"]["name"]}
    ]
    assert event["involvedObject"] == {"uid": pod["metadata"]["uid"], "name": pod["metadata"]["name"]}
    assert event["message"] == "dial tcp 192.0.2.3:443: pod small-0123456789-00002 of 192.0.2.1 in 1.36.3"
    assert pod["status"]["podIP"] == "192.0.2.1"
    assert pod["spec"]["containers"][0]["image"].endswith("@sha256:" + f"{1:064d}")


def test_times_keep_their_distances() -> None:
    kept = scrubbed(picture())
    assert kept["job"]["metadata"]["creationTimestamp"] == "2026-01-01T10:00:00Z"
    assert kept["job"]["status"]["startTime"] == "2026-01-01T10:00:01Z"
    assert kept["events"][0]["eventTime"] == "2026-01-01T10:01:02.345678Z"


def test_what_somebody_else_should_not_read_is_left_out() -> None:
    kept = str(scrubbed(picture()))
    for private in ("who owns it", "a-machine", "kopf", "4711", "x7k2p", "b4m9q", "template"):
        assert private not in kept
    assert "QUANTIZATION_REQUEST" in kept


def test_two_recordings_of_one_state_are_the_same() -> None:
    other = copy.deepcopy(picture())
    other["job"]["metadata"] |= {"resourceVersion": "9", "uid": uid(1)}
    other["pods"][0]["metadata"]["ownerReferences"][0]["uid"] = uid(1)
    other["pods"][0]["status"]["podIP"] = "10.251.9.9"
    other["events"][0]["message"] = other["events"][0]["message"].replace("10.251.3.4", "10.251.9.9")
    assert scrubbed(other) == scrubbed(picture())


def test_the_picture_itself_is_not_changed() -> None:
    given = picture()
    scrubbed(given)
    assert given == picture()
