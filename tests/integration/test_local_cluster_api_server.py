"""The API server that other tests stand on: several at once, with and without controllers, and none left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster.control_plane import ApiServer
from local_cluster.errors import ClusterError
from local_cluster.processes import start_time
from local_cluster.waiting import until

pytestmark = pytest.mark.integration


def pods(server: ApiServer) -> str:
    return server.kubectl("get", "pods", "-o", "name").stdout


def test_two_servers_at_once_know_nothing_of_each_other() -> None:
    with ApiServer() as quiet, ApiServer(controllers=True) as busy:
        for server in (quiet, busy):
            server.kubectl("create", "job", "work", "--image=example.test/none")
        until(lambda: pods(busy), "the controllers to make a pod", limit=30)
        assert pods(quiet) == ""
        directories = [quiet.directory, busy.directory]
    assert not any(directory.exists() for directory in directories)
    with pytest.raises(ClusterError, match="only inside its `with` block"):
        quiet.kubectl("get", "pods")


def test_the_servers_end_with_a_test_run_that_is_killed() -> None:
    code = """
from local_cluster.control_plane import ApiServer
with ApiServer() as server:
    print(*[process.pid for _, process in server._processes], server.directory, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        *pids, directory = run.stdout.readline().split()
        assert all(start_time(int(pid)) is not None for pid in pids)
        run.send_signal(signal.SIGKILL)
    until(lambda: all(start_time(int(pid)) is None for pid in pids), "orphaned servers to end", limit=30)
    subprocess.run(["rm", "-r", Path(directory)], check=True)
