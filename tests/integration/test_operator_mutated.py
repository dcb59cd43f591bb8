"""Manifests that are broken in every way: each is refused with a sentence, or its job is brought to a clear state."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from tests.support.mutated_manifests import mutated_manifests
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import until

from local_cluster.control_plane import ApiServer
from quantization_api import GROUP, PLURAL, VERSION

pytestmark = pytest.mark.integration

SEEDS = (1, 2, 3)
EACH = 100
MOST_MEMORY_MB = 300
STATE_SECONDS = 60
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ApiServer(controllers=True) as api:
        yield Cluster(api, tmp_path_factory.mktemp("operator"))


def send(api: client.CustomObjectsApi, body: dict[str, Any], validation: str) -> tuple[int, str]:
    """POST as a client that validates strictly, or one that has unknown fields pruned; code and sentence."""
    try:
        api.create_namespaced_custom_object(
            GROUP, VERSION, NAMESPACE, PLURAL, body, field_validation=validation, _request_timeout=30
        )
    except ApiException as error:
        return int(error.status or 0), json.loads(error.body or "{}").get("message", "")
    return 201, ""


def peak_memory_mb(pid: int) -> float:
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1024


def test_broken_manifests_are_refused_or_get_a_state(cluster: Cluster) -> None:
    api = client.CustomObjectsApi(config.new_client_from_config(str(cluster.api.kubeconfig)))
    created: list[str] = []
    with cluster.operator(sweep_interval_seconds=10) as operator:
        for seed in SEEDS:
            for number, body in enumerate(mutated_manifests(seed, EACH, NAMESPACE)):
                code, sentence = send(api, body, "Ignore" if number % 2 else "Strict")
                if code == 201:
                    created.append(body["metadata"]["name"])
                else:
                    assert code in (400, 422), (body, code, sentence)
                    assert len(sentence) > 20, (body, sentence)

        def stateless() -> list[str]:
            bodies = {item["metadata"]["name"]: item for item in cluster.items("qj")}
            return [name for name in created if not (bodies[name].get("status") or {}).get("conditions")]

        until("every job has a state", lambda: not stateless(), STATE_SECONDS)
        assert len(SEEDS) * EACH / 10 < len(created) < len(SEEDS) * EACH * 9 / 10, len(created)
        for item in cluster.items("qj"):
            in_a_clear_state(item)
        assert operator.complaint() == ""
        assert operator.process.poll() is None
        assert peak_memory_mb(operator.process.pid) < MOST_MEMORY_MB
        failed = [
            line for line in operator.log if "reconciliation failed" in line["message"] or "exception" in line
        ]
        assert not failed, failed[:3]


def in_a_clear_state(item: dict[str, Any]) -> None:
    """A phase with a reason and a sentence; a failure has a category that is no defect, and a cure."""
    status = item["status"]
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert status["phase"] in ("Pending", "Suspended", "Failed"), item
    assert ready["reason"], item
    assert len(ready["message"]) > 10, item
    assert not CONTROL.search(json.dumps(status, ensure_ascii=False)), item
    if status["phase"] == "Failed":
        assert status["failure"]["category"] != "Internal", item
        assert status["failure"]["hint"], item
