"""Checksums of the ranges read from an object, so that bits that flip in transit are noticed wherever possible.

A model is read in ranges, tensor by tensor, and the answer to a range request has no checksum. So the checksum of
every range is kept and compared

    with that of the same bytes when they are read again (evaluation reads the model a second time), and
    with that of the whole object, if it is known, once the ranges cover the object.

The kept ranges never overlap. Where a later read ends inside one of them, the checksum of the rest follows from the
two.
"""

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from quantizer.store.checksum import Crc
from quantizer.store.interface import Buffer


@dataclass(frozen=True)
class Range:
    """Bytes [start, end) of an object, and their checksum."""

    start: int
    end: int
    crc: int


@dataclass(frozen=True)
class Known:
    """The checksums of the whole object, from the store or an earlier read, as far as they are known."""

    crc: int | None = None
    sha256: str | None = None
    md5: str | None = None


class Readings:
    """The ranges read from one object; safe to share between threads.

    size: of the object, in bytes. crc: the algorithm of every checksum here.
    """

    def __init__(self, size: int, crc: Crc, known: Known | None = None) -> None:
        self._size, self._crc = size, crc
        self._known = known or Known()
        self._ranges: list[Range] = []
        self._odd: int | None = None
        self._lock = threading.Lock()

    def agrees(self, start: int, data: Buffer) -> bool:
        """Whether bytes that were just read match everything known so far; if so, they are recorded."""
        view = memoryview(data).cast("B")
        with self._lock:
            ranges = self._with(start, view)
            if ranges is None or not self._fits(ranges) or not self._is_whole(start, view):
                return False
            self._ranges = ranges
            return True

    def expect(self, crc: int) -> bool:
        """Records the checksum of the whole object, found by another read; whether it matches what was read."""
        with self._lock:
            if self._known.crc is not None:
                return self._known.crc == crc
            if self._covered(self._ranges) and self._joined(self._ranges) != crc:
                return False
            self._known = Known(crc, self._known.sha256, self._known.md5)
            return True

    @property
    def is_known(self) -> bool:
        """Whether the checksum of the whole object is known."""
        return self._known.crc is not None

    def gaps(self) -> Iterator[tuple[int, int]]:
        """The ranges (start, end) that were not read yet."""
        at = 0
        for each in self.ranges():
            if each.start > at:
                yield at, each.start
            at = each.end
        if at < self._size:
            yield at, self._size

    def ranges(self) -> list[Range]:
        """Everything that was read, in order."""
        with self._lock:
            return list(self._ranges)

    def recall(self, earlier: Iterable[Range]) -> bool:
        """Adds what an earlier run of the same job read; whether it matches what this one read."""
        with self._lock:
            ranges = list(self._ranges)
            for each in earlier:
                index = _first_behind(ranges, each.start)
                found = ranges[index] if index < len(ranges) else Range(self._size, self._size, 0)
                if (found.start, found.end) == (each.start, each.end) and found != each:
                    return False
                if 0 <= each.start < each.end <= found.start:
                    ranges.insert(index, each)
            if not self._fits(ranges):
                return False
            self._ranges = ranges
            return True

    def _with(self, start: int, view: memoryview) -> list[Range] | None:
        """The ranges with a new read merged in; None when the bytes differ from before."""
        ranges, at, end = list(self._ranges), start, start + len(view)
        while at < end:
            index = _first_behind(ranges, at)
            found = ranges[index] if index < len(ranges) else Range(end, end, 0)
            stop = min(end, found.start if found.start > at else found.end)
            if found.start < at:  # the middle of a range cannot be compared
                at = stop
                continue
            crc = self._crc.of(view[at - start : stop - start])
            if found.start > at:
                ranges.insert(index, Range(at, stop, crc))
            elif stop == found.end:
                if crc != found.crc:
                    return None
            else:
                rest = self._crc.rest(found.crc, crc, found.end - stop)
                ranges[index : index + 1] = [Range(at, stop, crc), Range(stop, found.end, rest)]
            at = stop
        return ranges

    def _fits(self, ranges: list[Range]) -> bool:
        """Whether the ranges together match the known checksum; True while they do not cover the object."""
        if self._known.crc is None or not self._covered(ranges) or self._covered(self._ranges):
            return True
        return self._joined(ranges) == self._known.crc

    def _covered(self, ranges: list[Range]) -> bool:
        return sum(one.end - one.start for one in ranges) == self._size

    def _joined(self, ranges: list[Range]) -> int:
        total = 0
        for one in ranges:
            total = self._crc.joined(total, one.crc, one.end - one.start)
        return total

    def _is_whole(self, start: int, view: memoryview) -> bool:
        """Compares an object that was read in one piece with digests that cannot be combined from ranges."""
        if (start, len(view)) != (0, self._size) or self._known.crc is not None:
            return True
        if self._known.sha256 is not None:
            return hashlib.sha256(view).hexdigest() == self._known.sha256
        if self._known.md5 is None or hashlib.md5(view, usedforsecurity=False).hexdigest() == self._known.md5:
            return True
        # Not every ETag is an MD5: if two reads agree, the store has these bytes.
        crc, before = self._crc.of(view), self._odd
        self._odd = crc
        return crc == before


def _first_behind(ranges: list[Range], at: int) -> int:
    """Index of the first range that ends after a byte."""
    return bisect_right(ranges, at, key=lambda one: one.end)
