"""A prefix of an S3 bucket as a store (AWS, MinIO, SeaweedFS, Ceph, ...).

What shapes it: botocore does not retry for minutes, nor when a body breaks off, so it tries once and all retries are
done here, with one budget (patience.py); some servers accept wrong checksums, so nothing here claims that what was
written is intact (the artifact writer reads it back).
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantizer.store import s3_copy
from quantizer.store.checksum import CRCS
from quantizer.store.interface import (
    Buffer,
    ObjectInfo,
    Place,
    PreconditionFailedError,
    StopCheck,
    never_stop,
)
from quantizer.store.keys import checked
from quantizer.store.patience import AwayError, Patience
from quantizer.store.s3_connection import READERS, Answer, Connection
from quantizer.store.s3_errors import BUSY, DENIED, MISSING, NO_ANSWER, code_of
from quantizer.store.s3_upload import drop_uploads, upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
        ObjectIdentifierTypeDef,
    )

MIB = 1024 * 1024
RANGE_BYTES = 16 * MIB
DELETE_BATCH = 1000  # the limit of DeleteObjects


class S3Store:
    """Objects of one bucket below one prefix.

    patience: shared by all stores of a run; by default, a new one with the access's budget.
    """

    def __init__(
        self, bucket: str, prefix: str, place: Place, access: StorageAccess, patience: Patience | None = None
    ) -> None:
        waiting = patience or Patience(access.patience_seconds)
        self._connection = Connection.open(bucket, place, access, waiting)
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._place = place

    @property
    def uri(self) -> str:
        """s3:// URI of the root."""
        return self._connection.uri(self._prefix)

    def impatient(self) -> "S3Store":
        """The same bucket without patience."""
        store = object.__new__(S3Store)
        store._connection, store._prefix, store._place = (
            self._connection.impatient(),
            self._prefix,
            self._place,
        )
        return store

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Every object below the root whose key starts with prefix; without folder markers."""
        found = {}
        for page in self._pages(self._prefix + prefix):
            for item in page.get("Contents", []):
                key = item["Key"][len(self._prefix) :]
                if key and not key.endswith("/"):
                    found[key] = ObjectInfo(key, item["Size"], item["ETag"])
        return dict(sorted(found.items()))

    def head(self, key: str) -> ObjectInfo | None:
        """One object with the checksums that S3 keeps, or None."""

        def request(client: "S3Client") -> "HeadObjectOutputTypeDef | None":
            try:
                return client.head_object(**self._object(key), ChecksumMode="ENABLED")
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise

        answer = self._ask(key, request, quick=True)
        if answer is None:
            return None
        said = dict(answer)
        return ObjectInfo(
            key, answer["ContentLength"], answer["ETag"], _full_sha256(said), _full_crc(said), _md5(said)
        )

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

    def put_file(self, key: str, path: Path, stop_check: StopCheck = never_stop) -> None:
        """Uploads a file, in parts when it is large; an upload that is stopped is aborted on the server."""
        upload(self._connection, self._prefix + checked(self._place, key), path, stop_check)

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        """One PUT, conditional if asked for (If-None-Match: *, If-Match: ETag).

        A PUT whose answer was lost is repeated, so its condition may fail because of its own first try: the caller must
        read what is there before blaming another process.
        """
        condition: dict[str, Any] = {}
        if if_absent:
            condition["IfNoneMatch"] = "*"
        if if_version is not None:
            condition["IfMatch"] = if_version
        return self._ask(
            key,
            lambda client: client.put_object(
                **self._object(key), Body=data, ChecksumAlgorithm="SHA256", **condition
            ),
        )["ETag"]

    def copy(self, source: str, target: str) -> None:
        """One request, or one for each part of a large object."""
        s3_copy.copy(self._connection, self._object(source)["Key"], self._object(target)["Key"])

    def delete_if(self, key: str, version: str) -> None:
        """One DELETE with If-Match."""
        s3_copy.delete_if(self._connection, self._object(key)["Key"], version)

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects in batches."""
        everything = list(keys)
        for at in range(0, len(everything), DELETE_BATCH):
            self._delete([self._object(key)["Key"] for key in everything[at : at + DELETE_BATCH]])

    def abort_uploads(self) -> int:
        """Aborts multipart uploads below the root; their parts cost storage until then."""
        return drop_uploads(self._connection, self._prefix)

    def _object(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._connection.bucket, "Key": self._prefix + checked(self._place, key)}

    def _uri_of(self, key: str) -> str:
        return self._connection.uri(self._prefix + key)

    def _ask(self, key: str, request: "Callable[[S3Client], Answer]", quick: bool = False) -> "Answer":
        return self._connection.ask(self._prefix + key, request, quick)

    def _pages(self, prefix: str) -> "Iterator[ListObjectsV2OutputTypeDef]":
        """Each page is a separate call, so that a late failure does not restart a long listing."""
        following: dict[str, Any] = {}
        while True:

            def request(client: "S3Client", following: dict[str, Any] = following) -> Any:
                return client.list_objects_v2(Bucket=self._connection.bucket, Prefix=prefix, **following)

            page = self._connection.ask(self._prefix, request, quick=True)
            yield page
            if not page.get("IsTruncated"):
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}

    def _delete(self, keys: "Sequence[str]") -> None:
        """One batch; the server may refuse parts of it."""
        objects: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys]

        def request(client: "S3Client") -> None:
            answer = client.delete_objects(
                Bucket=self._connection.bucket, Delete={"Objects": objects, "Quiet": True}
            )
            for error in answer.get("Errors", []):
                raise self._not_deleted(str(error.get("Key")), str(error.get("Code")))

        self._connection.ask(self._prefix, request)

    def _not_deleted(self, key: str, code: str) -> QuantizationError:
        sentence = f"{self._place.what}: {self._connection.uri(key)} cannot be deleted ({code})"
        if code in DENIED:
            return QuantizationError(Category.ACCESS_DENIED, sentence)
        if code in BUSY or code in ("InternalError", "ServiceUnavailable"):
            return AwayError(sentence)
        return QuantizationError(Category.STORAGE_UNAVAILABLE, sentence)

    def _read_range(self, key: str, start: int, target: memoryview, version: str | None) -> None:
        """Fills `target`; a body that breaks off is requested again from where it broke."""
        filled = 0
        while filled < len(target):
            rest, at = target[filled:], start + filled

            def request(client: "S3Client", rest: memoryview = rest, at: int = at) -> int:
                return self._fill(client, key, at, rest, version)

            try:
                filled += self._ask(key, request)
            except PreconditionFailedError:
                raise self._place.change(self._uri_of(key), "was replaced while it was being read") from None

    def _fill(self, client: "S3Client", key: str, at: int, target: memoryview, version: str | None) -> int:
        """Number of bytes received in one answer, at least one."""
        asked = f"bytes={at}-{at + len(target) - 1}"
        condition: dict[str, Any] = {"IfMatch": version} if version else {}
        try:
            body = client.get_object(**self._object(key), Range=asked, **condition)["Body"]
        except ClientError as error:
            if code_of(error) not in MISSING:
                raise
            raise self._place.change(self._uri_of(key), "was deleted during the run") from error
        filled = 0
        try:
            while block := body.read(MIB):
                if filled + len(block) > len(target):
                    raise self._ignores_ranges(key, asked)
                target[filled : filled + len(block)] = block
                filled += len(block)
        except NO_ANSWER:
            if not filled:
                raise
        if not filled:
            raise self._place.change(self._uri_of(key), f"ends after {at} bytes, short of its listed size")
        return filled

    def _ignores_ranges(self, key: str, asked: str) -> QuantizationError:
        return QuantizationError(
            Category.INVALID_WORKFLOW,
            f"{self._uri_of(key)}: the server sent more than {asked}: it ignores ranges",
            "Use an S3 server, and a proxy if there is one, that supports range requests.",
        )


