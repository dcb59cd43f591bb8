"""Jobs that wait for a moment, for patience to end or an end to expire, with a clock that is right or that jumps."""

from datetime import timedelta

import pytest
from tests.support.storm import Storm
from tests.support.storm_judge import EXPIRY_SECONDS, PATIENCE, TTL_SECONDS

pytestmark = pytest.mark.unit

HOUR = timedelta(hours=1)
A_LOOK = 20.0
"""Seconds within which a job that does not get on is looked at again."""


def phase(storm: Storm, uid: str) -> str:
    """The phase as written; "" when the object is gone."""
    body = storm.server.objects["QuantizationJob"].get(uid, {})
    return str(body.get("status", {}).get("phase", ""))


def passes(storm: Storm, seconds: float) -> None:
    storm.time_passes(seconds, "gets on")
    storm.nothing_expires_early()
    storm.statuses_hold()


def waiting() -> tuple[Storm, str]:
    """A job whose image cannot be pulled, and the operator knows."""
    storm = Storm()
    uid = storm.cluster.submit("job", has_image=False)
    for _ in range(3):
        passes(storm, 1)
    reasons = {c["reason"] for c in storm.server.objects["QuantizationJob"][uid]["status"]["conditions"]}
    assert reasons == {"ImagePullFailed"}
    return storm, uid


def ended() -> tuple[Storm, str]:
    """A job that has succeeded and will expire."""
    storm = Storm()
    uid = storm.cluster.submit("job", ("ttlSecondsAfterFinished", TTL_SECONDS))
    for _ in range(3):
        storm.goes_on("gets on")
    (pod,) = storm.server.objects["Pod"]
    storm.cluster.end(pod, "success")
    storm.goes_on("gets on")
    assert phase(storm, uid) == "Succeeded"
    return storm, uid


def test_patience_with_an_image_ends_when_it_must_and_not_before() -> None:
    storm, uid = waiting()
    passes(storm, PATIENCE.total_seconds() - 10)
    assert phase(storm, uid) == "Pending"
    passes(storm, A_LOOK)
    assert phase(storm, uid) == "Failed"
    storm.teardown()


def test_an_image_that_comes_in_time_ends_the_wait() -> None:
    storm, uid = waiting()
    storm.cluster.without_image.clear()
    storm.goes_on("gets on")
    passes(storm, 2 * PATIENCE.total_seconds())
    assert phase(storm, uid) == "Running"
    storm.teardown()


def test_an_end_expires_when_its_time_has_come_and_not_before() -> None:
    storm, uid = ended()
    passes(storm, TTL_SECONDS - 2)
    assert phase(storm, uid) == "Succeeded"
    passes(storm, 3)
    assert phase(storm, uid) == ""
    storm.teardown()


def test_a_clock_that_jumps_ahead_brings_the_expiry_forward_and_nothing_else() -> None:
    storm, uid = ended()
    running = storm.cluster.submit("running", ("ttlSecondsAfterFinished", TTL_SECONDS))
    storm.goes_on("gets on")
    storm.jump(HOUR)
    passes(storm, TTL_SECONDS)
    assert phase(storm, uid) == ""
    assert phase(storm, running) == "Running"
    storm.teardown()


def test_a_clock_that_jumps_back_puts_the_expiry_off_and_not_away() -> None:
    storm, uid = ended()
    storm.jump(-HOUR)
    passes(storm, 2 * TTL_SECONDS)
    assert phase(storm, uid) == "Succeeded"
    storm.jump(timedelta())
    passes(storm, EXPIRY_SECONDS)
    assert phase(storm, uid) == ""
    storm.teardown()
