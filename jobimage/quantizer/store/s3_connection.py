"""A connection to one bucket: the clients, and how requests that fail or arrive corrupted are repeated."""

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import Loader

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantizer.store.endpoint import check_endpoint
from quantizer.store.interface import Place
from quantizer.store.patience import Patience
from quantizer.store.s3_errors import FlippedError, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

READERS = 8
CONNECT_TIMEOUT = 5.0
QUICK_SECONDS, SLOW_SECONDS = 10.0, 60.0
"""Seconds without a byte after which a request counts as unanswered: quick for listings and heads, slow for requests
that move bytes or make the server move them."""
SENDINGS = 3
DEFAULT_REGION = "us-east-1"

Answer = TypeVar("Answer")


def connect(access: StorageAccess, read_timeout: float) -> "S3Client":
    """A client with the usual credential chain of the AWS SDK. It tries once; patience.py does the retries.

    read_timeout: seconds without a byte after which a request is given up.

    Raises:
        QuantizationError: InvalidWorkflow for an endpoint that cannot be used.
    """
    check_endpoint(access)
    region = access.region or (DEFAULT_REGION if access.endpoint else None)
    session = botocore.session.get_session()
    session.register_component("data_loader", _service_models())
    try:
        client = boto3.session.Session(botocore_session=session).client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=region,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 1},
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=read_timeout,
                max_pool_connections=4 * READERS,
                s3={"addressing_style": "path" if access.endpoint else "auto"},
            ),
        )
    except ValueError as error:
        raise QuantizationError(
            Category.INVALID_WORKFLOW, f"storage.endpoint {access.endpoint} cannot be used: {error}"
        ) from error
    if access.refuse_link_local:  # a name may resolve to another address by the next request
        client.meta.events.register("before-send.s3", lambda **_: check_endpoint(access))
    return client


@functools.cache
def _service_models() -> Loader:
    """What boto3 knows of S3. It is the same for all clients of a run, and each would take 0.1 s to read it."""
    loader: Loader = botocore.session.get_session().get_component("data_loader")
    return loader


class Connection:
    """Asks one bucket; safe to share between threads.

    quick, slow: clients for requests that are answered at once, and for those that are not.
    """

    def __init__(
        self, bucket: str, place: Place, quick: "S3Client", slow: "S3Client", patience: Patience
    ) -> None:
        self.bucket, self.place = bucket, place
        self._quick, self._slow, self._patience = quick, slow, patience

    @classmethod
    def open(cls, bucket: str, place: Place, access: StorageAccess, patience: Patience) -> "Connection":
        """A new connection; nothing is sent yet."""
        clients = (connect(access, QUICK_SECONDS), connect(access, SLOW_SECONDS))
        return cls(bucket, place, *clients, patience)

    def impatient(self) -> "Connection":
        """The same connection without patience: every request is tried once."""
        return Connection(self.bucket, self.place, self._quick, self._slow, Patience(0))

    def uri(self, key: str) -> str:
        """s3:// URI of a whole key, or of the bucket."""
        return f"s3://{self.bucket}/{key}".rstrip("/")

    def ask(self, key: str, request: Callable[["S3Client"], Answer], quick: bool = False) -> Answer:
        """The server's answer. The request is repeated while the storage is away, and at once if it arrived corrupted,
        so it must be safe to send twice.

        Raises:
            QuantizationError, PreconditionFailedError, UploadLostError: see s3_errors.
        """
        uri, client = self.uri(key), self._quick if quick else self._slow

        def once() -> Answer:
            with translated(self.place, uri):
                return request(client)

        for _ in range(SENDINGS):
            try:
                return self._patience.call(once)
            except FlippedError as error:
                logger.warning("%s: the request arrived corrupted; sending it again", error)
        raise QuantizationError(
            Category.STORAGE_UNAVAILABLE,
            f"{self.place.what}: {uri}: the request arrived corrupted {SENDINGS} times in a row",
            "Check the network, and the proxies between this machine and the storage.",
        )
