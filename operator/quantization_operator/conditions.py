"""The state of a job as kstatus conditions, and the phase that is derived from them for people.

    state        Ready   Reconciling   Stalled    kstatus reads
    in progress  False   True          False      InProgress
    succeeded    True    False         False      Current
    failed       False   False         True       Failed
    suspended    False   False         False      InProgress

The fourth condition, Suspended, is True only in the last of them. Each carries observedGeneration.
`kubectl wait --for=condition=Ready` returns at success, `--for=condition=Stalled` at failure.
Contract: kubernetes-sigs/cli-utils, pkg/kstatus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from quantization_api.status import Condition, ConditionType, Phase
from quantization_api.text import clean, full_stop

QUEUED_REASONS = ("Queued", "Preempted", "Evicted", "Deactivated")
STARTING_REASON = "Starting"
RUNNING_REASON = "Running"
SUSPENDED_REASON = "Suspended"
AGAIN_REASON = "StartingAgain"
SUCCEEDED_REASON = "Succeeded"


OTHERWISE: dict[ConditionType, str] = {
    "Reconciling": "Nothing is under way.",
    "Stalled": "Nothing has failed for good.",
    "Suspended": "The job is not paused.",
}
"""Messages of conditions that do not hold: an empty one would be an empty line of `kubectl describe`."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a job stands."""

    kind: Literal["in progress", "succeeded", "failed", "suspended"]
    reason: str
    """CamelCase, for programs."""
    message: str
    """For a person."""


def rfc3339(moment: datetime) -> str:
    """A time as metav1.Time writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(state: State, generation: int, before: Sequence[Condition], now: datetime) -> list[Condition]:
    """The conditions of a state. lastTransitionTime moves only when a condition's status does."""
    truth: dict[ConditionType, bool] = {
        "Ready": state.kind == "succeeded",
        "Reconciling": state.kind == "in progress",
        "Stalled": state.kind == "failed",
        "Suspended": state.kind == "suspended",
    }
    known = {condition.type: condition for condition in before}
    result = []
    for kind, holds in truth.items():
        status: Literal["True", "False"] = "True" if holds else "False"
        old = known.get(kind)
        since = old.last_transition_time if old is not None and old.status == status else rfc3339(now)
        result.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=generation,
                last_transition_time=since,
                reason=state.reason,
                message=full_stop(clean(state.message)) if holds or kind == "Ready" else OTHERWISE[kind],
            )
        )
    return result


def phase(items: Sequence[Condition]) -> Phase:
    """The phase that the conditions show."""
    true = {condition.type: condition for condition in items if condition.status == "True"}
    if "Ready" in true:
        return "Succeeded"
    if "Stalled" in true:
        return "Failed"
    if "Suspended" in true:
        return "Suspended"
    if "Reconciling" in true:
        if true["Reconciling"].reason == RUNNING_REASON:
            return "Running"
        if true["Reconciling"].reason in QUEUED_REASONS:
            return "Queued"
    return "Pending"


def reason(items: Sequence[Condition]) -> str:
    """The reason of the state that the conditions show, "" before the first write."""
    return next((c.reason for c in items if c.type == "Ready"), "")
