"""A watch that stays open and says nothing more: what a dead load balancer or a lost route makes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fault_proxy import FaultProxy
from tests.support.operator_cluster import Cluster
from tests.support.operator_process import Operator, until
from tests.support.schedules import subject

from local_cluster.control_plane import ApiServer

pytestmark = pytest.mark.faults

SEEN_WITHIN_SECONDS = 40
"""A sweep every 5 s, and its grace of 10 s; the rest is for a busy machine."""
BEGUN_ANEW_WITHIN_SECONDS = 120
"""kopf gives up a watch on which nothing comes for 70 s, not even a bookmark."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ApiServer(controllers=True) as api:
        yield Cluster(api, tmp_path_factory.mktemp("silence"))


@pytest.fixture
def proxy(cluster: Cluster, tmp_path: Path) -> Iterator[FaultProxy]:
    """Between the operator and the API server, and fair weather but for the silence."""
    with FaultProxy(cluster.kubeconfig, tmp_path, "silence", subject, lambda: None, silences=False) as proxy:
        proxy.weather = False
        yield proxy


def operator(cluster: Cluster, proxy: FaultProxy) -> Operator:
    return Operator(proxy.kubeconfig, cluster.log, sweep_interval_seconds=5)


def falls_silent(cluster: Cluster, proxy: FaultProxy, running: Operator, name: str) -> str:
    """Silence, and a job that is submitted into it; its uid when the operator has noticed."""
    cluster.pod(cluster.submit(f"before-{name}"))
    assert running.complaint() == ""
    proxy.mute()
    uid = cluster.submit(name)
    until("it is seen", lambda: name in running.complaint(), SEEN_WITHIN_SECONDS)
    assert running.get("/healthz")[0] == 503
    assert not cluster.jobs(uid), "the watch was not silent"
    return uid


@pytest.mark.integration
def test_a_silent_watch_is_seen_and_a_restart_cures_it(cluster: Cluster, proxy: FaultProxy) -> None:
    with operator(cluster, proxy) as running:
        uid = falls_silent(cluster, proxy, running, "unseen")
    with operator(cluster, proxy) as running:
        cluster.pod(uid)
        assert running.complaint() == ""


def test_a_silent_watch_is_begun_anew_also_without_a_restart(cluster: Cluster, proxy: FaultProxy) -> None:
    with operator(cluster, proxy) as running:
        uid = falls_silent(cluster, proxy, running, "seen-late")
        until("the Job", lambda: cluster.jobs(uid), BEGUN_ANEW_WITHIN_SECONDS)
        until("no complaint any more", lambda: running.get("/healthz")[0] == 200)
