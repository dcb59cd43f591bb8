"""Copying and conditional removal of objects in one bucket, done by the server."""

from typing import TYPE_CHECKING, Literal

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from quantizer.store.interface import PreconditionFailedError
from quantizer.store.s3_connection import Connection
from quantizer.store.s3_errors import MISSING, UploadLostError, code_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024 * 1024
COPIES = TransferConfig(multipart_threshold=1024 * MIB, multipart_chunksize=256 * MIB, max_concurrency=4)
"""The server is silent while it copies, so each part is small enough to finish well before the client's timeout."""
CHECKSUM: Literal["SHA256"] = "SHA256"
BEGINNINGS = 3
NO_CONDITIONS = {"NotImplemented", "501"}


def copy(connection: Connection, source: str, target: str) -> None:
    """Copies an object to another whole key; no byte passes through this machine."""

    def request(client: "S3Client") -> None:
        client.copy(
            {"Bucket": connection.bucket, "Key": source},
            connection.bucket,
            target,
            ExtraArgs={"ChecksumAlgorithm": CHECKSUM},
            Config=COPIES,
        )

    for _ in range(BEGINNINGS):
        try:
            return connection.ask(source, request)
        except UploadLostError:  # another process dropped its parts
            continue
    raise connection.place.change(
        connection.uri(target), "was dropped again and again while it was being copied"
    )


def delete_if(connection: Connection, key: str, version: str) -> None:
    """Removes an object if it has this ETag. Without conditional deletes, the ETag is compared just before.

    Raises:
        PreconditionFailedError: it has another one.
    """

    def request(client: "S3Client") -> None:
        try:
            client.delete_object(Bucket=connection.bucket, Key=key, IfMatch=version)
        except ClientError as error:
            if code_of(error) in NO_CONDITIONS:
                _compare_and_delete(client)
            elif code_of(error) not in MISSING:
                raise

    def _compare_and_delete(client: "S3Client") -> None:
        try:
            there = client.head_object(Bucket=connection.bucket, Key=key)["ETag"]
        except ClientError as error:
            if code_of(error) in MISSING:
                return
            raise
        if there != version:
            raise PreconditionFailedError(connection.uri(key))
        client.delete_object(Bucket=connection.bucket, Key=key)

    connection.ask(key, request)
