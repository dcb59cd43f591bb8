"""`kubectl quantization` as it is installed, by somebody with the role edit, on a real API server with the operator."""

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.cluster_objects import failed_result
from tests.support.fake_kubelet import bind, kubelet
from tests.support.manifests import manifest
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import until

from deploy.release import plugin
from local_cluster.control_plane import ApiServer
from local_cluster.kubectl import find_kubectl

pytestmark = pytest.mark.integration

PERSON = "jane"
PLANTED = "hunter2-hunter2"
RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ApiServer(controllers=True) as api:
        cluster = Cluster(api, tmp_path_factory.mktemp("plugin"))
        api.kubectl(
            "create", "rolebinding", PERSON, "--clusterrole=edit", f"--user={PERSON}", "-n", NAMESPACE
        )
        cluster.standing_operator()
        yield cluster
        cluster.close()


@pytest.fixture(scope="module")
def logs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with kubelet(cluster.api, tmp_path_factory.mktemp("kubelet")) as logs:
        yield logs


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bin") / plugin.PROGRAM
    plugin.install(path)
    return path


@pytest.fixture
def ask(cluster: Cluster, program: Path, tmp_path: Path) -> Ask:
    """kubectl finds the plugin by its name; nothing of the checkout is on the path of Python."""
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"KUBECONFIG": str(cluster.api.kubeconfig), "PATH": path, "HOME": str(tmp_path)}
    kubectl = find_kubectl(
        int(cluster.api.kubectl("version", "-o", "json").stdout.split('"minor": "')[2][:2])
    )

    def ask(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [kubectl, "quantization", words[0], f"--as={PERSON}", "-n", NAMESPACE, *words[1:]],
            input=stdin, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return ask


def text_of(name: str, *changes: tuple[str, Any]) -> str:
    body = manifest(("output.uri", f"s3://artifacts/{name}"), *changes)
    body["metadata"] |= {"name": name, "namespace": NAMESPACE}
    return yaml.safe_dump(body)


def failed(cluster: Cluster, name: str) -> str:
    """A job that failed; its pod."""
    pod = cluster.pod(cluster.submit(name))
    bind(cluster.api, NAMESPACE, pod)
    cluster.ends(pod, 66, failed_result("ModelNotFound", "s3://models/stories15m is empty"))
    cluster.phase(name, "Failed")
    return pod


def test_submit_watches_a_job_to_its_success(cluster: Cluster, ask: Ask) -> None:
    done: list[subprocess.CompletedProcess[str]] = []
    asking = threading.Thread(
        target=lambda: done.append(ask("submit", "-", "--watch", stdin=text_of("submitted")))
    )
    asking.start()
    uid = until("the job", lambda: cluster.read("qj", "submitted").get("metadata", {}).get("uid"))
    cluster.succeeds(cluster.pod(uid))
    asking.join(60)
    (answer,) = done
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[0] == f"{NAMESPACE}/submitted is submitted"
    assert answer.stdout.splitlines()[-1] == "submitted  Succeeded  100 %  s3://artifacts/submitted"


def test_submit_refuses_what_the_cluster_does_not_know(cluster: Cluster, ask: Ask) -> None:
    answer = ask("submit", "-", stdin=text_of("unknown", ("colour", "blue")))
    assert answer.returncode == 1
    assert 'unknown field "spec.colour"' in answer.stderr
    other = ask("submit", "-", stdin="{apiVersion: v1, kind: ConfigMap, metadata: {name: other}}")
    assert "holds no QuantizationJob" in other.stderr
    assert cluster.read("configmap", "other") == {}
    assert ask("submit", "-", "--dry-run", stdin=text_of("dry")).stdout == f"{NAMESPACE}/dry is valid\n"
    assert cluster.read("qj", "dry") == {}


def test_status_shows_why_and_how_far(cluster: Cluster, ask: Ask) -> None:
    failed(cluster, "shown")
    answer = ask("status", "shown")
    head, line = answer.stdout.splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "STATE"]
    assert line.split()[:2] == ["shown", "Failed"]
    assert "ModelNotFound: s3://models/stories15m is empty" in line
    assert ask("status", "shown", "--watch").returncode == 1


