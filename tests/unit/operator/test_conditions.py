"""kstatus reads every state as what it is."""

from datetime import UTC, datetime
from typing import Literal

import pytest

from quantization_api.status import Condition, Phase
from quantization_operator.conditions import State, conditions, phase

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)

STATES: list[tuple[State, Phase, str]] = [
    (State("in progress", "Starting", "x"), "Pending", "InProgress"),
    (State("in progress", "Queued", "x"), "Queued", "InProgress"),
    (State("in progress", "Preempted", "x"), "Queued", "InProgress"),
    (State("in progress", "Running", "x"), "Running", "InProgress"),
    (State("in progress", "ImagePullFailed", "x"), "Pending", "InProgress"),
    (State("succeeded", "Succeeded", "x"), "Succeeded", "Current"),
    (State("failed", "HostOutOfMemory", "x"), "Failed", "Failed"),
    (State("suspended", "Suspended", "x"), "Suspended", "InProgress"),
]


def kstatus(generation: int, observed: int, items: list[Condition]) -> str:
    """What kstatus computes for a custom resource that exists (cli-utils, pkg/kstatus/status/generic.go)."""
    if observed != generation:
        return "InProgress"
    true: set[Literal["Ready", "Reconciling", "Stalled", "Suspended"]] = {
        c.type for c in items if c.status == "True"
    }
    if "Reconciling" in true:
        return "InProgress"
    if "Stalled" in true:
        return "Failed"
    if any(c.type == "Ready" and c.status != "True" for c in items):
        return "InProgress"
    return "Current"


@pytest.mark.parametrize(("state", "shown", "read"), STATES)
def test_a_state_is_read_by_kstatus_and_shown_as_a_phase(state: State, shown: Phase, read: str) -> None:
    items = conditions(state, 3, [], NOW)
    assert phase(items) == shown
    assert kstatus(3, 3, items) == read
    assert kstatus(4, 3, items) == "InProgress"
    assert {c.observed_generation for c in items} == {3}
    assert sum(c.status == "True" for c in items) == 1


def test_transition_times_move_only_when_a_condition_turns() -> None:
    first = conditions(State("in progress", "Starting", "x"), 1, [], NOW)
    second = conditions(State("in progress", "Running", "y"), 1, first, LATER)
    assert {c.last_transition_time for c in second} == {"2026-01-01T00:00:00Z"}
    third = {c.type: c for c in conditions(State("succeeded", "Succeeded", "z"), 1, second, LATER)}
    assert third["Ready"].last_transition_time == "2026-01-02T00:00:00Z"
    assert third["Reconciling"].last_transition_time == "2026-01-02T00:00:00Z"
    assert third["Stalled"].last_transition_time == "2026-01-01T00:00:00Z"


def test_a_long_message_fits() -> None:
    assert all(
        len(c.message) <= 1024 for c in conditions(State("failed", "Internal", "x" * 5000), 1, [], NOW)
    )
