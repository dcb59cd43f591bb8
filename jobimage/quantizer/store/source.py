"""A store seen as the source of a model, and the revision of a model: the digest over its files."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypedDict

from quantization_api.failures import QuantizationError
from quantizer.store.checksum import CRCS, Crc
from quantizer.store.interface import Buffer, ObjectInfo, Place, Store
from quantizer.store.readings import Known, Range, Readings

logger = logging.getLogger(__name__)

READINGS = 3
PLAIN_CRC = "CRC32"
"""The algorithm where the store keeps none: the cheapest."""
HASH_LIMIT = 64 * 1024 * 1024
BLOCK = 16 * 1024 * 1024


class Noted(TypedDict):
    """The checksums of one file: [start, end, CRC] of every range read."""

    version: str
    crc: str
    ranges: list[list[int]]


@dataclass(frozen=True)
class _Readings:
    algorithm: str
    """Name of the CRC."""
    sha256: str | None
    """Of the file, if the store keeps it."""
    readings: Readings
    noted: set[Range] = field(default_factory=set)
    """The ranges that `noted` has reported."""


class StoreSource:
    """The engine's view of a model in a store: names, sizes, byte ranges.

    The files are listed once; a file that is replaced during the run is an error, not a mixture of two
    models. Bytes that differ from before, or from the store's checksum, are read again (see readings.py).
    `on_bytes` is called with the number of bytes read.

    Attributes:
        files: what was listed.
        doubtful: wrong bytes may have been handed out: nothing computed from them may be kept.

    Raises:
        QuantizationError: the place's `missing` when there is no file at all.
    """

    def __init__(self, store: Store, place: Place, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self._store, self._place, self._on_bytes = store, place, on_bytes
        self.files: dict[str, ObjectInfo] = store.list()
        if not self.files:
            raise QuantizationError(place.missing, f"{place.what}: there is nothing at {store.uri}")
        self.doubtful = False
        self._readings: dict[str, _Readings] = {}
        self._lock = threading.Lock()

    def list(self) -> dict[str, int]:
        """Every file of the model with its size in bytes."""
        return {name: info.size for name, info in self.files.items()}

    def read(self, name: str, start: int, length: int) -> Buffer:
        """Exactly `length` bytes of a file from offset `start`.

        Raises:
            QuantizationError: what the store raises; the place's `changed` when the bytes still do not match
                after several reads.
        """
        readings = self._of(name).readings
        for _ in range(READINGS):
            data = self._store.read(name, start, length, self.files[name].version)
            self._on_bytes(length)
            if readings.agrees(start, data):
                return data
            logger.warning("%s: bytes %d to %d do not match their checksum", name, start, start + length)
        raise self._doubt(name)

    def prove(self, names: Iterable[str]) -> None:
        """Reads the rest of these files, so that their checksums can be compared.

        Raises:
            QuantizationError: as `read` does.
        """
        for name in names:
            readings = self._of(name).readings
            for start, end in readings.gaps() if readings.is_known else ():
                for at in range(start, end, BLOCK):
                    self.read(name, at, min(BLOCK, end - at))

    def noted(self) -> dict[str, Noted]:
        """The checksums of what was read since the last call, ready for JSON; for `recall` in another process."""
        with self._lock:
            known = dict(self._readings)
        return {name: self._news(name, of) for name, of in known.items()}

    def recall(self, noted: dict[str, Noted]) -> bool:
        """Takes over what another process noted; whether it read the same bytes as this one."""
        return all(self._recalled(name, said) for name, said in noted.items() if name in self.files)

    def content_id(self, name: str) -> str:
        """What identifies the content of one file of a model.

        The sha256 of its bytes: as the store keeps it (S3 objects written with a SHA256 checksum), else
        by reading. Only an object larger than HASH_LIMIT, in a store that keeps no sha256 but versions
        (S3), is identified by its ETag, since reading a large model twice would double the traffic; the
        revision is then bound to that copy. Files on disk are always read.
        """
        info, known = self.files[name], self._of(name)
        if known.sha256 is not None:
            return f"sha256:{known.sha256}"
        if info.size > HASH_LIMIT and self._store.uri.startswith("s3://"):
            return f"etag:{info.version}"
        for _ in range(READINGS):
            sha256, crc = self._digests(info, CRCS[known.algorithm])
            if known.readings.expect(crc):
                return f"sha256:{sha256}"
            logger.warning("%s: its bytes do not match their checksum", name)
        raise self._doubt(name)

    def revision(self, names: Iterable[str]) -> str:
        """`sha256:<hex>` over name, size and content of each file, in order of the names.

        The same bytes have the same revision on disk and in S3, but for large S3 objects without a sha256
        (see `content_id`).
        """
        digest = hashlib.sha256()
        for name in sorted(names):
            line = f"{name}\n{self.files[name].size}\n{self.content_id(name)}\n"
            digest.update(line.encode(errors="surrogateescape"))  # a name on disk need not be text
        return f"sha256:{digest.hexdigest()}"

    def _digests(self, info: ObjectInfo, algorithm: Crc) -> tuple[str, int]:
        """sha256 and CRC of a whole file."""
        sha256, crc = hashlib.sha256(), 0
        for block in blocks(self._store, info):
            sha256.update(block)
            crc = algorithm.joined(crc, algorithm.of(block), len(block))
            self._on_bytes(len(block))
        return sha256.hexdigest(), crc

    def _of(self, name: str) -> "_Readings":
        with self._lock:
            found = self._readings.get(name)
        if found is None:
            found = self._new_readings(name)
            with self._lock:
                found = self._readings.setdefault(name, found)
        return found

    def _new_readings(self, name: str) -> "_Readings":
        info, head = self.files[name], self._store.head(name)
        if head is None or head.version != info.version:
            head = info  # reading will report that it was replaced
        algorithm, value = head.crc or (PLAIN_CRC, None)
        known = Known(value, head.sha256, head.md5)
        return _Readings(algorithm, head.sha256, Readings(info.size, CRCS[algorithm], known))

    def _news(self, name: str, of: "_Readings") -> Noted:
        ranges = of.readings.ranges()
        fresh = [one for one in ranges if one not in of.noted]
        of.noted.update(fresh)
        rows = [[one.start, one.end, one.crc] for one in fresh]
        return {"version": self.files[name].version, "crc": of.algorithm, "ranges": rows}

    def _recalled(self, name: str, said: Noted) -> bool:
        known = self._of(name)
        if (said["version"], said["crc"]) != (self.files[name].version, known.algorithm):
            return True  # nothing can be compared
        ranges = [Range(*(int(number) for number in each)) for each in said["ranges"]]
        known.noted.update(ranges)  # they are kept with the layer that they come from
        return known.readings.recall(ranges)

    def _doubt(self, name: str) -> QuantizationError:
        self.doubtful = True
        return QuantizationError(
            self._place.changed,
            f"{self._place.what}: {self._store.uri}/{name} does not match its checksum or an earlier read, "
            f"after {READINGS} attempts",
            "Bits changed in the storage or in transit. The next attempt reads everything again; if this comes back, "
            "upload the file again and check the network and the proxies in between.",
        )


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