def test_a_job_that_is_not_there_is_told_with_what_to_do(ask: Ask) -> None:
    answer = ask("status", "nobody")
    assert answer.returncode == 1
    assert '"nobody" not found `kubectl quantization status` lists what is there' in answer.stderr


def test_a_failed_job_is_retried_and_others_are_not(cluster: Cluster, ask: Ask) -> None:
    failed(cluster, "retried")
    assert ask("retry", "retried").returncode == 0
    until("it starts again", lambda: cluster.status("retried").get("restarts") == 1)
    again = ask("retry", "retried")
    assert again.returncode == 1
    assert "has not failed: it is" in again.stderr


def test_cancel_stops_and_resume_goes_on(cluster: Cluster, ask: Ask) -> None:
    cluster.pod(cluster.submit("cancelled"))
    answer = ask("cancel", "cancelled")
    assert answer.stdout.splitlines()[-1] == "To go on: kubectl quantization resume cancelled"
    cluster.phase("cancelled", "Suspended")
    assert "kubectl quantization resume cancelled" in ask("retry", "cancelled").stderr
    assert ask("resume", "cancelled").returncode == 0
    cluster.phase("cancelled", "Pending")
    assert "nothing to resume" in ask("resume", "cancelled").stderr
    assert ask("cancel", "cancelled", "--delete").returncode == 0
    until("it is gone", lambda: cluster.read("qj", "cancelled") == {})


def test_logs_are_those_of_the_pod_that_failed_until_it_is_gone(
    cluster: Cluster, ask: Ask, logs: dict[str, str]
) -> None:
    pod = failed(cluster, "logged")
    logs[pod] = "the model is not there\n"
    assert ask("logs", "logged").stdout == logs[pod]
    assert "is no pod of this job" in ask("logs", "logged", "--pod", "other").stderr
    cluster.api.kubectl("delete", "pod", pod, "-n", NAMESPACE, "--force")
    until("it is gone", lambda: cluster.read("pod", pod) == {})
    with _readers(cluster, logs, "1\n2\n3\n") as seen:
        answer = ask("logs", "logged", "--tail=2")
    assert (answer.returncode, answer.stdout) == (0, "2\n3\n"), answer.stderr
    assert "No pod of the job is left" in answer.stderr
    (container,) = seen[0]["spec"]["containers"]
    uid = cluster.read("qj", "logged")["metadata"]["uid"]
    asked = ["logs", "--endpoint=http://s3.example.svc:8333", f"--uid={uid}", "s3://artifacts/logged"]
    assert container["args"] == asked
    with _readers(cluster, logs, "ModelNotFound: no log is kept at s3://artifacts/logged\n", 66):
        answer = ask("logs", "logged")
    assert answer.returncode == 1
    assert "ModelNotFound: s3://models/stories15m is empty." in answer.stderr
    assert "no log is kept" in answer.stderr
    assert "`kubectl quantization logs logged`" in ask("diagnose", "logged").stdout
    until("no reader is left", lambda: not _running_readers(cluster))


def test_logs_of_a_job_whose_job_is_gone_say_who_can_read_them(cluster: Cluster, ask: Ask) -> None:
    failed(cluster, "outlived")
    cluster.api.kubectl("delete", "job", cluster.status("outlived")["jobName"], "-n", NAMESPACE)
    answer = ask("logs", "outlived")
    assert answer.returncode == 1
    assert "quantizer logs s3://artifacts/outlived" in answer.stderr


