"""Uploads a file to S3, large ones in parts: each part is retried separately, and nothing is left behind.

An upload that was started but whose answer was lost is an orphan: its id is unknown, and its parts cost storage. So
after a lost answer the key's uploads are listed, and those that are not ours are dropped.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from botocore.exceptions import HTTPClientError
from s3transfer.utils import ReadFileChunk

from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import StopCheck
from quantizer.store.s3_connection import Answer, Connection
from quantizer.store.s3_errors import UploadLostError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
PART_BYTES = 64 * MIB
MAX_PARTS = 10_000
SENDERS = 4
BEGINNINGS = 3
WAKE_SECONDS = 0.5
CHECKSUM: Literal["SHA256"] = "SHA256"


class _StoppedError(Exception):
    """Another part failed, or the run was stopped: this one need not be finished."""


def upload(connection: Connection, key: str, path: Path, stop_check: StopCheck) -> None:
    """Stores a file under a full key, completely or not at all; stop_check is called every WAKE_SECONDS."""
    for _ in range(BEGINNINGS):
        try:
            return _Upload(connection, key, path, stop_check).run()
        except UploadLostError as error:
            logger.warning("the server lost the upload %s; starting it again", error)
    raise QuantizationError(
        Category.STORAGE_UNAVAILABLE,
        f"{connection.place.what}: {connection.uri(key)}: the server lost {BEGINNINGS} uploads in a row",
        "Check the storage's log, and the bucket's rules that drop unfinished uploads.",
    )


class _Upload:
    def __init__(self, connection: Connection, key: str, path: Path, stop_check: StopCheck) -> None:
        self._connection, self._key, self._path = connection, key, path
        self._stop_check = stop_check
        self._size = path.stat().st_size
        self._part_bytes = max(PART_BYTES, -(-self._size // MAX_PARTS))
        self._stopped = threading.Event()

    def run(self) -> None:
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="s3-write") as pool:
            try:
                if self._size <= self._part_bytes:
                    self._all([pool.submit(self._send_whole)])
                else:
                    self._send_parts(pool)
            finally:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _send_whole(self) -> None:
        def request(client: "S3Client") -> None:
            with self._bytes(0, self._size) as body:
                client.put_object(**self._object, Body=body, ChecksumAlgorithm=CHECKSUM)

        self._ask(request)

    def _send_parts(self, pool: ThreadPoolExecutor) -> None:
        upload_id, lost = self._begin()
        starts = range(0, self._size, self._part_bytes)
        futures = [
            pool.submit(self._send_part, upload_id, number, start)
            for number, start in enumerate(starts, start=1)
        ]
        try:
            self._complete(upload_id, self._all(futures))
        except BaseException:
            self._stopped.set()
            pool.shutdown(
                wait=True, cancel_futures=True
            )  # a part that arrives after the abort would be left behind
            self._abort(upload_id)
            raise
        finally:
            if lost:
                self._drop_strays()

    def _begin(self) -> tuple[str, bool]:
        """The id of the upload, and whether an answer was lost, so that there may be an orphan."""
        tries = 0

        def request(client: "S3Client") -> str:
            nonlocal tries
            tries += 1
            return client.create_multipart_upload(**self._object, ChecksumAlgorithm=CHECKSUM)["UploadId"]

        return self._ask(request), tries > 1

    def _send_part(self, upload_id: str, number: int, start: int) -> "CompletedPartTypeDef":
        length = min(self._part_bytes, self._size - start)

        def request(client: "S3Client") -> "CompletedPartTypeDef":
            with self._bytes(start, length) as body:
                answer = client.upload_part(
                    **self._object,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=body,
                    ChecksumAlgorithm=CHECKSUM,
                )
            part: CompletedPartTypeDef = {"PartNumber": number, "ETag": answer["ETag"]}
            if value := answer.get("ChecksumSHA256"):
                part["ChecksumSHA256"] = value
            return part

        return self._ask(request)

    def _complete(self, upload_id: str, parts: "Sequence[CompletedPartTypeDef]") -> None:
        def request(client: "S3Client") -> None:
            client.complete_multipart_upload(
                **self._object, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )

        try:
            self._ask(request)
        except UploadLostError:
            # The upload may be complete, and the first answer lost. The artifact writer reads it back in any case.
            if not self._is_there():
                raise

    def _is_there(self) -> bool:
        head = self._ask(
            lambda client: client.list_objects_v2(Bucket=self._connection.bucket, Prefix=self._key)
        )
        return any(
            item["Key"] == self._key and item["Size"] == self._size for item in head.get("Contents", [])
        )

    def _abort(self, upload_id: str) -> None:
        """Best effort: another error is already on its way, and the next run drops leftovers."""
        try:
            self._connection.impatient().ask(
                self._key, lambda client: client.abort_multipart_upload(**self._object, UploadId=upload_id)
            )
        except (QuantizationError, UploadLostError) as error:
            logger.warning("an unfinished upload remains at %s: %s", self._connection.uri(self._key), error)

    def _drop_strays(self) -> None:
        """Aborts the uploads of this key whose ids we never got; ours has ended by now."""
        try:
            dropped = drop_uploads(self._connection.impatient(), self._key, lambda key: key == self._key)
        except QuantizationError as error:
            logger.warning("unfinished uploads may remain at %s: %s", self._connection.uri(self._key), error)
        else:
            logger.info("dropped %d uploads whose answer was lost", dropped)

    def _all(self, futures: "Sequence[Future[Any]]") -> list[Any]:
        """The results, in order; stop_check is called while waiting."""
        pending = set(futures)
        while pending:
            done, pending = wait(pending, WAKE_SECONDS, FIRST_EXCEPTION)
            for future in done:
                future.result()
            self._stop_check()
        return [future.result() for future in futures]

    def _bytes(self, start: int, length: int) -> "AbstractContextManager[IO[bytes]]":
        chunk = ReadFileChunk.from_filename(
            str(self._path), start_byte=start, chunk_size=length, callbacks=[self._go_on]
        )
        return cast("AbstractContextManager[IO[bytes]]", chunk)

    def _go_on(self, bytes_transferred: int) -> None:  # noqa: ARG002 - s3transfer names it
        if self._stopped.is_set():
            raise _StoppedError

    def _ask(self, request: "Callable[[S3Client], Answer]") -> "Answer":
        def unless_stopped(client: "S3Client") -> "Answer":
            if self._stopped.is_set():
                raise _StoppedError
            try:
                return request(client)
            except HTTPClientError as error:
                if self._stopped.is_set():  # raised by the body; botocore reports a broken connection
                    raise _StoppedError from error
                raise

        return self._connection.ask(self._key, unless_stopped)

    @property
    def _object(self) -> dict[str, Any]:
        return {"Bucket": self._connection.bucket, "Key": self._key}


def drop_uploads(connection: Connection, prefix: str, ours: Callable[[str], bool] = lambda _: True) -> int:
    """Aborts the unfinished uploads below a prefix whose key is ours; their parts cost storage until then."""

    def listed(client: "S3Client") -> list[tuple[str, str]]:
        pages = client.get_paginator("list_multipart_uploads").paginate(
            Bucket=connection.bucket, Prefix=prefix
        )
        return [(upload["Key"], upload["UploadId"]) for page in pages for upload in page.get("Uploads", [])]

    uploads = [(key, upload_id) for key, upload_id in connection.ask(prefix, listed) if ours(key)]
    for key, upload_id in uploads:
        _abort_one(connection, key, upload_id)
    return len(uploads)


def _abort_one(connection: Connection, key: str, upload_id: str) -> None:
    try:
        connection.ask(
            key,
            lambda client: client.abort_multipart_upload(
                Bucket=connection.bucket, Key=key, UploadId=upload_id
            ),
        )
    except UploadLostError:
        logger.debug("the upload %s had already ended", upload_id)
