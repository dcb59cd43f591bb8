"""Thousands of schedules of several writers of one output, each a seed: nothing published is destroyed.

`make test` plays the first batches, `make faults` all of them.
"""

import logging

import pytest
from tests.support.memory_store import MemoryStore
from tests.support.writers import play

BATCHES, SMALL, SCHEDULES = 10, 3, 200
WANTED = {
    f"{fault} at {request}"
    for fault in ("kill", "stop", "killed after", "lost answer", "late", "twice", "away")
    for request in ("put", "swap", "copy", "delete")
} | {"conflict at swap"}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings of faults that were asked for are no news, and thousands of them take time."""
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize(
    "batch",
    [pytest.param(batch, marks=[pytest.mark.unit] if batch < SMALL else []) for batch in range(BATCHES)],
)
def test_what_has_a_manifest_is_whole_whoever_writes_it_and_whatever_happens(batch: int) -> None:
    ends: set[str] = set()
    faults: set[str] = set()
    for seed in range(batch * SCHEDULES, (batch + 1) * SCHEDULES):
        schedule = play(seed, MemoryStore())
        ends |= {writer.ended for writer in schedule.writers}
        faults |= schedule.faults
    assert {"published", "killed", "ArtifactConflict"} <= ends
    assert len(WANTED - faults) < 6, f"these faults were not there: {WANTED - faults}"
