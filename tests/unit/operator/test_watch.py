"""What the operator's watch costs for each event, beyond the operator's own work, and what no object can do to it."""

import asyncio
import inspect
import json
import logging
from typing import Any

import kopf
import pytest
from aiohttp import web
from kopf._cogs.clients import api, fetching, watching
from kopf._cogs.clients.auth import vault_var
from kopf._cogs.structs.credentials import ConnectionInfo, Vault
from kopf._cogs.structs.references import Resource
from tests.support.cluster_objects import child, quantization_job, running

from quantization_operator import kopf_client, watch
from quantization_operator.cache import Cache, Key
from quantization_operator.identity import QJOB_UID_LABEL
from quantization_operator.metrics import Metrics
from quantization_operator.probes import Health
from quantization_operator.queue import WorkQueue
from quantization_operator.snapshots import ChildPod
from quantization_operator.unreadable import REMEMBERED, Unreadable

pytestmark = pytest.mark.unit

PODS = Resource(
    group="", version="v1", plural="pods", kind="Pod", namespaced=True, verbs=frozenset({"list", "watch"})
)


def test_an_event_costs_no_copy_of_the_object() -> None:
    """kopf copies and compares whole objects for handlers of changes; there are none."""
    persistence = watch.kopf_settings().persistence
    body = kopf.Body(quantization_job())
    assert persistence.diffbase_storage.build(body=body) == {}
    assert persistence.diffbase_storage.fetch(body=body) is None
    essence = kopf.BodyEssence()
    assert persistence.progress_storage.clear(essence=essence) is essence


# --- the places in kopf's client that are replaced -----------------------------------------------------------------


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "json", api.json)
    monkeypatch.setattr(fetching, "fetch_objs", fetching.fetch_objs)
    kopf_client.install(watch.carry)


def test_kopf_has_the_two_places_as_they_were_when_they_were_replaced() -> None:
    assert api.json is json, "the module's name for its decoder"
    assert "json.loads(line" in inspect.getsource(api.stream)
    assert "fetching.fetch_objs(" in inspect.getsource(watching.continuous_watch)
    assert list(inspect.signature(fetching.fetch_objs).parameters) == [
        "settings",
        "resource",
        "namespace",
        "logger",
    ]


def deep(levels: int) -> str:
    return '{"f:a":' * levels + "{}" + "}" * levels


def with_fields(body: dict[str, Any], fields: str) -> str:
    body["metadata"]["managedFields"] = [{"manager": "x", "fieldsV1": "FIELDS"}]
    return json.dumps(body).replace('"FIELDS"', fields)


class Server:
    """An API server that lists pages and then tells of events, all as they are written here."""

    def __init__(self, pages: list[str], events: list[str]) -> None:
        self.pages, self.events = pages, events
        self.asked: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.asked.append(query)
        if "watch" not in query:
            number = int(query.get("continue") or 0)
            return web.Response(text=self.pages[number], content_type="application/json")
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.events:
            await response.write(event.encode() + b"\n")
        await asyncio.sleep(60)
        return response


def page(number: int, pages: int, *items: str) -> str:
    following = str(number + 1) if number + 1 < pages else ""
    metadata = json.dumps({"resourceVersion": "77", "continue": following})
    return f'{{"apiVersion":"v1","items":[{",".join(items)}],"kind":"PodList","metadata":{metadata}}}'


