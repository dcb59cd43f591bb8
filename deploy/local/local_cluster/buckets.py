"""Fills the buckets of an S3 server, and reads them."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_cluster.errors import ClusterError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An object of a bucket."""

    key: str
    size: int


class Buckets:
    """An S3 server at an address, with one pair of keys."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        # Imported here: boto3 takes a third of a second, which no other command has to wait for.
        import boto3
        from botocore.config import Config

        self._client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "total_max_attempts": 5},
                connect_timeout=5,
                proxies={},  # it is this machine's own end of a tunnel, whatever the way to others is
            ),
        )

    def ensure(self, names: Iterable[str]) -> None:
        """Create the buckets that are not there; objects have no versions."""
        present = {bucket["Name"] for bucket in self._client.list_buckets()["Buckets"]}
        for name in names:
            if name not in present:
                self._client.create_bucket(Bucket=name)

    def upload(self, bucket: str, prefix: str, files: Iterable[Path]) -> list[str]:
        """Store the files below the prefix unless the same bytes are there, and return the keys that were written."""
        written = []
        for path in files:
            key = f"{prefix}/{path.name}"
            body = path.read_bytes()
            checksum = b64encode(hashlib.sha256(body).digest()).decode()
            if self._checksum(bucket, key) != checksum:
                self._client.put_object(Bucket=bucket, Key=key, Body=body, ChecksumSHA256=checksum)
                written.append(key)
        return written

    def _checksum(self, bucket: str, key: str) -> str | None:
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED").get(
                "ChecksumSHA256"
            )
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise ClusterError(f"s3://{bucket}/{key} cannot be read: {error}") from error

    def list(self, bucket: str, prefix: str) -> "list[StoredFile]":
        """All objects whose key begins with the prefix, in order."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [StoredFile(item["Key"], item["Size"]) for page in pages for item in page.get("Contents", [])]

    def read(self, bucket: str, key: str) -> bytes:
        """The bytes of an object."""
        return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def delete(self, bucket: str, prefix: str) -> int:
        """Delete all objects whose key begins with the prefix, and return how many there were."""
        found = self.list(bucket, prefix)
        for item in found:
            self._client.delete_object(Bucket=bucket, Key=item.key)
        return len(found)

    def download(self, bucket: str, prefix: str, directory: Path) -> None:
        """Write the objects below the prefix to a directory, by the rest of their keys."""
        for item in self.list(bucket, prefix):
            path = directory / item.key.removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(bucket, item.key))


def from_secret(endpoint: str, data: Mapping[str, str]) -> Buckets:
    """Buckets with the keys that a Secret holds, as AWS's own tools name them."""
    return Buckets(endpoint, data["AWS_ACCESS_KEY_ID"], data["AWS_SECRET_ACCESS_KEY"])
