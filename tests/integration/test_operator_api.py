"""Reads, writes and sweeps of the operator against a real API server."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from tests.support.crd import install_crd
from tests.support.manifests import manifest

from local_cluster.control_plane import ApiServer
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import QuantizationJobStatus
from quantization_operator import paths
from quantization_operator.cache import Cache, Key
from quantization_operator.decision import Event, Rejection
from quantization_operator.kube import ApiError, Kube, NotLeaderError
from quantization_operator.probes import Health
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Reader
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, QuantizationJob
from quantization_operator.sweep import NotSyncedError, Sweeper
from quantization_operator.workload import build
from quantization_operator.write import Writer

pytestmark = pytest.mark.integration

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Server:
    """A real API server, and the operator's way to it."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.codes: list[int] = []
        configuration = client.Configuration()
        config.load_kube_config(str(api.kubeconfig), client_configuration=configuration)
        configuration.retries = False
        self.kube = Kube(configuration, 4, 10, lambda _verb, code: self.codes.append(code))
        install_crd(client.ApiClient(configuration))

    def submit(self, name: str) -> QuantizationJob:
        body = manifest()
        body["metadata"]["name"] = name
        self.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
        return self.qjob(name)

    def qjob(self, name: str) -> QuantizationJob:
        return QuantizationJob.of(json.loads(self.api.kubectl("get", "qj", name, "-o", "json").stdout))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with ApiServer() as api:
        yield Server(api)


