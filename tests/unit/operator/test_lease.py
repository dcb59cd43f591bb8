"""At most one process leads, however late, lost or paused anything is; and soon another, when one is gone."""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quantization_operator.lease import LeaseRecord, Timing, View, written
from quantization_operator.settings import OperatorSettings

pytestmark = pytest.mark.unit

TIMING = Timing(duration=15, renew_deadline=10.0, interval=1.5)
ME, OTHER = "me", "other"


def record(holder: str, version: str = "1", duration: float = 15) -> LeaseRecord:
    return LeaseRecord(version, holder, duration)


def follower(seen: LeaseRecord | None = None, seen_at: float | None = 100.0, current: bool = True) -> View:
    return View(ME, TIMING, seen, seen_at, None, current)


MINE = record(ME)


def leader(seen: LeaseRecord | None = MINE, current: bool = True) -> View:
    return View(ME, TIMING, seen, seen_at=100.0, renewed_at=100.0, current=current)


CASES: dict[str, tuple[View, float, str]] = {
    "nothing is known yet": (follower(None, None, current=False), 100, "read"),
    "there never was a lease": (follower(None, None), 100, "write"),
    "another has it": (follower(record(OTHER)), 101, "wait"),
    "another has it, just not over": (follower(record(OTHER)), 114.9, "wait"),
    "another is silent for the duration": (follower(record(OTHER)), 115, "write"),
    "after a wait the next decision needs a look": (follower(record(OTHER)).not_current(), 200, "read"),
    "the duration that its holder was promised counts": (follower(record(OTHER, duration=30)), 129, "wait"),
    "a shorter one in the record does not": (follower(record(OTHER, duration=1)), 114, "wait"),
    "it was released": (follower(record("", duration=1)), 100, "write"),
    "it was taken, but the answer was lost": (follower(record(ME)), 100, "write"),
    "it was deleted by hand after it had been seen": (follower(None), 114, "wait"),
    "and is still gone": (follower(None), 115, "write"),
    "leads, and renews": (leader(), 101.5, "write"),
    "leads, and a renewal failed": (leader(current=False), 105, "read"),
    "leads, until the deadline": (leader(), 109.9, "write"),
    "the deadline passed without a renewal": (leader(), 110, "lost"),
    "and is not looked up any more": (leader(current=False), 110, "lost"),
    "another took it": (leader(record(OTHER)), 101, "lost"),
    "somebody deleted it": (leader(None), 101, "lost"),
    "somebody emptied it": (leader(record("")), 101, "lost"),
    "what was seen before the last failure decides nothing": (
        leader(record(OTHER), current=False),
        101,
        "read",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_next_action(name: str) -> None:
    view, now, action = CASES[name]
    assert view.action(now) == action


@pytest.mark.parametrize(("now", "seconds"), [(100, 12.5), (102, 10.5), (109.9, 2.6), (110, 0), (112, 0)])
def test_a_write_is_started_before_the_deadline_and_ends_before_the_lease(now: float, seconds: float) -> None:
    assert leader().write_seconds(now) == pytest.approx(seconds)
    assert leader().leads(now) == (seconds > 0)


def test_who_does_not_lead_may_not_write() -> None:
    for view in (follower(record(ME)), follower(), leader().released()):
        assert view.write_seconds(100) == 0


def test_the_time_of_a_leader_begins_before_its_request_and_that_of_others_after_their_answer() -> None:
    assert follower(None, None).was_written(record(ME), sent=100, now=103).renewed_at == 100
    seen = follower(record(OTHER)).was_read(record(OTHER, "2"), 108)
    assert (seen.seen_at, seen.action(115)) == (108, "wait")
    assert seen.was_read(record(OTHER, "2"), 120).seen_at == 108, "no news"


def test_a_lease_that_is_missed_is_left_its_time_from_then_on() -> None:
    missed = follower(record(OTHER)).was_read(None, 114)
    assert (missed.action(128), missed.action(129)) == ("wait", "write")
    assert missed.was_read(None, 120).seen_at == 114


NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
STORED = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {
        "name": "l",
        "namespace": "n",
        "resourceVersion": "7",
        "labels": {"a": "b"},
        "managedFields": [{"manager": "x"}],
    },
    "spec": {
        "holderIdentity": OTHER,
        "leaseDurationSeconds": 15,
        "leaseTransitions": 3,
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "renewTime": "2026-01-01T00:00:00.000000Z",
    },
}


def sent(view: View, **more: Any) -> dict[str, Any]:
    return written(view, "n", "l", NOW, **more)


def test_a_new_lease_names_its_holder() -> None:
    body = sent(follower(None, None))
    assert body["metadata"] == {"namespace": "n", "name": "l"}
    assert body["spec"] == {
        "holderIdentity": ME,
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "acquireTime": "2026-01-02T03:04:05.000678Z",
        "renewTime": "2026-01-02T03:04:05.000678Z",
    }


def test_taking_over_writes_over_the_version_that_was_seen_and_keeps_labels() -> None:
    body = sent(follower(LeaseRecord.of(STORED)))
    assert body["metadata"] == {"name": "l", "namespace": "n", "resourceVersion": "7", "labels": {"a": "b"}}
    assert (body["spec"]["holderIdentity"], body["spec"]["leaseTransitions"]) == (ME, 4)
    assert body["spec"]["acquireTime"] == body["spec"]["renewTime"]


def test_a_renewal_is_no_transition() -> None:
    mine = {**STORED, "spec": {**STORED["spec"], "holderIdentity": ME}}  # type: ignore[dict-item]
    body = sent(leader(LeaseRecord.of(mine)))
    assert body["spec"]["leaseTransitions"] == 3
    assert body["spec"]["acquireTime"] == "2026-01-01T00:00:00.000000Z"
    assert body["spec"]["renewTime"] == "2026-01-02T03:04:05.000678Z"


def test_a_released_lease_has_no_holder() -> None:
    body = sent(leader(), release=True)
    assert "holderIdentity" not in body["spec"]
    stored = {**body, "metadata": {**body["metadata"], "resourceVersion": "9"}}
    assert follower(LeaseRecord.of(stored)).action(100) == "write"


@pytest.mark.parametrize(
    "written_at",
    [
        "1970-01-01T00:00:00.000000Z",
        "2026-01-01T00:00:00.000000Z",
        "2999-01-01T00:00:00.000000Z",
        "soon",
        None,
    ],
)
def test_the_times_in_a_lease_are_for_people(written_at: str | None) -> None:
    spec = STORED["spec"] | {"renewTime": written_at, "acquireTime": written_at}  # type: ignore[operator]
    seen = follower(None, None).was_read(LeaseRecord.of(STORED | {"spec": spec}), 100)
    assert [seen.action(now) for now in (100, 114, 115)] == ["wait", "wait", "write"]
    assert sent(seen)["spec"]["renewTime"] == "2026-01-02T03:04:05.000678Z"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"lease_duration_seconds": 10}, "lease_renew_deadline_seconds"),
        ({"lease_interval_seconds": 5}, "lease_interval_seconds"),
        ({"lease_duration_seconds": 0}, "lease_duration_seconds"),
    ],
)
def test_times_that_promise_nothing_are_refused(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError) as error:
        OperatorSettings(**values)
    assert name in [item["loc"][0] for item in error.value.errors()]


