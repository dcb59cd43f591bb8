"""The program: one file for any Python, that says which kubectl failed and what to do, and krew's manifest of it."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from deploy.release import plugin
from deploy.release.__main__ import main
from kubectl_quantization.cluster import explained
from kubectl_quantization.logs import choose, what_is_known
from kubectl_quantization.parser import parser
from quantization_api import ENGINE_VERSION

pytestmark = pytest.mark.unit


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / plugin.PROGRAM
    plugin.install(path)
    return path


def ran(program: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """In a Python without any package, and with nothing of the checkout."""
    command = [sys.executable, "-I", "-S", program, *words]
    return subprocess.run(
        command, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_runs_without_any_package(program: Path) -> None:
    assert ran(program, "--version").stdout == f"kubectl quantization {ENGINE_VERSION}\n"
    assert os.access(program, os.X_OK)


@pytest.mark.parametrize(
    "command", ["status", "logs", "report", "retry", "cancel", "resume", "top", "diagnose", "submit"]
)
def test_every_command_loads_and_helps(program: Path, command: str) -> None:
    assert ran(program, command, "--help").returncode == 0
    named = {"submit": ["job.yaml"]}.get(command, ["name"])
    answer = ran(program, command, *named)
    assert (answer.returncode, answer.stderr) == (1, "kubectl is not on the PATH: install it first.\n")


def test_the_same_sources_give_the_same_bytes_and_what_krew_installs(tmp_path: Path) -> None:
    assert plugin.program() == plugin.program()
    archive, manifest = plugin.write(tmp_path)
    spec = yaml.safe_load(manifest.read_text())["spec"]
    assert spec["version"] == f"v{ENGINE_VERSION}"
    (platform,) = spec["platforms"]
    assert platform["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert platform["uri"] == archive.name
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar:
        assert {each["from"] for each in platform["files"]} == set(tar.getnames())
        assert tar.getmember(platform["bin"]).mode == 0o755


def test_make_install_plugin_says_when_kubectl_will_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert main(["--install-plugin", str(tmp_path)]) == 0
    assert f"{tmp_path} is not on your PATH" in capsys.readouterr().out
    monkeypatch.setenv("PATH", f"/usr/bin:{tmp_path}")
    assert main(["--install-plugin", str(tmp_path)]) == 0
    assert "PATH" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        (
            'error: the server doesn\'t have a resource type "quantizationjobs"',
            "are not installed in this cluster",
        ),
        (
            'Error from server (NotFound): quantizationjobs.quantization.dev "a" not found',
            "`kubectl quantization status`",
        ),
        ('Error from server (Forbidden): pods is forbidden: User "jane" cannot list', "the role edit"),
        (
            "The connection to the server localhost:8080 was refused\ndial tcp: connection refused",
            "--context",
        ),
        ("", "kubectl failed"),
    ],
)
def test_what_kubectl_says_is_told_in_one_line_with_its_cure(said: str, cure: str) -> None:
    assert cure in explained(said)
    assert "\n" not in explained(said)


def pods(**phases: str) -> list[dict[str, object]]:
    return [{"metadata": {"name": name}, "status": {"phase": phase}} for name, phase in phases.items()]


@pytest.mark.parametrize(
    ("there", "failed", "chosen"),
    [
        ({"a": "Failed", "b": "Running"}, "a", "b"),
        ({"a": "Failed", "b": "Succeeded"}, "a", "a"),
        ({"a": "Failed", "b": "Failed"}, "gone", "b"),
        ({"a": "Failed", "b": "Pending"}, None, "b"),
        ({}, "gone", None),
    ],
)
def test_the_log_is_of_the_pod_that_runs_or_failed_or_was_last(
    there: dict[str, str], failed: str | None, chosen: str | None
) -> None:
    assert choose({"status": {"failure": {"podName": failed}}}, pods(**there), None) == chosen


def test_without_a_pod_all_that_is_known_is_told() -> None:
    assert "has had no pod yet" in what_is_known({})
    failure = {"category": "HostOutOfMemory", "message": "it was killed", "hint": "Raise the limit"}
    told = what_is_known({"status": {"jobName": "job-1", "failure": failure}})
    assert told.endswith("It ended with HostOutOfMemory: it was killed. Raise the limit.")


def test_the_options_that_choose_the_cluster_are_taken_by_every_command() -> None:
    for words in (["status"], ["logs", "a"], ["top"], ["submit", "f"]):
        options = parser().parse_args([*words, "--context", "c", "--kubeconfig=k", "-n", "team"])
        assert (options.context, options.kubeconfig, options.namespace) == ("c", "k", "team")
