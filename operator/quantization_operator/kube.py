"""Requests to the API server: the official client's connection, a bounded number of threads, plain JSON.

The client is synchronous; each request runs in one of `threads` threads, with a connection pool of the
same size, so that neither the event loop blocks nor connections are made and thrown away.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3
from kubernetes import client, config

from quantization_api.text import clean
from quantization_operator import decode

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
CHUNK = 256 * 1024
NO_ANSWER = 0
"""The code of an ApiError when the server gave no answer: rejected, cut off or timed out."""


Each = Callable[[Any], Any]
"""Makes of an object of a list what is kept of it."""


class ApiError(Exception):
    """The API server rejected a request, or did not answer (code 0). retry_after: seconds that it asked to wait."""

    def __init__(self, code: int, message: str, reason: str = "", retry_after: float = 0.0) -> None:
        message = clean(message)
        super().__init__(f"{code} {reason}: {message}" if code else message)
        self.code = code
        self.message = message
        self.reason = reason
        self.retry_after = retry_after

    @property
    def temporary(self) -> bool:
        """The same request may be answered later."""
        return self.code in (NO_ANSWER, 408, 429) or self.code >= 500


class NotLeaderError(ApiError):
    """A write was not sent, because another process may lead now."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(NO_ANSWER, f"{method} {path} was not sent: this process does not lead")


def log_in(connections: int) -> client.Configuration:
    """The configuration of a pod's service account, else of the kubeconfig that kubectl would use.

    Raises:
        kubernetes.config.ConfigException: there is neither.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.connection_pool_maxsize = connections
    configuration.retries = False  # retries are the queue's business, with its back-off
    return configuration


class Connection:
    """The API server, blocking: one request at a time in each of `configuration.connection_pool_maxsize` threads.

    `observe` is told the verb and the code of each answer, for the metrics.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        observe: Callable[[str, int], None] = lambda _verb, _code: None,
    ) -> None:
        self._client = client.ApiClient(configuration)
        self._observe = observe

    def request(
        self,
        method: str,
        path: str,
        timeout: float,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        each: Each | None = None,
    ) -> dict[str, Any]:
        """One request of at most `timeout` seconds; the answer's JSON. each: the answer is a list, of which only what
        this makes of each object is kept, in "items".

        Raises:
            ApiError: the answer is not a success, or there is none.
        """
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        arguments = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(*arguments, _request_timeout=timeout)
            rejected = not 200 <= response.status < 300
            answer = _listed(response.response, each) if each and not rejected else None
            data = b"" if answer else response.read()  # type: ignore[no-untyped-call]
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            self._observe(method, NO_ANSWER)
            raise ApiError(NO_ANSWER, f"{method} {path}: {type(error).__name__}: {error}") from error
        self._observe(method, response.status)
        if rejected:
            raise _error(response.status, data, response.headers.get("Retry-After"))
        return answer or _object(data, f"{method} {path}")

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()  # type: ignore[no-untyped-call]


class Kube:
    """The API server for the event loop.

    `write_seconds` is asked right before each write is sent: the longest time that it may take, 0 when this
    process must not write (any more).
    """

    def __init__(
        self,
        configuration: client.Configuration,
        threads: int,
        timeout: float,
        observe: Callable[[str, int], None] = lambda _verb, _code: None,
        write_seconds: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.configuration = configuration
        self._connection = Connection(configuration, observe)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self._timeout = timeout
        self._write_seconds = write_seconds

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        each: Each | None = None,
    ) -> dict[str, Any]:
        """One request; the answer's JSON. each: as of `Connection.request`.

        Raises:
            ApiError: the answer is not a success, or there is none.
            NotLeaderError: it would be a write, and this process must not write; nothing was sent.
        """

        def send() -> dict[str, Any]:
            timeout = self._timeout
            if method != "GET":  # asked in the thread: the request may have waited for it
                timeout = min(timeout, self._write_seconds())
            if timeout <= 0:
                raise NotLeaderError(method, path)
            return self._connection.request(
                method,
                path,
                timeout,
                query=query,
                body=body,
                content_type=content_type,
                accept=accept,
                each=each,
            )

        return await asyncio.get_running_loop().run_in_executor(self._threads, send)

    def close(self) -> None:
        """Send nothing more, wait for the requests that are under way, and let the connections go."""
        self._threads.shutdown(cancel_futures=True)
        self._connection.close()


def _listed(response: urllib3.HTTPResponse, each: Each) -> dict[str, Any]:
    """A list, read while it arrives; "items" is what `each` made of its objects."""
    reader = decode.ListReader(each)
    items: list[Any] = []
    try:
        for data in response.stream(CHUNK):
            items += reader.feed(data)
        items += reader.close()
    except ValueError as error:
        raise urllib3.exceptions.ProtocolError(f"the answer is not a list: {error}") from error
    return reader.rest | {"items": items}


def _object(data: bytes, request: str) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        ApiError: it is none.
    """
    try:
        answer = decode.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ApiError(NO_ANSWER, f"{request}: the answer is not a JSON object")
    return answer


def _error(code: int, data: bytes, retry_after: str | None) -> ApiError:
    """The error of an answer, whose body is a metav1.Status or, from a proxy, anything."""
    try:
        status = decode.loads(data)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    digits = retry_after or ""
    wait = float(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 0.0
    told, reason = status.get("message"), status.get("reason")
    text = told if isinstance(told, str) and told else data[:200].decode(errors="replace")
    return ApiError(code, text, reason if isinstance(reason, str) else "", wait)