# --- two processes, one API server, a bad network, and clocks of their own ------------------------------------

Fate = tuple[float, float, str, float]
"""Of a request: seconds to the server, seconds back, what is lost, seconds that the process is stopped after it."""
CALM: Fate = (0.01, 0.01, "fine", 0.0)


def bad_luck(seed: int) -> Iterator[Fate]:
    """Calm most of the time, or nobody would ever lead; then slow, lossy, or stopped for longer than the lease."""
    dice = random.Random(seed)
    while True:
        yield (
            CALM
            if dice.random() < 0.7
            else (
                dice.choice([0.0, 0.5, 2.0, 9.0, 16.0, 40.0]),
                dice.choice([0.0, 0.5, 2.0, 9.0, 16.0]),
                dice.choice(["fine", "fine", "request lost", "answer lost"]),
                dice.choice([0.0, 0.0, 5.0, 9.0, 11.0, 16.0, 20.0]),
            )
        )


@dataclass
class Process:
    """A candidate with a clock of its own, which runs a little fast or slow.

    stands_still: the clock does, while the process is stopped, as CLOCK_MONOTONIC does while the machine sleeps.
    stops: when it was stopped, from and until.
    """

    view: View
    offset: float
    rate: float
    fates: Iterator[Fate]
    again: Callable[[], "Process"] | None = None
    ended: bool = False
    stands_still: bool = False
    stops: list[tuple[float, float]] = field(default_factory=list)

    def clock(self, time: float) -> float:
        stopped = sum(max(0.0, min(time, until) - since) for since, until in self.stops)
        return self.offset + self.rate * (time - stopped if self.stands_still else time)

    def awake(self, time: float) -> bool:
        """What sleeps with its machine does nothing; what is only stopped may have a request under way."""
        return not self.stands_still or not any(since < time < until for since, until in self.stops)

    def writing(self, time: float) -> bool:
        """A write that it started in time may be under way, also when it has ended since."""
        since = self.view.renewed_at
        return since is not None and self.awake(time) and self.clock(time) < since + TIMING.writes_end


