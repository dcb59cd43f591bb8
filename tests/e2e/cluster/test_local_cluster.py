"""The local cluster: `up` a second time changes nothing, `down` leaves nothing, and `up` again knows everything."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local_cluster import cgroups, cluster, operator_install, s3

pytestmark = pytest.mark.e2e


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "local_cluster", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def test_up_again_restarts_no_server(whole: Any) -> None:
    before = {server.name: server.pid for server in cluster.status(whole.settings)}
    done = _command("up")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(whole.settings.kubeconfig)
    assert {server.name: server.pid for server in cluster.status(whole.settings)} == before


def test_status_says_what_runs(whole: Any) -> None:
    done = _command("status")
    assert done.returncode == 0
    assert "kube-apiserver" in done.stdout
    assert "Ready" in done.stdout


def test_images_that_did_not_change_are_not_built_again(whole: Any) -> None:
    done = _command("images", "operator", "quantizer", "seaweedfs")
    assert done.returncode == 0, done.stderr
    assert "Building" not in done.stderr
    assert all("@sha256:" in line for line in done.stdout.splitlines())


def test_down_leaves_nothing_and_up_brings_everything_back(whole: Any) -> None:
    assert cgroups.existing() != []
    jobs = {item["metadata"]["uid"] for item in whole.get("quantizationjobs", "-A")["items"]}
    with s3.opened(whole.target) as buckets:
        stored = buckets.list("models", "")
    done = _command("down")
    try:
        assert done.returncode == 0, done.stderr
        state = str(whole.settings.state)
        assert state not in _said("ps", "-e", "-o", "args=")
        assert state not in Path("/proc/self/mountinfo").read_text()
        links = {link["ifname"] for link in json.loads(_said("ip", "-json", "link"))}
        assert not links & {whole.settings.node_bridge, whole.settings.pod_bridge}
        assert "kube-proxy" not in _said("nft", "list", "tables")
        assert cgroups.existing() == []
        assert _command("status").returncode != 0
    finally:
        again = _command("up")
    assert again.returncode == 0, again.stderr
    assert {item["metadata"]["uid"] for item in whole.get("quantizationjobs", "-A")["items"]} == jobs
    whole.target.kubectl(
        "--namespace", operator_install.NAMESPACE, "rollout", "status", f"deployment/{operator_install.NAME}",
        "--timeout=120s",
    )  # fmt: skip
    whole.target.kubectl("--namespace", s3.NAMESPACE, "rollout", "status", "statefulset/s3", "--timeout=120s")
    with s3.opened(whole.target) as buckets:
        assert buckets.list("models", "") == stored
