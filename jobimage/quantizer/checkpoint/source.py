"""Where the bytes of a model come from: anything that lists files and reads byte ranges of them.

The engine reads models only through this protocol, so that a model in an object store is read tensor by
tensor without a copy on disk.
"""

from pathlib import Path
from typing import Protocol

from quantization_api.failures import Category, QuantizationError
from quantizer.boundary.lfs import FETCH, IS_POINTER, is_pointer

Buffer = bytes | bytearray | memoryview


class Source(Protocol):
    """Files of one model, by name relative to its root ("config.json", "sub/file").

    Implementations raise QuantizationError for everything that can go wrong (not found, access denied,
    unavailable) and are safe to call from two threads: the next layer is read while this one is solved.
    """

    def list(self) -> dict[str, int]:
        """Every file with its size in bytes."""
        ...

    def read(self, name: str, start: int, length: int) -> Buffer:
        """Exactly `length` bytes of a file from offset `start`; fewer bytes is an error, never a result."""
        ...


MAX_SMALL_BYTES = 256_000_000
"""Limit for a file beside the weights; the largest tokenizers have about 30 MB."""


def read_whole(source: Source, name: str, limit: int = MAX_SMALL_BYTES) -> bytes:
    """All bytes of one small file.

    Raises:
        QuantizationError: ModelNotFound when the source has no such file, or a pointer of git-lfs in its place;
            ModelUnsupported when it has more than `limit` bytes, before anything is read.
    """
    files = source.list()
    if name not in files:
        raise QuantizationError(Category.MODEL_NOT_FOUND, f"the model has no {name}")
    check_small(name, files[name], limit)
    data = bytes(source.read(name, 0, files[name]))
    if is_pointer(data):
        raise QuantizationError(Category.MODEL_NOT_FOUND, f"{name} {IS_POINTER}", FETCH)
    return data


def check_small(name: str, size: int, limit: int = MAX_SMALL_BYTES) -> None:
    """Raises ModelUnsupported for a file beside the weights of more than `limit` bytes."""
    if size > limit:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"{name} has {size:,} bytes; at most {limit:,} are expected",
            "The file is damaged, or does not belong to the model: copy it again, or remove it.",
        )


class DirectorySource:
    """A model in a directory on this machine (a mounted volume, or an artifact on scratch)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self) -> dict[str, int]:
        """Every file below the directory; ModelNotFound when there is no such directory."""
        if not self._root.is_dir():
            raise QuantizationError(Category.MODEL_NOT_FOUND, f"{self._root} is not a directory")
        return {
            path.relative_to(self._root).as_posix(): path.stat().st_size
            for path in sorted(self._root.rglob("*"))
            if path.is_file()
        }

    def read(self, name: str, start: int, length: int) -> Buffer:
        """One byte range; ModelNotFound for a file that is gone, AccessDenied for one that we may not read."""
        buffer = bytearray(length)
        try:
            with (self._root / name).open("rb", buffering=0) as file:
                file.seek(start)
                filled = 0
                while filled < length and (count := file.readinto(memoryview(buffer)[filled:])):
                    filled += count
        except FileNotFoundError as error:
            raise QuantizationError(
                Category.MODEL_NOT_FOUND, f"{self._root / name} does not exist"
            ) from error
        except PermissionError as error:
            raise QuantizationError(
                Category.ACCESS_DENIED,
                f"{self._root / name} cannot be read: permission denied",
                "Give the user that runs this read access (the file modes; for a volume in a cluster, also fsGroup).",
            ) from error
        if filled != length:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"{name} ends after {start + filled} bytes; {start + length} were expected",
                "The file is truncated: copy it again.",
            )
        return buffer
