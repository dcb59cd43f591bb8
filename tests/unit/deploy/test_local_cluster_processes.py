"""A server is recognized by more than its number, restarted when its configuration changes, and ended for certain."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import processes
from local_cluster.errors import ClusterError
from local_cluster.processes import Server
from local_cluster.settings import Settings
from local_cluster.waiting import until

pytestmark = pytest.mark.unit


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(state=tmp_path)
    yield settings
    processes.stop(settings, recorded(settings), limit=1)
    for pid in processes.marked_processes(settings):
        os.kill(pid, signal.SIGKILL)


def recorded(settings: Settings) -> list[str]:
    """Names of the servers that have a record, alive or not."""
    return [path.stem for path in settings.pids.glob("*.json")]


def sleeper(config: str = "") -> Server:
    return Server("sleeper", (sys.executable, "-c", "import time; time.sleep(600)"), config)


def started(settings: Settings, server: Server) -> processes.Record:
    """A server that runs, and shows its command line: for a moment after the start it is empty."""
    processes.start(settings, server)
    record = processes.running(settings, server.name)
    assert record is not None
    until = time.monotonic() + 10
    while not processes.command_line(record.pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    return record


def test_a_server_that_runs_is_not_started_again(settings: Settings) -> None:
    first = started(settings, sleeper())
    assert not processes.start(settings, sleeper())
    assert processes.running(settings, "sleeper") == first


def test_a_changed_configuration_restarts_the_server(settings: Settings) -> None:
    first = started(settings, sleeper("port: 1"))
    second = started(settings, sleeper("port: 2"))
    assert second.pid != first.pid
    assert processes.start_time(first.pid) is None


def test_a_stopped_server_is_gone_and_forgotten(settings: Settings) -> None:
    record = started(settings, sleeper())
    processes.stop(settings, ["sleeper"])
    assert processes.start_time(record.pid) is None
    assert recorded(settings) == []


def test_a_server_that_ignores_the_request_to_end_is_killed(settings: Settings) -> None:
    code = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
    record = started(settings, Server("deaf", (sys.executable, "-c", code)))
    until(lambda: "deaf" in processes.log_tail(settings, "deaf"), "it to ignore the signal", limit=30)
    processes.stop(settings, ["deaf"], limit=0.1)
    assert processes.start_time(record.pid) is None


@pytest.mark.parametrize(
    "change",
    [{"started": 1}, {"boot": "another"}, {"argv": ["another", "program"]}],
    ids=["started at another time", "before the machine was restarted", "another program"],
)
def test_a_process_that_only_has_the_same_number_is_never_touched(
    settings: Settings, change: dict[str, object]
) -> None:
    record = started(settings, sleeper())
    path = settings.pids / "sleeper.json"
    path.write_text(json.dumps(dataclasses.asdict(record) | change))
    assert processes.running(settings, "sleeper") is None
    processes.stop(settings, ["sleeper"])
    assert processes.start_time(record.pid) == record.started


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_record_that_was_cut_off_counts_as_none(settings: Settings, text: str) -> None:
    settings.pids.mkdir()
    (settings.pids / "sleeper.json").write_text(text)
    assert processes.running(settings, "sleeper") is None


def test_a_process_without_a_record_is_found_by_its_mark(settings: Settings) -> None:
    record = started(settings, sleeper())
    (settings.pids / "sleeper.json").unlink()
    # the kernel shows the environment of a program a moment after it has begun
    until(lambda: record.pid in processes.marked_processes(settings), "the mark", limit=5)
    assert processes.marked_processes(Settings(state=settings.state / "other")) == {}


def test_a_zombie_does_not_live() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.start_time(child.pid) is None


def test_waiting_ends_at_its_limit_with_a_sentence() -> None:
    now = 0.0

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds

    with pytest.raises(ClusterError, match="waited 3 s for rain"):
        until(lambda: False, "rain", limit=3, interval=1, clock=lambda: now, pause=pause)
    assert now == 3


def test_waiting_returns_what_the_condition_answers() -> None:
    answers = iter([None, "", "here"])
    assert until(lambda: next(answers), "an answer", limit=1, interval=0) == "here"


def test_a_question_that_takes_long_is_asked_less_often() -> None:
    now, pauses = 0.0, []

    def asks() -> bool:
        nonlocal now
        now += 0.4
        return len(pauses) == 2

    assert until(asks, "an answer", limit=9, interval=0.1, clock=lambda: now, pause=pauses.append)
    assert pauses == pytest.approx([0.8, 0.8])
