"""A store in memory: as strict about versions as S3, and fast enough for thousands of schedules."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from quantization_api.failures import QuantizationError
from quantizer.store.interface import (
    OUTPUT,
    Buffer,
    ObjectInfo,
    PreconditionFailedError,
    StopCheck,
    never_stop,
)


def version_of(data: bytes) -> str:
    """As S3 does: of the bytes alone, so that the same bytes have the same version whoever wrote them."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class MemoryStore:
    """Objects of one output."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @property
    def uri(self) -> str:
        """See Store."""
        return "memory://output"

    def impatient(self) -> Self:
        """See Store."""
        return self

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """See Store."""
        return {
            key: ObjectInfo(key, len(data), version_of(data))
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        }

    def head(self, key: str) -> ObjectInfo | None:
        """See Store."""
        return self.list(key).get(key)

    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        """See Store."""
        data = self.objects.get(key)
        if data is None:
            raise OUTPUT.change(f"{self.uri}/{key}", "was deleted during the run")
        if version is not None and version_of(data) != version:
            raise OUTPUT.change(f"{self.uri}/{key}", "was replaced while it was being read")
        return data[start : start + length]

    def put_file(self, key: str, path: Path, stop_check: StopCheck = never_stop) -> None:
        """See Store."""
        stop_check()
        self.objects[key] = path.read_bytes()

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        """See Store."""
        there = self.objects.get(key)
        if (if_absent and there is not None) or (
            if_version is not None and (there is None or version_of(there) != if_version)
        ):
            raise PreconditionFailedError(key)
        self.objects[key] = data
        return version_of(data)

    def copy(self, source: str, target: str) -> None:
        """See Store."""
        if source not in self.objects:
            raise QuantizationError(OUTPUT.missing, f"{self.uri}/{source} does not exist")
        self.objects[target] = self.objects[source]

    def delete(self, keys: Iterable[str]) -> None:
        """See Store."""
        for key in keys:
            self.objects.pop(key, None)

    def delete_if(self, key: str, version: str) -> None:
        """See Store."""
        there = self.objects.get(key)
        if there is not None and version_of(there) != version:
            raise PreconditionFailedError(key)
        self.objects.pop(key, None)

    def abort_uploads(self) -> int:
        """See Store."""
        return 0
