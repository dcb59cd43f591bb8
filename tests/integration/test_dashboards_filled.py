"""Every panel has data: its query is sent to a real Prometheus that scrapes what operator and quantizer serve."""

import json
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tests.support import promtool
from tests.support.operator_process import until
from tests.support.ports import free_ports
from tests.unit.deploy.test_dashboards import QUERIES, VARIABLE, Query

from quantization_api.failures import Category
from quantization_operator.metrics import LIVE, Metrics
from quantizer.progress.metrics import RunCollector, registry_of
from quantizer.progress.tracker import Tracker

pytestmark = pytest.mark.integration

VALUES = {"fleet": {"namespace": ".*"}, "job": {"namespace": "team", "name": "job"}}
"""Of the dashboards' variables."""
LABELS = {"phase": ("Running", "Pending", "Succeeded"), "namespace": ("team",)}
LIMIT = 60


class Live(Collector):
    """What the operator reads at the moment of a scrape."""

    def collect(self) -> Iterator[Metric]:
        for name, (kind, text, labels) in LIVE.items():
            family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
                name, text, labels=labels
            )
            for phase in LABELS["phase"] if labels else ("",):
                family.add_metric((phase, "team") if labels else (), 1)
            yield family


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    ports = dict(zip(("operator", "quantizer", "prometheus"), free_ports(3), strict=True))
    metrics, tracker = Metrics(), Tracker()
    metrics.registry.register(Live())
    jobs = registry_of(RunCollector(tracker, "job", "team", lambda: 2**30, lambda: 0))
    servers = [
        start_http_server(ports[name], "127.0.0.1", registry)[0]
        for name, registry in (("operator", metrics.registry), ("quantizer", jobs))
    ]
    stop = threading.Event()
    working = threading.Thread(target=work, args=(metrics, tracker, stop))
    working.start()
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": name,
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{ports[name]}"]}],
            }
            for name in ("operator", "quantizer")
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{ports['prometheus']}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(promtool.program("prometheus"), f"--config.file={folder}/prometheus.yml"),
                *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        stop.set()
        working.join()
        server.kill()
        server.wait()
        for each in servers:
            each.shutdown()
            each.server_close()


def work(metrics: Metrics, tracker: Tracker, stop: threading.Event) -> None:
    """A job fails and one succeeds each second, and a pod works."""
    with tracker.stage("calibrate"):
        while not stop.wait(0.5):
            metrics.failures.labels(Category.INTERNAL).inc()
            metrics.observe_request("GET", 200)
            metrics.queue_seconds.observe(3)
            metrics.job_seconds.labels("GptqQuantizer", "Succeeded").observe(100)
            metrics.reconcile_seconds.labels("running").observe(0.01)
            tracker.count_tokens("calibrate", 100)
            tracker.count_bytes("read model", 100)


def answer(url: str, query: Query) -> list[dict[str, Any]]:
    values = VALUES[query.dashboard]
    expr = VARIABLE.sub(lambda found: values[found[1] or found[2]], query.expr)
    asked = urllib.parse.urlencode({"query": expr})
    with urllib.request.urlopen(f"{url}/api/v1/query?{asked}", timeout=10) as said:
        found: list[dict[str, Any]] = json.load(said)["data"]["result"]
    return found


def is_filled(url: str, query: Query) -> bool:
    try:
        found = answer(url, query)
    except OSError:  # it is starting
        return False
    return bool(found) and all(float(one["value"][1]) == float(one["value"][1]) for one in found)


def test_every_panel_has_data(url: str) -> None:
    empty = list(QUERIES)
    deadline = time.monotonic() + LIMIT
    while empty and time.monotonic() < deadline:
        time.sleep(1)
        empty = [query for query in empty if not is_filled(url, query)]
    assert [str(query) for query in empty] == []


def test_a_job_of_another_name_is_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_jobs = [query for query in QUERIES if query.dashboard == "job"]
    until("it is scraped", lambda: is_filled(url, of_jobs[0]))
    monkeypatch.setitem(VALUES, "job", {"namespace": "team", "name": "other"})
    assert all(answer(url, query) == [] for query in of_jobs)