def _full_sha256(answer: dict[str, Any]) -> str | None:
    """sha256 in hex of a whole object; None for a multipart upload, whose checksum is over its parts' checksums."""
    digest = _full(answer, "ChecksumSHA256", 32)
    return None if digest is None else digest.hex()


def _full_crc(answer: dict[str, Any]) -> tuple[str, int] | None:
    """The cheapest checksum of a whole object that can be combined from those of its ranges."""
    for name, crc in CRCS.items():
        digest = _full(answer, f"Checksum{name}", crc.width // 8)
        if digest is not None:
            return name, int.from_bytes(digest)
    return None


def _full(answer: dict[str, Any], field: str, length: int) -> bytes | None:
    value = answer.get(field)
    if not value or answer.get("ChecksumType") == "COMPOSITE" or "-" in value:
        return None
    try:
        digest = base64.b64decode(value, validate=True)
    except binascii.Error:
        return None
    return digest if len(digest) == length else None


def _md5(answer: dict[str, Any]) -> str | None:
    """The ETag, where it looks like an MD5: the object came in one piece and is not encrypted with its own key."""
    tag = str(answer.get("ETag", "")).strip('"')
    encrypted = answer.get("SSEKMSKeyId") or answer.get("SSECustomerAlgorithm")
    plain = len(tag) == 32 and all(letter in "0123456789abcdef" for letter in tag)
    return tag if plain and not encrypted else None
