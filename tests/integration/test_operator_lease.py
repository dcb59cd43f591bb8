"""Two replicas against a real API server: one acts, and another does soon after it is gone, however it went."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.manifests import manifest
from tests.support.operator_process import (
    SYSTEM,
    Operator,
    install,
    service_account_kubeconfig,
    until,
)
from tests.support.tcp_proxy import TcpProxy

from local_cluster.control_plane import ApiServer
from quantization_operator.settings import OperatorSettings

pytestmark = [pytest.mark.integration, pytest.mark.faults]

NAMESPACE = "default"
LEASE = "quantization-operator-leader"
HAND_OVER_SECONDS = 20
LEADS = "quantization_is_leader"


class Replicas:
    """Two operators with the lease settings of deploy/base, and the API server."""

    def __init__(self, api: ApiServer, directory: Path) -> None:
        self.api = api
        self.directory = directory
        install(api)
        self.kubeconfig = service_account_kubeconfig(api, directory / "operator.kubeconfig")
        self._pairs = 0

    def start(self, stack: ExitStack, name: str, kubeconfig: Path | None = None) -> Operator:
        log = self.directory / f"{name}.log"
        return stack.enter_context(Operator(kubeconfig or self.kubeconfig, log, lease_namespace=SYSTEM))

    def pair(self, stack: ExitStack) -> tuple[Operator, Operator]:
        """The leader and the follower, both ready."""
        self.forget_lease()
        self._pairs += 1
        both = [self.start(stack, f"{self._pairs}-{name}") for name in "ab"]
        until("one leads", lambda: sum(one.metric(LEADS) for one in both) == 1, limit=HAND_OVER_SECONDS)
        leader, follower = sorted(both, key=lambda one: -one.metric(LEADS))
        return leader, follower

    def forget_lease(self) -> None:
        """As if there never was one: the operators of the last test were killed."""
        self.api.kubectl("delete", "lease", LEASE, "-n", SYSTEM, "--ignore-not-found")

    def submit(self, name: str) -> str:
        """Apply a job; its uid."""
        body = manifest(("output.uri", f"s3://artifacts/{name}"))  # one output for all would be a conflict
        body["metadata"] |= {"name": name, "namespace": NAMESPACE}
        self.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
        uid: str = self.read("qj", name)["metadata"]["uid"]
        return uid

    def read(self, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            self.api.kubectl("get", kind, name, "-n", namespace, "-o", "json").stdout
        )
        return answer

    def jobs(self, uid: str) -> list[str]:
        selector = f"quantization.dev/job-uid={uid}"
        found = self.api.kubectl("get", "jobs", "-n", NAMESPACE, "-l", selector, "-o", "name").stdout
        return found.split()

    def taken_over(self, uid: str, since: float) -> float:
        """Wait until a job has its Job; seconds since then."""
        until("the Job", lambda: self.jobs(uid), limit=HAND_OVER_SECONDS)
        return time.monotonic() - since

    def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.read("lease", LEASE, SYSTEM)["spec"]
        return spec


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with ApiServer(controllers=True) as api:
        yield Replicas(api, tmp_path_factory.mktemp("replicas"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_one_leads_and_the_other_is_ready_and_does_nothing(replicas: Replicas, stack: ExitStack) -> None:
    leader, follower = replicas.pair(stack)
    uid = replicas.submit("calm")
    until("the Job", lambda: replicas.jobs(uid))
    assert (leader.get("/readyz")[0], follower.get("/readyz")[0]) == (200, 200)
    assert (leader.get("/healthz"), follower.get("/healthz")) == ((200, "ok\n"), (200, "ok\n"))
    assert leader.metric(r'quantization_api_requests_total\{.*verb="POST"') > 0
    assert follower.metric(r'quantization_api_requests_total\{.*verb="(POST|PATCH|DELETE)"') == 0
    assert (leader.metric(r"quantization_jobs\{"), follower.metric(r"quantization_jobs\{")) == (1, 0)
    assert follower.metric("quantization_workqueue_depth") == 0
    assert replicas.lease()["leaseDurationSeconds"] == OperatorSettings().lease_duration_seconds


def test_a_killed_leader_is_followed_within_20_seconds(replicas: Replicas, stack: ExitStack) -> None:
    leader, follower = replicas.pair(stack)
    before = replicas.lease()["leaseTransitions"]
    names = [f"killed-{number}" for number in range(4)]
    uids = [replicas.submit(name) for name in names[:2]]
    leader.process.kill()  # in the middle of making their Jobs
    killed = time.monotonic()
    uids += [replicas.submit(name) for name in names[2:]]
    for uid in uids:
        seconds = replicas.taken_over(uid, killed)
    print(f"hand-over after kill -9: {seconds:.1f} s")
    assert seconds < HAND_OVER_SECONDS
    for name, uid in zip(names, uids, strict=True):
        until("the status", lambda name=name: replicas.read("qj", name).get("status"))
        assert len(replicas.jobs(uid)) == 1
    assert follower.metric(LEADS) == 1
    assert replicas.lease()["leaseTransitions"] == before + 1


def test_a_leader_that_is_stopped_hands_over_at_once(replicas: Replicas, stack: ExitStack) -> None:
    leader, follower = replicas.pair(stack)
    leader.process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    uid = replicas.submit("stopped")
    until("the Job", lambda: replicas.jobs(uid))
    seconds = time.monotonic() - stopped
    print(f"hand-over after SIGTERM: {seconds:.1f} s")
    assert seconds < 4
    assert leader.process.wait(30) == 0
    assert follower.metric(LEADS) == 1
    assert len(replicas.jobs(uid)) == 1


@pytest.mark.nightly
def test_a_leader_that_was_frozen_ends_without_a_write(replicas: Replicas, stack: ExitStack) -> None:
    leader, follower = replicas.pair(stack)
    leader.process.send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    uid = replicas.submit("frozen")
    assert replicas.taken_over(uid, frozen) < HAND_OVER_SECONDS
    (job,) = replicas.jobs(uid)
    until("the status", lambda: replicas.read("qj", "frozen").get("status"))
    version = replicas.read("qj", "frozen")["metadata"]["resourceVersion"]
    leader.process.send_signal(signal.SIGCONT)
    assert leader.process.wait(10) == 1
    told = [line["message"] for line in leader.log if line["level"] == "error"]
    assert any("lease" in message for message in told), told
    assert not [line for line in leader.log if line.get("job") == "frozen"], "it acted on the job"
    assert replicas.jobs(uid) == [job]
    assert replicas.read("qj", "frozen")["metadata"]["resourceVersion"] == version
    assert follower.metric(LEADS) == 1


@pytest.mark.nightly
def test_a_lease_that_somebody_deletes_is_lost_and_made_again(replicas: Replicas, stack: ExitStack) -> None:
    leader, follower = replicas.pair(stack)
    replicas.forget_lease()
    assert leader.process.wait(10) == 1
    assert any("the Lease was deleted" in line["message"] for line in leader.log)
    until("the other leads", lambda: follower.metric(LEADS) == 1, limit=HAND_OVER_SECONDS)


@pytest.mark.nightly
def test_a_leader_cut_off_from_the_api_ends_before_the_other_begins(
    replicas: Replicas, stack: ExitStack, tmp_path: Path
) -> None:
    proxy = stack.enter_context(TcpProxy(int(replicas.api.url.rpartition(":")[2])))
    config = yaml.safe_load(replicas.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    behind = tmp_path / "behind.kubeconfig"
    behind.write_text(yaml.safe_dump(config))
    replicas.forget_lease()
    leader = replicas.start(stack, "cut-off", behind)
    until("it leads", lambda: leader.metric(LEADS) == 1, limit=HAND_OVER_SECONDS)
    follower = replicas.start(stack, "not-cut-off")
    proxy.cut()
    cut = time.monotonic()
    uid = replicas.submit("cut-off")
    until("it says that it leads no more", lambda: leader.process.poll() or not leader.metric(LEADS))
    assert follower.metric(LEADS) == 0
    assert leader.process.wait(10) == 1
    assert any("could not be renewed" in line["message"] for line in leader.log)
    assert replicas.taken_over(uid, cut) < HAND_OVER_SECONDS
    assert len(replicas.jobs(uid)) == 1


BUSY = """
import sys, threading
from datetime import UTC, datetime
from quantization_operator.kube import Connection, log_in
from quantization_operator.leadership import Leadership, seconds_since_boot
from quantization_operator.lease import Timing, View