def test_the_report_is_read_by_a_pod_with_the_account_of_the_job_and_no_gpu(
    cluster: Cluster, ask: Ask, logs: dict[str, str], tmp_path: Path
) -> None:
    gpu = ("template.resources", {"limits": {"nvidia.com/gpu": 1, "memory": "2Gi"}})
    cluster.succeeds(cluster.pod(cluster.submit("reported", gpu)))
    cluster.phase("reported", "Succeeded")
    page = "<!doctype html>\n<title>ä</title></html>\n"
    with _readers(cluster, logs, f"WARNING something\n{page}") as seen:
        answer = ask("report", "reported")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "reported-report.html\n"
    assert (tmp_path / "reported-report.html").read_text() == page
    (container,) = seen[0]["spec"]["containers"]
    assert container["args"] == [
        *("report", "--endpoint=http://s3.example.svc:8333", "--output=-", "s3://artifacts/reported"),
    ]
    assert {each["name"] for each in container["env"]} >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    until("no reader is left", lambda: not _running_readers(cluster))


def test_a_job_without_an_artifact_has_no_report(cluster: Cluster, ask: Ask) -> None:
    failed(cluster, "unreported")
    assert ask("report", "unreported").stderr == "unreported has no artifact: it is Failed.\n"


def test_diagnose_is_one_text_with_all_that_is_known_and_no_secret(
    cluster: Cluster, ask: Ask, logs: dict[str, str]
) -> None:
    pod = failed(cluster, "sick")
    logs[pod] = f"GET http://reader:{PLANTED}@proxy:3128 failed\nAWS_SECRET_ACCESS_KEY={PLANTED}\n"
    cluster.api.kubectl("annotate", "qj", "sick", f"note={PLANTED}", "-n", NAMESPACE)
    cluster.api.kubectl(
        "create", "secret", "generic", "sick", f"--from-literal=password={PLANTED}", "-n", NAMESPACE
    )
    answer = ask("diagnose", "sick")
    assert answer.returncode == 0, answer.stderr
    heads = [line for line in answer.stdout.splitlines() if line.startswith("#")]
    assert heads == [
        f"# Diagnosis of {NAMESPACE}/sick",
        *(
            "## Versions",
            "## QuantizationJob",
            "## Job",
            "## Pods",
            "## Events",
            "## Log of the pod",
            "## Operator",
        ),
    ]
    for told in ("ModelNotFound", pod, "Failed on node-1", "proxy:3128 failed", "FailureTarget=True"):
        assert told in answer.stdout, told
    assert "could not be read" in answer.stdout.partition("## Operator")[2], "jane may not read Deployments"
    assert PLANTED not in answer.stdout
    body = answer.stdout.partition("## QuantizationJob\n\n")[2].partition("\n\n## Job")[0]
    assert json.loads(body)["spec"]["storage"]["credentialsSecret"] == {"name": "s3"}


def test_top_names_a_pod_that_does_not_answer(cluster: Cluster, ask: Ask) -> None:
    pod = cluster.pod(cluster.submit("topped"))
    bind(cluster.api, NAMESPACE, pod)
    cluster.kubelet_says(pod, "Running", RUNS)
    answer = ask("top", "topped")
    assert answer.returncode == 0
    _, line = answer.stdout.splitlines()
    assert line.split() == [pod, "node-1", "?", "?", "?", "none", "0", "-"]
    assert f"# {pod} does not answer: " in answer.stderr
    assert "No pod of a QuantizationJob runs here" in ask("top", "shown").stderr


@contextlib.contextmanager
def _readers(
    cluster: Cluster, logs: dict[str, str], says: str, code: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """A pod that reads from a storage is run as a kubelet would, and says this; yields it, once it was there."""
    seen: list[dict[str, Any]] = []
    before = set(_running_readers(cluster))

    def as_kubelet() -> None:
        until("the reader", lambda: set(_running_readers(cluster)) - before)
        (name,) = set(_running_readers(cluster)) - before
        seen.append(cluster.read("pod", name))
        logs[name] = says
        bind(cluster.api, NAMESPACE, name)
        cluster.ends(name, code)

    playing = threading.Thread(target=as_kubelet)
    playing.start()
    yield seen
    playing.join()


def _running_readers(cluster: Cluster) -> list[str]:
    pods = cluster.items("pods", "app.kubernetes.io/component=reader")
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
