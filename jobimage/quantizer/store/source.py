"""A store seen as the source of a model, and the revision of a model: the digest over its files."""

import hashlib
from collections.abc import Callable, Iterator

from quantization_api.failures import QuantizationError
from quantizer.store.interface import Buffer, ObjectInfo, Place, Store

HASH_LIMIT = 64 * 1024 * 1024
BLOCK = 16 * 1024 * 1024


class StoreSource:
    """The engine's view of a model in a store: names, sizes, byte ranges.

    The files are listed once; a file that is replaced while the run reads is an error, not a mixture
    of two models. `on_bytes` hears of every byte that was read.

    Raises:
        QuantizationError: the place's `missing` when there is no file at all.
    """

    def __init__(self, store: Store, place: Place, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self._store, self._on_bytes = store, on_bytes
        self.files: dict[str, ObjectInfo] = store.list()
        if not self.files:
            raise QuantizationError(place.missing, f"{place.what}: there is nothing at {store.uri}")

    def list(self) -> dict[str, int]:
        """Every file of the model with its size in bytes."""
        return {name: info.size for name, info in self.files.items()}

    def read(self, name: str, start: int, length: int) -> Buffer:
        """Exactly `length` bytes of a file from offset `start`."""
        data = self._store.read(name, start, length, self.files[name].version)
        self._on_bytes(length)
        return data


def blocks(store: Store, info: ObjectInfo) -> Iterator[Buffer]:
    """The bytes of an object in order, in blocks."""
    for start in range(0, info.size, BLOCK):
        yield store.read(info.key, start, min(BLOCK, info.size - start), info.version)


def sha256_of(store: Store, info: ObjectInfo, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """sha256 in hex of an object, by reading it."""
    digest = hashlib.sha256()
    for block in blocks(store, info):
        digest.update(block)
        on_bytes(len(block))
    return digest.hexdigest()


def content_id(store: Store, info: ObjectInfo, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """What identifies the content of one file of a model.

    The sha256 of its bytes: as the store keeps it (S3 objects written with a SHA256 checksum), else
    by reading. Only an object larger than HASH_LIMIT, in a store that keeps no sha256 but versions
    (S3), is identified by its ETag, since reading a large model twice would double the traffic; the
    revision is then bound to that copy. Files on disk are always read.
    """
    known = store.head(info.key)
    if known is not None and known.sha256 is not None and known.version == info.version:
        return f"sha256:{known.sha256}"
    if info.size > HASH_LIMIT and store.uri.startswith("s3://"):
        return f"etag:{info.version}"
    return f"sha256:{sha256_of(store, info, on_bytes)}"


def revision_of(
    store: Store, files: dict[str, ObjectInfo], on_bytes: Callable[[int], None] = lambda _: None
) -> str:
    """`sha256:<hex>` over name, size and content of each file, in order of the names.

    The same bytes have the same revision on disk and in S3, but for large S3 objects without a sha256
    (see `content_id`).
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        info = files[name]
        digest.update(f"{name}\n{info.size}\n{content_id(store, info, on_bytes)}\n".encode())
    return f"sha256:{digest.hexdigest()}"
