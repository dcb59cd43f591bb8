"""The faults of the schedules are there, every kind of them, and the same each time."""

import itertools

import pytest
from tests.support.fault_plan import KINDS, SILENT_CONNECTIONS, Fault, fault, kinds, watch_faults

pytestmark = pytest.mark.unit

CONNECTIONS = 8
"""Three watches, begun anew by a restart and by faults of their own: more than any batch has."""


def planned(schedule: int, number: int) -> Fault | None:
    return fault(f"seed s{schedule:04}", number, "PATCH", "/x/status")


@pytest.mark.parametrize("first", [0, 20, 460])
def test_twenty_schedules_meet_every_kind_among_their_first_requests(first: int) -> None:
    found = [planned(schedule, number) for schedule in range(first, first + 20) for number in range(1, 6)]
    assert {hit.kind for hit in found if hit} == set(KINDS)


def test_the_first_watches_meet_every_kind_among_their_first_events() -> None:
    met = {
        f"watch: {hit}"
        for connection in range(1, CONNECTIONS)
        for hit in itertools.islice(watch_faults("seed", connection), 4)
        if hit
    }
    assert met == kinds() - set(KINDS) - {"watch: silence"}


def test_a_watch_falls_silent_where_it_is_said_and_nowhere_when_it_must_not() -> None:
    silent = {c for c in range(30) if "silence" in itertools.islice(watch_faults("seed", c), 500)}
    assert silent == set(SILENT_CONNECTIONS)
    for connection in SILENT_CONNECTIONS:
        assert "silence" not in itertools.islice(watch_faults("seed", connection, silences=False), 500)
    assert "watch: silence" not in kinds(silences=False)


def test_a_plan_is_the_same_each_time() -> None:
    assert [planned(7, n) for n in range(30)] == [planned(7, n) for n in range(30)]
    first, again = (list(itertools.islice(watch_faults("seed", 3), 100)) for _ in range(2))
    assert first == again
