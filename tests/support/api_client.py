"""The API server as tests ask it: in as few microseconds as Python allows, from any thread."""

import json
import ssl
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import urllib3
import yaml

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class RefusedError(Exception):
    """The API server did not do what it was asked for; status: of its answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A cluster administrator's client; every method may be called from many threads."""

    def __init__(self, kubeconfig: Path, connections: int = 32) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
        with TemporaryDirectory() as name:
            certificate, key = Path(name) / "certificate", Path(name) / "key"
            certificate.write_bytes(b64decode(user["client-certificate-data"]))
            key.write_bytes(b64decode(user["client-key-data"]))
            context.load_cert_chain(certificate, key)
        self._url = cluster["server"]
        self._pool = urllib3.PoolManager(maxsize=connections, ssl_context=context, retries=False)

    def send(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """One request; the answer.

        Raises:
            RefusedError: it is not a success.
        """
        answer = self._pool.request(
            method,
            self._url + path,
            body=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": content_type},
            timeout=60,
        )
        if answer.status >= 300:
            raise RefusedError(f"{method} {path}: {answer.status} {answer.data[:300]!r}", answer.status)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    def create(self, path: str, body: bytes) -> None:
        """Create an object that is already written as JSON; the answer is not looked at, beyond its code.

        Raises:
            RefusedError: it is not a success.
        """
        headers = {"Content-Type": "application/json", "Accept": METADATA}
        answer = self._pool.request("POST", self._url + path, body=body, headers=headers, timeout=60)
        if answer.status >= 300:
            raise RefusedError(f"POST {path}: {answer.status} {answer.data[:300]!r}", answer.status)

    def version(self, path: str) -> str:
        """The resourceVersion of a collection now."""
        return str(self._first(path)["metadata"]["resourceVersion"])

    def count(self, path: str) -> int:
        """How many objects a collection has."""
        first = self._first(path)
        return len(first["items"] or ()) + int(first["metadata"].get("remainingItemCount") or 0)

    def _first(self, path: str) -> dict[str, Any]:
        answer = self._pool.request(
            "GET", f"{self._url}{path}?limit=1", headers={"Accept": METADATA_LIST}, timeout=60
        )
        found: dict[str, Any] = json.loads(answer.data)
        return found

    def watch(self, path: str, *, metadata_only: bool, query: Mapping[str, str]) -> Iterator[bytes]:
        """The lines of a watch, one event each, until the server ends it."""
        answer = self._pool.request(
            "GET",
            self._url + path,
            fields={"watch": "true", **query},
            headers={"Accept": METADATA if metadata_only else "application/json"},
            timeout=urllib3.Timeout(connect=10, read=None),
            preload_content=False,
        )
        rest = b""
        for chunk in answer.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
