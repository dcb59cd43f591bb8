"""`make demo-monitoring`: a Prometheus beside the cluster scrapes operator and pods; dashboards show a real job."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import promtool
from tests.support.ports import free_ports
from tests.unit.deploy.test_dashboards import QUERIES, VARIABLE, Query

from local_cluster import images, processes
from local_cluster.servers import MONITORING

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

JOB = "watched"
EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
LIMIT = 420.0
VALUES = {"fleet": {"namespace": ".*"}, "job": {"namespace": "quantization-e2e", "name": JOB}}


@pytest.fixture(scope="module")
def url(whole: Any) -> Iterator[str]:
    (port,) = free_ports(1)
    path = f"{promtool.program('prometheus').parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "local_cluster", "monitoring", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert f"http://127.0.0.1:{port}/targets" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert not processes.running(whole.settings, MONITORING)
    finally:
        process.kill()
        processes.stop(whole.settings, [MONITORING])


def get(url: str, path: str, **asked: str) -> Any:
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(asked)}", timeout=10) as said:
        return json.load(said)["data"]


def is_filled(url: str, query: Query) -> bool:
    values = VALUES[query.dashboard]
    return bool(
        get(url, "query", query=VARIABLE.sub(lambda name: values[name[1] or name[2]], query.expr))["result"]
    )


def _without_a_model(manifest: dict[str, Any]) -> None:
    manifest["spec"]["workflow"]["input_model"]["model_path"] = "s3://models/nothing"


def test_a_job_fills_the_panels_while_it_runs(url: str, whole: Any) -> None:
    whole.apply("watched-failing", _without_a_model)
    whole.apply_example(EXAMPLE, JOB)  # whole, since a rate takes two scrapes
    empty = list(QUERIES)
    deadline, ended = time.monotonic() + LIMIT, 0.0
    while empty and time.monotonic() < deadline:
        time.sleep(2)
        empty = [query for query in empty if not is_filled(url, query)]
        phase = whole.get("quantizationjob", JOB).get("status", {}).get("phase")
        if phase == "Succeeded" and not ended:
            ended = time.monotonic()
        if ended and time.monotonic() - ended > 60:  # what is known of its end is scraped by then
            break
    assert [str(query) for query in empty] == []


def test_both_replicas_are_scraped_and_the_alerts_are_loaded(url: str) -> None:
    up = get(url, "query", query='up{job="quantization-operator"}')["result"]
    assert {one["value"][1] for one in up} == {"1"}
    (group,) = get(url, "rules")["groups"]
    assert all(rule["health"] in ("ok", "unknown") for rule in group["rules"])
