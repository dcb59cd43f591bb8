"""`kubectl quantization` on the cluster: what needs a kubelet, a pod that works, and the quantizer's image."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.disturbed import pod_that_works

from deploy.release import plugin

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

NAME = "plugin"
LIMIT = 420.0  # the first job of a cluster also pulls the image


def asked(whole: Any, folder: Path, *words: str) -> str:
    """What the plugin prints, as it is installed."""
    plugin.install(folder / plugin.PROGRAM)
    path = f"{whole.target.kubectl.program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, folder / plugin.PROGRAM, words[0], "-n", whole.namespace, *words[1:]],
        env={**os.environ, "PATH": path, "KUBECONFIG": whole.target.kubeconfig},
        cwd=folder, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_person_sees_the_memory_of_a_run_its_log_and_its_report(whole: Any, tmp_path: Path) -> None:
    whole.apply(NAME)
    pod = pod_that_works(whole, NAME, 1, LIMIT)
    head, line = asked(whole, tmp_path, "top", NAME).splitlines()
    assert head.split()[:3] == ["POD", "NODE", "STAGE"]
    assert line.startswith(pod)
    assert "GiB" in line
    assert "?" not in line
    assert "quantize" in asked(whole, tmp_path, "logs", NAME)
    whole.wait(NAME, "Ready", LIMIT)
    whole.kubectl("delete", "pod", pod)
    kept = asked(whole, tmp_path, "logs", NAME)
    assert "done: " in kept
    assert f"end of the log of {pod}" in kept.splitlines()[-1]
    assert asked(whole, tmp_path, "report", NAME) == f"{NAME}-report.html\n"
    page = (tmp_path / f"{NAME}-report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "perplexity" in page
    readers = whole.get("pods", "--selector", "app.kubernetes.io/component=reader")["items"]
    assert all("deletionTimestamp" in reader["metadata"] for reader in readers)
