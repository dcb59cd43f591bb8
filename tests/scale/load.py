"""The load: objects of one kind, created at a steady rate or as fast as the API server takes them."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.scale.plane import NAMESPACE
from tests.support.api_client import Client
from tests.support.manifests import manifest

THREADS = 16
JOBS_PATH = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two controllers: the objects that it turns into Jobs.

    job_label: the label of a Job that names its object.
    """

    name: str
    path: str
    job_label: str
    template: Mapping[str, Any]

    def bodies(self, prefix: str, count: int) -> Iterator[tuple[str, bytes]]:
        """The names and manifests of so many objects that differ only in their names and outputs."""
        return bodies((self.template,), prefix, count)


def _request(*changes: tuple[str, Any], **metadata: Any) -> dict[str, Any]:
    body = manifest(("output.uri", "s3://artifacts/NAME"), *changes)
    return body | {"metadata": {"name": "NAME", "namespace": NAMESPACE, **metadata}}


PATH = f"/apis/quantization.dev/v1alpha1/namespaces/{NAMESPACE}/quantizationjobs"
LABEL = "quantization.dev/job-name"
OPERATOR = Side("quantization-operator", PATH, LABEL, _request())
EXPIRING = _request(("ttlSecondsAfterFinished", 0))
"""It goes when it has ended, and with it its Job and pod."""
_WITHDRAWN = {"scale": "withdrawn"}
WITHDRAWN_PATH = f"{PATH}?labelSelector=scale%3Dwithdrawn"
PASSING = (
    EXPIRING,
    _request(labels=_WITHDRAWN),
    _request(("suspend", True), labels=_WITHDRAWN),
    _request(("suspend", True), labels=_WITHDRAWN),
)
"""Of those that come and go: one ends and expires, one is deleted wherever it is then, two while they are paused."""


def bodies(templates: Sequence[Mapping[str, Any]], prefix: str, count: int) -> Iterator[tuple[str, bytes]]:
    """The names and manifests of so many objects, of one template after another."""
    texts = [json.dumps(template) for template in templates]
    for number in range(count):
        name = f"{prefix}-{number}"
        yield name, texts[number % len(texts)].replace("NAME", name).encode()


def submit(client: Client, path: str, bodies: Iterable[tuple[str, bytes]], rate: float) -> dict[str, float]:
    """Create objects, `rate` a second (0: as fast as they are taken); when the request of each was sent.

    A request that is late because the server is slow does not make the next one late: the times between them are
    the load, whatever becomes of it.

    Raises:
        RefusedError: one was refused.
    """
    sent: dict[str, float] = {}

    def create(name: str, body: bytes) -> None:
        sent[name] = time.monotonic()
        client.create(path, body)

    started = time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        futures = []
        for number, (name, body) in enumerate(bodies):
            if rate:
                time.sleep(max(0.0, started + number / rate - time.monotonic()))
            futures.append(threads.submit(create, name, body))
        for future in futures:
            future.result()
    return sent