async def told(server: Server, count: int) -> list[Any]:
    """So many events of kopf's continuous watch."""
    application = web.Application(client_max_size=2**24)
    application.router.add_get("/api/v1/pods", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    vault = Vault({"x": ConnectionInfo(server=f"http://127.0.0.1:{port}")})
    vault_var.set(vault)
    found: list[Any] = []
    stream = watching.continuous_watch(
        settings=watch.kopf_settings(), resource=PODS, namespace=None, operator_pause_waiter=asyncio.Future()
    )
    try:
        async with asyncio.timeout(20):
            async for event in stream:
                found.append(event)
                if len(found) == count:
                    break
    finally:
        await vault.close()
        await runner.cleanup()
    return found


@pytest.mark.usefixtures("patched")
def test_deep_and_large_objects_are_listed_and_watched_among_others() -> None:
    normal, other = running(name="normal"), running(name="other")
    large = running(name="large", annotations={"x": "y" * 1_300_000})
    server = Server(
        [
            page(0, 2, json.dumps(normal), with_fields(running(name="deep"), deep(1200))),
            page(1, 2, json.dumps(large), with_fields(running(name="deeper"), deep(9000))),
        ],
        [
            json.dumps({"type": "MODIFIED", "object": normal | {"kind": "Pod"}}),
            '{"type":"MODIFIED","object":'
            + with_fields(running(name="deep") | {"kind": "Pod"}, deep(1200))
            + "}",
            json.dumps(
                {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "99"}}}
            ),
            json.dumps({"type": "DELETED", "object": other | {"kind": "Pod"}}),
        ],
    )
    events = asyncio.run(told(server, 9))
    assert watching.Bookmark.LISTED is events[4]
    said = [(e["type"], e["object"]["metadata"].get("name")) for e in events if isinstance(e, dict)]
    assert said == [
        (None, "normal"),
        (None, "deep"),
        (None, "large"),
        (None, "deeper"),
        ("MODIFIED", "normal"),
        ("MODIFIED", "deep"),
        ("BOOKMARK", None),
        ("DELETED", "other"),
    ]
    for event in events:
        if isinstance(event, dict) and event["type"] != "BOOKMARK":
            assert isinstance(event["object"][watch.SNAPSHOT], ChildPod)
            assert len(repr(event)) < 3_000
    assert [query.get("continue") for query in server.asked] == [None, "1", None]
    assert server.asked[0]["labelSelector"] == watch.MANAGED_BY_SELECTOR
    assert server.asked[2]["resourceVersion"] == "77"


@pytest.mark.usefixtures("patched")
def test_a_list_that_breaks_off_is_begun_anew_and_ends_nothing() -> None:
    whole = page(0, 1, json.dumps(running()))
    server = Server([whole[: len(whole) // 2]], [])
    assert asyncio.run(told(server, 1)) == []


def test_an_error_of_a_watch_is_kopfs() -> None:
    lines = kopf_client._Lines(watch.carry)
    event = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
    assert lines.loads(json.dumps(event)) == event


# --- the handler ---------------------------------------------------------------------------------------------------


class Handled:
    """The handler of a kind, and what it has changed."""

    def __init__(self, kind: Any) -> None:
        self.kind, self.cache, self.metrics = kind, Cache(), Metrics()
        self.queue = WorkQueue(lambda: 0.0, lambda: 0.0)
        unreadable = Unreadable(self.metrics.observe_unreadable)
        health = Health(lambda: 0.0, 120)
        self._seen = watch.handler_of(kind, self.cache, self.queue, health, lambda: None, unreadable)

    def __call__(self, body: dict[str, Any], event: str | None = "ADDED") -> None:
        asyncio.run(self._seen({"type": event, "object": watch.carry(body | {"kind": self.kind})}))

    @property
    def unreadable(self) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "quantization_unreadable_objects_total", {"kind": self.kind}
            )
            or 0
        )


def test_an_object_that_is_nobodys_is_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    handled = Handled("Job")
    for version in ("20", "21"):
        handled(child(labels={QJOB_UID_LABEL: ""}, resourceVersion=version))
    assert handled.unreadable == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "is ignored" in record.getMessage()
    assert len(handled.cache) == 0
    assert handled.queue.depth == 0


def test_an_object_that_is_nobodys_any_more_leaves_its_job() -> None:
    handled = Handled("Pod")
    handled(running())
    assert len(handled.cache) == 1
    handled(running(labels={QJOB_UID_LABEL: ""}, resourceVersion="31"), "MODIFIED")
    assert len(handled.cache) == 0
    handled(running(resourceVersion="32"), "MODIFIED")
    assert handled.cache.record(Key("default", quantization_job()["metadata"]["uid"])) is not None


def test_how_many_were_named_is_bounded() -> None:
    named = Unreadable(lambda _kind: None)
    for number in range(REMEMBERED + 10):
        named.note("Pod", {"name": f"p{number}", "namespace": 7})
    assert len(named._named) == REMEMBERED
