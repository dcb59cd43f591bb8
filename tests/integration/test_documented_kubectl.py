"""The README's kubectl commands on a real API server: how `wait` ends for a new job, a failed one and a done one."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config
from tests.support.crd import install_crd
from tests.support.documented import commands
from tests.support.manifests import manifest
from tests.support.recorded_jobs import recorded

from local_cluster.control_plane import ApiServer
from quantization_api import GROUP, PLURAL, VERSION
from quantization_api.status import Phase

pytestmark = pytest.mark.integration

COMMANDS = [list(command.words[1:]) for command in commands() if command.words[0] == "kubectl"]
(WAIT,) = [words for words in COMMANDS if "wait" in words and len(words) > 1]
OTHERS = {"-A", "NAMESPACE", "too-small"}
GETS = [
    words
    for words in COMMANDS
    if "get" in words
    and {"qj", "quantizationjob"} & set(words)
    and not {"-A", "NAMESPACE", "too-small"} & set(words)
]
"""Of jobs that succeed; what pages say of other objects, and of yours, has no such job. The one that the quick start
makes fail is tested with the whole page (e2e/cluster/test_first_ten_minutes.py)."""
NAMESPACE, NAME = "quantization-demo", "stories15m-gptq"
A_MOMENT = 2.0
AT_ONCE = 15.0


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        api = config.new_client_from_config(str(server.kubeconfig))
        install_crd(api)
        client.CoreV1Api(api).create_namespace({"metadata": {"name": NAMESPACE}})
        yield server


@pytest.fixture
def jobs(server: ApiServer) -> Iterator[client.CustomObjectsApi]:
    """The job of the README, just applied: no operator has seen it."""
    jobs = client.CustomObjectsApi(config.new_client_from_config(str(server.kubeconfig)))
    body = {**manifest(), "metadata": {"name": NAME, "namespace": NAMESPACE}}
    jobs.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, body)
    yield jobs
    jobs.delete_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, NAME)


def becomes(jobs: client.CustomObjectsApi, phase: Phase) -> None:
    """Writes the status that the operator writes."""
    body: dict[str, Any] = {"status": recorded(phase)["status"]}
    jobs.patch_namespaced_custom_object_status(GROUP, VERSION, NAMESPACE, PLURAL, NAME, body)


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_wait_returns_at_once_for_a_job_that_has_ended(
    server: ApiServer, jobs: client.CustomObjectsApi, phase: Phase
) -> None:
    becomes(jobs, phase)
    began = time.monotonic()
    assert server.kubectl(*WAIT, check=False).returncode == 0
    assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_wait_goes_on_from_a_new_job_to_its_end(
    server: ApiServer, jobs: client.CustomObjectsApi, phase: Phase
) -> None:
    ended: list[int] = []
    waiting = threading.Thread(target=lambda: ended.append(server.kubectl(*WAIT, check=False).returncode))
    waiting.start()
    for step in ("Pending", "Running"):
        time.sleep(A_MOMENT)
        assert ended == []
        becomes(jobs, step)
    time.sleep(A_MOMENT)
    assert ended == []
    becomes(jobs, phase)
    waiting.join(AT_ONCE)
    assert ended == [0]


def test_a_job_that_needs_longer_than_a_minute_is_waited_for() -> None:
    (timeout,) = [word.partition("=")[2] for word in WAIT if word.startswith("--timeout=")]
    assert timeout.endswith(("m", "h"))


@pytest.mark.parametrize("words", GETS, ids=" ".join)
def test_get_shows_what_the_documents_promise(
    server: ApiServer, jobs: client.CustomObjectsApi, words: list[str]
) -> None:
    becomes(jobs, "Succeeded")
    named = [NAME if word == "llama-gptq" else word for word in words]
    shown = server.kubectl(*([] if "-n" in words else ["-n", NAMESPACE]), *named).stdout
    assert "Succeeded" in shown or "the artifact is at" in shown