@dataclass
class World:
    """Events in their order. A request that gets no answer within its timeout may still arrive later."""

    processes: list[Process]
    stored: LeaseRecord | None = None
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    events: list[tuple[float, int, Any]] = field(default_factory=list)
    order: Iterator[int] = field(default_factory=itertools.count)
    leaders: list[tuple[float, int]] = field(default_factory=list)

    def at(self, time: float, do: Any) -> None:
        heapq.heappush(self.events, (time, next(self.order), do))

    def run(self, seconds: float) -> None:
        for process in self.processes:
            self.at(0.0, lambda time, process=process: self.step(process, time))
        while self.events:
            time, _, do = heapq.heappop(self.events)
            if time > seconds:
                return
            do(time)
            self.check(time)

    def start(self, process: Process, time: float) -> None:
        """The kubelet starts a new process in place of one that has ended; it has another identity."""
        self.processes.append(process)
        self.step(process, time)

    def check(self, time: float) -> None:
        leading = [
            i
            for i, p in enumerate(self.processes)
            if not p.ended and p.awake(time) and p.view.leads(p.clock(time))
        ]
        assert len(leading) <= 1, f"two lead at {time}"
        if leading and (not self.leaders or self.leaders[-1][1] != leading[0]):
            self.leaders.append((time, leading[0]))
            for i, other in enumerate(self.processes):
                assert i == leading[0] or not other.writing(time), (
                    f"a write of another is under way at {time}"
                )

    def step(self, process: Process, time: float) -> None:
        """As `Leadership` does it."""
        if process.ended:
            return
        now = process.clock(time)
        action = process.view.action(now)
        if action == "lost":
            process.ended = True
            if process.again is not None:
                fresh = process.again()
                self.at(time + 1, lambda t: self.start(fresh, t))
        elif action == "wait":
            pause = max(0.2, min(TIMING.interval, process.view.patience(now)))
            process.view = process.view.not_current()
            self.at(time + pause / process.rate, lambda t: self.step(process, t))
        else:
            self.request(process, time, now, action)

    def request(self, process: Process, time: float, now: float, action: str) -> None:
        there, back, fate, stop = next(process.fates)
        body = None
        if action == "write":
            body = written(process.view, "n", "l", NOW)
        answers: list[tuple[bool, LeaseRecord | None]] = []
        if fate != "request lost":
            self.at(time + there, lambda _: answers.append(self.serve(body)))
        in_time = fate == "fine" and there + back < TIMING.request_timeout
        answer = time + (there + back if in_time else TIMING.request_timeout)
        heard = answer + stop
        if stop:
            process.stops.append((answer, heard))

        def answered(time: float) -> None:
            wait = 0.2
            if in_time and answers[0][0] and body is None:
                process.view, wait = process.view.was_read(answers[0][1], process.clock(time)), 0.0
            elif in_time and answers[0][0] and answers[0][1] is not None:
                process.view = process.view.was_written(answers[0][1], now, process.clock(time))
                wait = TIMING.interval
            else:
                process.view = process.view.not_current()
            self.at(time + wait / process.rate, lambda t: self.step(process, t))

        self.at(heard, answered)

    def serve(self, body: dict[str, Any] | None) -> tuple[bool, LeaseRecord | None]:
        """The API server: reads, and writes over the version that is stored, or nothing."""
        if body is None:
            return True, self.stored
        over = body["metadata"].get("resourceVersion")
        if over != (self.stored.version if self.stored else None):
            return False, None
        version = str(next(self.versions))
        self.stored = LeaseRecord.of({**body, "metadata": {**body["metadata"], "resourceVersion": version}})
        return True, self.stored