leads = threading.Event()
view = View("busy", Timing(duration=4, renew_deadline=2.0, interval=0.5))
leadership = Leadership(
    Connection(log_in(1)), sys.argv[1], sys.argv[2], view, seconds_since_boot, lambda: datetime.now(UTC), leads.set
)
leadership.start()
assert leads.wait(30)
while True:  # what an event loop must never do
    sum(range(100_000))
"""


@pytest.mark.nightly
def test_a_busy_main_thread_neither_loses_the_lease_nor_outlives_its_loss(
    replicas: Replicas, stack: ExitStack
) -> None:
    replicas.forget_lease()
    environment = {**os.environ, "KUBECONFIG": str(replicas.kubeconfig)}
    command = [sys.executable, "-c", BUSY, SYSTEM, LEASE]
    process = stack.enter_context(subprocess.Popen(command, env=environment))
    stack.callback(process.kill)
    lease = ("get", "lease", LEASE, "-n", SYSTEM)
    until("it leads", lambda: replicas.api.kubectl(*lease, check=False).returncode == 0)
    first = replicas.lease()
    busy = time.monotonic()
    until("three deadlines pass", lambda: time.monotonic() - busy > 6)
    then = replicas.lease()
    assert then["holderIdentity"] == "busy"
    assert (then["acquireTime"], then["leaseTransitions"]) == (first["acquireTime"], 0)
    assert then["renewTime"] > first["renewTime"]
    replicas.forget_lease()
    assert process.wait(20) == 1
