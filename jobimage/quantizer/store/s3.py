"""A prefix of an S3 bucket as a store (AWS, MinIO, SeaweedFS, Ceph, ...).

Facts that shape it: botocore retries requests but not a body that breaks off, so ranges are read again
here; the CRT transfer client ignores a custom endpoint, so transfers are the classic ones; some servers
accept a wrong checksum, so nothing here claims that what was written is intact (the artifact writer
reads it back).
"""

import base64
import binascii
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import ClientError
from s3transfer.subscribers import BaseSubscriber

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantizer.store.interface import (
    Buffer,
    Checkpoint,
    ObjectInfo,
    Place,
    PreconditionFailedError,
    keep_going,
)
from quantizer.store.s3_errors import MISSING, NO_ANSWER, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
RANGE_BYTES = 16 * MIB
READERS = 8
BODY_ATTEMPTS = 3
CONNECT_TIMEOUT = 5.0
WAKE_SECONDS = 0.5
PATIENCE_SECONDS = 15.0
"""How long a listing waits for a storage that is away. botocore gives up a refused connection or an unknown name after
a second or two, but a server that moves to another node is away for longer, and that must not cost an attempt."""
PAUSE_SECONDS = 3.0
DELETE_BATCH = 1000  # the limit of DeleteObjects
DEFAULT_REGION = "us-east-1"
TRANSFER = TransferConfig(
    multipart_threshold=64 * MIB,
    multipart_chunksize=64 * MIB,
    max_concurrency=4,
    preferred_transfer_client="classic",
)