def run(body: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await body()

    return asyncio.run(limited())


def job_of(qjob: QuantizationJob) -> dict[str, Any]:
    spec = QuantizationJobSpec.model_validate(json.loads(qjob.spec))
    return build(qjob, spec, OperatorSettings())


def test_creating_a_job_twice_gives_the_same_job(server: Server) -> None:
    qjob, writer = server.submit("twice"), Writer(server.kube, "test")
    first = run(lambda: writer.create_job(qjob, job_of(qjob)))
    second = run(lambda: writer.create_job(qjob, job_of(qjob)))
    assert isinstance(first, ChildJob)
    assert isinstance(second, ChildJob)
    assert first.uid == second.uid
    assert first.owner_uid == qjob.uid


def test_a_job_of_another_owner_is_a_refusal(server: Server) -> None:
    qjob, writer = server.submit("foreign"), Writer(server.kube, "test")
    run(lambda: writer.create_job(qjob, job_of(qjob)))
    other = replace(qjob, uid="00000000-0000-4000-8000-000000000000")
    rejected = run(lambda: writer.create_job(other, job_of(qjob)))
    assert isinstance(rejected, Rejection)
    assert rejected.taken


def test_an_invalid_job_is_a_refusal_with_the_reason(server: Server) -> None:
    qjob, writer = server.submit("invalid"), Writer(server.kube, "test")
    bad = job_of(qjob)
    bad["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    rejected = run(lambda: writer.create_job(qjob, bad))
    assert isinstance(rejected, Rejection)
    assert rejected.code == 422
    assert "restartPolicy" in rejected.message


def test_only_the_job_that_was_meant_is_deleted(server: Server) -> None:
    qjob, writer, reader = server.submit("deleted"), Writer(server.kube, "test"), Reader(server.kube)
    made = run(lambda: writer.create_job(qjob, job_of(qjob)))
    another = replace(made, uid="00000000-0000-4000-8000-000000000000")
    with pytest.raises(ApiError, match="409"):
        run(lambda: writer.delete_job(another))
    assert not run(lambda: reader.job("default", made.name)).deleting
    going = run(lambda: writer.delete_job(made))
    assert going.deleting, "its name is taken until its pods have ended"
    assert going.resource_version > made.resource_version
    assert run(lambda: writer.delete_job(made)).deleting
    assert run(lambda: reader.job("default", made.name)).deleting
    there = run(lambda: writer.create_job(qjob, job_of(qjob)))
    assert there.deleting, "a new Job waits for it"


def test_only_the_version_that_was_seen_is_deleted_or_given_finalizers(server: Server) -> None:
    seen, writer = server.submit("versions"), Writer(server.kube, "test")
    newer = run(lambda: writer.patch_finalizers(seen, ["a/b"]))
    assert newer.finalizers == ("a/b",)
    for stale in (lambda: writer.patch_finalizers(seen, []), lambda: writer.delete_qjob(seen)):
        with pytest.raises(ApiError) as refused:
            run(stale)
        assert refused.value.code == 409
    namesake = replace(newer, uid="00000000-0000-4000-8000-000000000000")
    with pytest.raises(ApiError):
        run(lambda: writer.patch_finalizers(namesake, []))
    run(lambda: writer.delete_qjob(newer))
    going = server.qjob("versions")
    assert going.deleting
    run(lambda: writer.patch_finalizers(going, []))
    assert run(lambda: writer.patch_finalizers(going, [])) is None
    run(lambda: writer.delete_qjob(going))


def test_a_status_is_written_only_over_the_version_it_was_decided_from(server: Server) -> None:
    qjob, writer = server.submit("status"), Writer(server.kube, "test")
    status = QuantizationJobStatus(
        observed_generation=1, phase="Pending", job_name="x", passes="GptqQuantizer"
    )
    written = run(lambda: writer.patch_status(qjob, {}, status))
    assert written.phase == "Pending"
    assert written.resource_version > qjob.resource_version
    with pytest.raises(ApiError) as stale:
        run(lambda: writer.patch_status(qjob, {}, status.model_copy(update={"phase": "Running"})))
    assert stale.value.code == 409
    cleared = status.model_copy(update={"job_name": None})
    again = run(lambda: writer.patch_status(written, json.loads(written.status), cleared))
    assert again.job_name == ""
    assert again.passes == "GptqQuantizer"


def test_a_status_is_never_written_to_a_namesake(server: Server) -> None:
    qjob, writer = server.submit("namesake"), Writer(server.kube, "test")
    server.api.kubectl("delete", "qj", "namesake")
    server.submit("namesake")
    with pytest.raises(ApiError) as error:
        run(lambda: writer.patch_status(qjob, {}, QuantizationJobStatus(phase="Running")))
    assert error.value.code == 409
    assert server.qjob("namesake").phase == ""


def test_an_event_is_told_once(server: Server) -> None:
    qjob, writer = server.submit("told"), Writer(server.kube, "test")
    event = Event("Warning", "ModelNotFound", "it is not there")
    run(lambda: writer.post_event(qjob, event, NOW))
    run(lambda: writer.post_event(qjob, event, NOW))
    described = server.api.kubectl("describe", "qj", "told").stdout
    assert described.count("it is not there") == 1
    events = json.loads(server.api.kubectl("get", "events", "-o", "json").stdout)["items"]
    assert len([e for e in events if e["involvedObject"]["name"] == "told"]) == 1


def test_warnings_are_those_of_the_object_and_recent(server: Server) -> None:
    qjob, writer, reader = server.submit("warned"), Writer(server.kube, "test"), Reader(server.kube)
    now = datetime.now(UTC)
    run(lambda: writer.post_event(qjob, Event("Warning", "FailedCreate", "quota"), now))
    run(lambda: writer.post_event(qjob, Event("Normal", "Created", "fine"), now))
    run(lambda: writer.post_event(qjob, Event("Warning", "Old", "long ago"), NOW))
    found = run(lambda: reader.warnings("default", qjob.uid, now))
    assert [warning.message for warning in found] == ["quota."]


def test_a_server_that_does_not_answer_is_a_temporary_error() -> None:
    configuration = client.Configuration(host="http://127.0.0.1:9")
    configuration.retries = False
    kube = Kube(configuration, 1, 2)
    with pytest.raises(ApiError) as error:
        run(lambda: kube.request("GET", "/version"))
    assert error.value.temporary
    assert error.value.code == 0


def test_who_does_not_lead_reads_and_does_not_write() -> None:
    configuration = client.Configuration(host="http://127.0.0.1:9")
    configuration.retries = False
    seconds = 0.0
    kube = Kube(configuration, 1, 2, write_seconds=lambda: seconds)
    for method in ("POST", "PATCH", "DELETE", "PUT"):
        with pytest.raises(NotLeaderError) as error:
            run(lambda method=method: kube.request(method, "/x", body={}))
        assert error.value.temporary
    seconds = 0.5
    with pytest.raises(ApiError, match="refused"):
        run(lambda: kube.request("POST", "/x", body={}))
    seconds = 0.0
    with pytest.raises(ApiError, match="refused"):
        run(lambda: kube.request("GET", "/x"))


def test_a_write_takes_no_longer_than_the_lease() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        configuration = client.Configuration(host=f"http://127.0.0.1:{silent.getsockname()[1]}")
        configuration.retries = False
        kube = Kube(configuration, 1, 30, write_seconds=lambda: 0.3)
        started = time.monotonic()
        with pytest.raises(ApiError, match=r"[Tt]imed? ?out"):
            run(lambda: kube.request("POST", "/x", body={}))
        assert time.monotonic() - started < 5


def test_a_refusal_is_not_temporary(server: Server) -> None:
    with pytest.raises(ApiError) as error:
        run(lambda: server.kube.request("GET", paths.item("Job", "default", "none")))
    assert (error.value.code, error.value.reason, error.value.temporary) == (404, "NotFound", False)
    assert server.codes[-1] == 404


def swept(server: Server, cache: Cache) -> tuple[Health, WorkQueue]:
    queue, health = WorkQueue(time.monotonic, lambda: 0.0), Health(time.monotonic, 120)
    run(lambda: Sweeper(cache, queue, Reader(server.kube), health, grace=0.0).sweep())
    return health, queue


def full(server: Server) -> Cache:
    """A cache that knows all that there is."""
    cache = Cache()
    for item in json.loads(server.api.kubectl("get", "qj", "-A", "-o", "json").stdout)["items"]:
        cache.put(QuantizationJob.of(item))
    for item in json.loads(server.api.kubectl("get", "jobs", "-A", "-o", "json").stdout)["items"]:
        cache.put(ChildJob.of(item))
    return cache


def test_a_sweep_finds_nothing_when_the_watch_told_all(server: Server) -> None:
    server.submit("seen")
    health, queue = swept(server, full(server))
    assert health.watch_missed == ""
    assert queue.depth == 0


def test_a_sweep_forgets_what_was_deleted_unseen(server: Server) -> None:
    qjob = server.submit("ghost")
    cache = full(server)
    server.api.kubectl("delete", "qj", "ghost")
    server.submit("touch")  # the listing's version passes the ghost's
    cache.put(server.qjob("touch"))
    health, queue = swept(server, cache)
    assert cache.record(Key(qjob.namespace, qjob.uid)) is None
    assert run(queue.get) == Key("default", qjob.uid)
    assert health.watch_missed == ""


def test_a_sweep_sees_that_the_watch_is_silent(server: Server) -> None:
    cache = full(server)
    server.submit("unseen")
    health, queue = swept(server, cache)
    assert "unseen" in health.watch_missed
    assert health.complaints(queue)


def test_nothing_is_decided_before_the_watch_has_told_all(server: Server) -> None:
    server.submit("first")
    queue, health = WorkQueue(time.monotonic, lambda: 0.0), Health(time.monotonic, 120)
    with pytest.raises(NotSyncedError, match="has not delivered"):
        run(lambda: Sweeper(Cache(), queue, Reader(server.kube), health).synchronize(0.2))
    assert not health.synced
    run(lambda: Sweeper(full(server), queue, Reader(server.kube), health).synchronize(10))
    assert health.synced


def test_a_listing_goes_page_by_page(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        server.submit(f"page-{number}")
    monkeypatch.setattr("quantization_operator.read.PAGE", "2")
    listing = run(lambda: Reader(server.kube).listing("QuantizationJob", None))
    names = {listed.name for listed in listing.objects.values()}
    assert {f"page-{number}" for number in range(5)} <= names
    assert listing.resource_version > 0
