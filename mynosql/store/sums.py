"""Sums over ranges of the id hash: equal on two nodes whose indexes are equal there, and cheap to keep up to date.

Owns one count and one sum (mod 2^128, over revision.entry_digest) for each of BUCKETS equal ranges of the 64-bit id
hash, in 1.3 MB whatever the number of records. A changed entry costs one subtraction and one addition; pages of
buckets that changed are what has to be written. No I/O.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from typing import NamedTuple

BUCKET_BITS = 16
"""15 entries a bucket at 1 M records: what is finer than a bucket is found by reading these few."""
BUCKETS = 1 << BUCKET_BITS
PAGE_BITS = 8
PAGE_BUCKETS = BUCKETS >> PAGE_BITS
DIGEST_BYTES = 16
_SUM_MASK = (1 << 8 * DIGEST_BYTES) - 1
_HASH_MASK = (1 << 64) - 1
_BUCKET_SHIFT = 64 - BUCKET_BITS
_MAP_BYTES = PAGE_BUCKETS // 8
_CELL = struct.Struct(f">I{DIGEST_BYTES}s")
PAGE_BYTES_MAX = _MAP_BYTES + PAGE_BUCKETS * _CELL.size
"""A page is a bit for each bucket that has entries (lowest bucket: lowest bit of the first byte), then their cells."""


class RangeSum(NamedTuple):
    """What is known of one range without reading it."""

    entry_count: int
    total: int


class RangeSums:
    """The counts and sums of all buckets, in memory."""

    def __init__(self) -> None:
        self._counts = array("l", bytes(BUCKETS * array("l").itemsize))
        self._totals = bytearray(BUCKETS * DIGEST_BYTES)
        self._page_counts = [0] * (1 << PAGE_BITS)
        self._page_totals = [0] * (1 << PAGE_BITS)
        """So that comparing whole indexes looks at 256 numbers, not at 65,536."""
        self._changed: set[int] = set()

    def change(self, id_hash: int, old: bytes | None, new: bytes | None) -> None:
        """An entry changed: its digest before (None: there was none) and now (None: it is collected)."""
        bucket = (id_hash & _HASH_MASK) >> _BUCKET_SHIFT
        page = bucket // PAGE_BUCKETS
        start = bucket * DIGEST_BYTES
        more = (new is not None) - (old is not None)
        added = int.from_bytes(new or b"", "big") - int.from_bytes(old or b"", "big")
        total = int.from_bytes(self._totals[start : start + DIGEST_BYTES], "big") + added & _SUM_MASK
        self._totals[start : start + DIGEST_BYTES] = total.to_bytes(DIGEST_BYTES, "big")
        self._counts[bucket] += more
        self._page_counts[page] += more
        self._page_totals[page] = self._page_totals[page] + added & _SUM_MASK
        self._changed.add(page)

    def sum_of(self, bits: int, prefix: int) -> RangeSum:
        """The range of hashes that begin with these bits (at most BUCKET_BITS; ValueError)."""
        if not 0 <= bits <= BUCKET_BITS or prefix < 0 or prefix >> bits:
            raise ValueError(f"no range of whole buckets: {bits} bits, prefix {prefix}")
        if bits <= PAGE_BITS:
            pages = slice(prefix << PAGE_BITS - bits, prefix + 1 << PAGE_BITS - bits)
            return RangeSum(sum(self._page_counts[pages]), sum(self._page_totals[pages]) & _SUM_MASK)
        first, last = prefix << BUCKET_BITS - bits, prefix + 1 << BUCKET_BITS - bits
        return RangeSum(sum(self._counts[first:last]), sum(map(self._total, range(first, last))) & _SUM_MASK)

    def _total(self, bucket: int) -> int:
        start = bucket * DIGEST_BYTES
        return int.from_bytes(self._totals[start : start + DIGEST_BYTES], "big")

    def take_changed(self) -> dict[int, bytes]:
        """The pages, by number, that changed since the last call."""
        changed, self._changed = self._changed, set()
        return {page: self._pack(page) for page in sorted(changed)}

    def load(self, pages: Mapping[int, bytes]) -> None:
        """Take over pages of take_changed. ValueError: one of them cannot be such a page, nothing was taken."""
        unpacked = {page: _unpack(page, data) for page, data in pages.items()}
        for page, cells in unpacked.items():
            first = page * PAGE_BUCKETS
            for bucket, cell in enumerate(cells, first):
                self._counts[bucket] = cell.entry_count
                start = bucket * DIGEST_BYTES
                self._totals[start : start + DIGEST_BYTES] = cell.total.to_bytes(DIGEST_BYTES, "big")
            self._page_counts[page] = sum([cell.entry_count for cell in cells])
            self._page_totals[page] = sum([cell.total for cell in cells]) & _SUM_MASK

    def _pack(self, page: int) -> bytes:
        first = page * PAGE_BUCKETS
        used = 0
        cells = []
        for position in range(PAGE_BUCKETS):
            count, total = self._counts[first + position], self._total(first + position)
            if count or total:
                used |= 1 << position
                cells.append(_CELL.pack(count, total.to_bytes(DIGEST_BYTES, "big")))
        return used.to_bytes(_MAP_BYTES, "little") + b"".join(cells)


def _unpack(page: int, data: bytes) -> list[RangeSum]:
    used = int.from_bytes(data[:_MAP_BYTES], "little")
    expected = _MAP_BYTES + used.bit_count() * _CELL.size
    if len(data) != expected or not 0 <= page < 1 << PAGE_BITS:
        raise ValueError(f"page {page} of {len(data)} bytes, expected {expected}")
    cells = iter(_CELL.iter_unpack(data[_MAP_BYTES:]))
    found = []
    for position in range(PAGE_BUCKETS):
        count, total = next(cells) if used >> position & 1 else (0, b"")
        found.append(RangeSum(count, int.from_bytes(total, "big")))
    return found