class _Ended(BaseSubscriber):
    """Knows when a transfer has ended, well or not."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def on_done(self, future: object, **kwargs: object) -> None:  # noqa: ARG002 - the manager names them
        """Called by the transfer manager."""
        self.event.set()


def connect(access: StorageAccess, attempts: int, read_timeout: float) -> "S3Client":
    """A client with the ordinary credential chain of the AWS SDK.

    attempts include the first one; between them lies the back-off of botocore's standard mode.
    read_timeout: seconds without a byte after which an attempt is given up.
    """
    if access.endpoint and "@" in access.endpoint:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            "storage.endpoint must not carry credentials",
            "Put them into a Secret and name it in spec.storage.credentialsSecret.",
        )
    region = access.region or (DEFAULT_REGION if access.endpoint else None)
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=region,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": attempts},
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


class S3Store:
    """Objects of one bucket below one prefix."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        place: Place,
        access: StorageAccess,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._place = place
        # Every run begins by listing: this client and its patience find a dead endpoint within half a minute.
        self._control = connect(access, attempts=3, read_timeout=8)
        self._client = connect(access, attempts=4, read_timeout=60)
        self._sleep = sleep
        self._clock = clock

    @property
    def uri(self) -> str:
        """s3:// URI of the root."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Every object below the root whose key starts with prefix; markers of folders are left out."""
        give_up = self._clock() + PATIENCE_SECONDS
        while True:
            try:
                return self._list(prefix)
            except QuantizationError as error:
                if error.category is not Category.STORAGE_UNAVAILABLE or self._clock() >= give_up:
                    raise
                logger.warning("%s; trying again", error)
            self._sleep(PAUSE_SECONDS)

    def head(self, key: str) -> ObjectInfo | None:
        """One object with the sha256 that S3 keeps if it was written with one, or None."""
        with translated(self._place, self._uri_of(key)):
            try:
                answer = self._control.head_object(
                    Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED"
                )
            except ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"], _full_sha256(dict(answer)))

    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        """One byte range, in parallel requests of RANGE_BYTES when it is long."""
        buffer = bytearray(length)
        view = memoryview(buffer)
        if length <= RANGE_BYTES:
            if length:
                self._read_range(key, start, view, version)
            return buffer
        with ThreadPoolExecutor(READERS, thread_name_prefix="s3-read") as pool:
            parts = [
                pool.submit(
                    self._read_range, key, start + at, view[at : min(at + RANGE_BYTES, length)], version
                )
                for at in range(0, length, RANGE_BYTES)
            ]
            try:
                for part in parts:
                    part.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return buffer

    def put_file(self, key: str, path: Path, checkpoint: Checkpoint = keep_going) -> None:
        """Uploads a file, in parts when it is large; an upload that is stopped is aborted on the server."""
        ended = _Ended()
        with (
            translated(self._place, self._uri_of(key)),
            create_transfer_manager(self._client, TRANSFER) as manager,
        ):  # leaving by an exception cancels, which aborts a multipart upload
            upload = manager.upload(
                str(path),
                self._bucket,
                self._prefix + key,
                extra_args={"ChecksumAlgorithm": "SHA256"},
                subscribers=[ended],
            )
            while not ended.event.wait(WAKE_SECONDS):
                checkpoint()
            upload.result()

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        """One PUT, conditional if asked for (If-None-Match: *, If-Match: ETag)."""
        condition: dict[str, Any] = {}
        if if_absent:
            condition["IfNoneMatch"] = "*"
        if if_version is not None:
            condition["IfMatch"] = if_version
        with translated(self._place, self._uri_of(key)):
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=data,
                ChecksumAlgorithm="SHA256",
                **condition,
            )
        return answer["ETag"]

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects in batches."""
        everything = list(keys)
        for at in range(0, len(everything), DELETE_BATCH):
            batch = everything[at : at + DELETE_BATCH]
            with translated(self._place, self.uri):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": self._prefix + key} for key in batch], "Quiet": True},
                )
            for error in answer.get("Errors", []):
                denied = error.get("Code") == "AccessDenied"
                raise QuantizationError(
                    Category.ACCESS_DENIED if denied else Category.STORAGE_UNAVAILABLE,
                    f"{self._place.what}: s3://{self._bucket}/{error.get('Key')} cannot be deleted "
                    f"({error.get('Code')})",
                )

    def abort_uploads(self) -> int:
        """Aborts multipart uploads below the root; their parts cost storage until then."""
        with translated(self._place, self.uri):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
            for upload in uploads:
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return len(uploads)

    def _list(self, prefix: str) -> dict[str, ObjectInfo]:
        found = {}
        with translated(self._place, self.uri):
            pages = self._control.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"][len(self._prefix) :]
                    if key and not key.endswith("/"):
                        found[key] = ObjectInfo(key, item["Size"], item["ETag"])
        return dict(sorted(found.items()))

    def _uri_of(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def _read_range(self, key: str, start: int, target: memoryview, version: str | None) -> None:
        """Fills `target`; a body that breaks off is asked for again from where it broke."""
        condition: dict[str, Any] = {"IfMatch": version} if version else {}
        filled, attempt = 0, 0
        while filled < len(target):
            asked = f"bytes={start + filled}-{start + len(target) - 1}"
            try:
                with translated(self._place, self._uri_of(key)):
                    body = self._client.get_object(
                        Bucket=self._bucket, Key=self._prefix + key, Range=asked, **condition
                    )["Body"]
            except PreconditionFailedError:
                raise QuantizationError(
                    self._place.damaged, f"{self._uri_of(key)} was changed while it was read", "Run again."
                ) from None
            try:
                while block := body.read(MIB):
                    if filled + len(block) > len(target):
                        raise QuantizationError(
                            Category.STORAGE_UNAVAILABLE,
                            f"{self._uri_of(key)}: the server sends more than {asked}; it ignores ranges",
                            "Use an S3 server, or a proxy before it, that supports range requests.",
                        )
                    target[filled : filled + len(block)] = block
                    filled += len(block)
            except NO_ANSWER as error:
                attempt += 1
                if attempt == BODY_ATTEMPTS:
                    raise QuantizationError(
                        Category.STORAGE_UNAVAILABLE,
                        f"{self._place.what}: {self._uri_of(key)} breaks off again and again: {error}",
                    ) from error
                self._sleep(2.0**attempt / 2)
                continue
            if filled < len(target):
                raise QuantizationError(
                    self._place.damaged,
                    f"{self._uri_of(key)} ends after {start + filled} bytes; "
                    f"{start + len(target)} were expected",
                    "The object is cut short: copy it again.",
                )


def _full_sha256(answer: dict[str, Any]) -> str | None:
    """sha256 in hex of a whole object; the checksum of a multipart upload is one of its parts' checksums."""
    value = answer.get("ChecksumSHA256")
    if not value or answer.get("ChecksumType") == "COMPOSITE" or "-" in value:
        return None
    try:
        digest = base64.b64decode(value, validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 32 else None