def process(name: str, fates: Iterator[Fate], offset: float = 0.0, rate: float = 1.0) -> Process:
    return Process(View(name, TIMING), offset, rate, fates)


def restarting(name: str, fates: Iterator[Fate], offset: float, rate: float) -> Process:
    """A process that comes back whenever it has ended."""
    made = process(name, fates, offset, rate)
    made.again = lambda: restarting(name + "'", fates, offset, rate)
    return made


RATES = st.sampled_from([0.95, 1.0, 1.05])


@settings(max_examples=150, deadline=None)
@given(st.integers(), st.integers(), st.floats(-1e6, 1e6), RATES, RATES)
def test_never_do_two_lead_at_once(one: int, two: int, offset: float, slow: float, fast: float) -> None:
    first = restarting("one", bad_luck(one), 0.0, slow)
    second = restarting("two", bad_luck(two), offset, fast)
    World([first, second]).run(2000)


def test_the_simulated_bad_luck_makes_leaders_change_often() -> None:
    world = World([restarting(name, bad_luck(seed), 0.0, 1.0) for name, seed in (("one", 1), ("two", 2))])
    world.run(2000)
    assert len(world.leaders) > 15


def test_with_a_clock_that_stands_still_while_the_machine_sleeps_two_would_lead() -> None:
    """Why the clock is `seconds_since_boot`: the same world, with it, has one leader after the other."""

    def world(stands_still: bool) -> World:
        naps = itertools.chain([CALM] * 20, [(0.01, 0.01, "fine", 60.0)], itertools.repeat(CALM))
        first = process("one", naps)
        first.stands_still = stands_still
        return World([first, process("two", itertools.repeat(CALM))])

    right = world(stands_still=False)
    right.run(200)
    assert [who for _, who in right.leaders] == [0, 1]
    with pytest.raises(AssertionError, match="two lead"):
        world(stands_still=True).run(200)


def test_of_two_on_a_good_network_the_first_leads_for_ever() -> None:
    world = World(
        [process("one", itertools.repeat(CALM)), process("two", itertools.repeat(CALM), offset=-500)]
    )
    world.run(1000)
    assert [who for _, who in world.leaders] == [0]


def test_without_its_leader_another_goes_on_within_17_seconds() -> None:
    dying = [CALM] * 20 + [(0.0, 0.0, "request lost", 1e9)]
    world = World([process("one", iter(dying)), process("two", itertools.repeat(CALM), offset=9e5)])
    world.run(200)
    died = max(t for t, who in world.leaders if who == 0) + 19 * (TIMING.interval + 0.02)
    (_, first), (taken, second) = world.leaders
    assert (first, second) == (0, 1)
    assert 10 < taken - died < 17 + TIMING.interval
