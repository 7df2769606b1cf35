"""Sums over ranges of the id hash: equal on two nodes whose indexes are equal there, and cheap to keep up to date.

Owns one count and one sum (mod 2^128, over revision.entry_digest) for each of BUCKETS equal ranges of the 64-bit id
hash. A changed entry costs one subtraction and one addition; pages of buckets that changed are what a seal has to write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

BUCKET_BITS = 16
"""15 entries a bucket at 1 M records: what is finer than a bucket is found by reading these few."""
BUCKETS = 1 << BUCKET_BITS
PAGE_BUCKETS = 256
DIGEST_BYTES = 16
_SUM_MASK = (1 << 8 * DIGEST_BYTES) - 1
_HASH_MASK = (1 << 64) - 1
_CELL = struct.Struct(f">I{DIGEST_BYTES}s")
PAGE_BYTES = PAGE_BUCKETS * _CELL.size


class RangeSum(NamedTuple):
    """What is known of one range without reading it."""

    count: int
    total: int


class RangeSums:
    """The counts and sums of all buckets, in memory."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._totals = [0] * BUCKETS
        self._changed: set[int] = set()

    def change(self, id_hash: int, old: bytes | None, new: bytes | None) -> None:
        """An entry changed: its digest before (None: there was none) and now (None: it is collected)."""
        bucket = (id_hash & _HASH_MASK) >> 64 - BUCKET_BITS
        self._counts[bucket] += (new is not None) - (old is not None)
        added = int.from_bytes(new or b"", "big") - int.from_bytes(old or b"", "big")
        self._totals[bucket] = self._totals[bucket] + added & _SUM_MASK
        self._changed.add(bucket // PAGE_BUCKETS)

    def sum_of(self, bits: int, prefix: int) -> RangeSum:
        """The range of hashes that begin with these bits (at most BUCKET_BITS; ValueError)."""
        if not 0 <= bits <= BUCKET_BITS or prefix >> bits:
            raise ValueError(f"no range of whole buckets: {bits} bits, prefix {prefix}")
        first = prefix << BUCKET_BITS - bits
        last = first + (BUCKETS >> bits)
        return RangeSum(sum(self._counts[first:last]), sum(self._totals[first:last]) & _SUM_MASK)

    def take_changed(self) -> dict[int, bytes]:
        """The pages, by number, that changed since the last call."""
        changed, self._changed = self._changed, set()
        return {page: self._pack(page) for page in sorted(changed)}

    def load(self, pages: Mapping[int, bytes]) -> None:
        """Take over pages of take_changed. ValueError: a page of another size or number, nothing was taken."""
        for page, data in pages.items():
            if len(data) != PAGE_BYTES or not 0 <= page < BUCKETS // PAGE_BUCKETS:
                raise ValueError(f"page {page} of {len(data)} bytes, expected {PAGE_BYTES}")
        for page, data in pages.items():
            for bucket, (count, total) in enumerate(_CELL.iter_unpack(data), page * PAGE_BUCKETS):
                self._counts[bucket] = count
                self._totals[bucket] = int.from_bytes(total, "big")

    def _pack(self, page: int) -> bytes:
        first = page * PAGE_BUCKETS
        return b"".join(
            _CELL.pack(self._counts[bucket], self._totals[bucket].to_bytes(DIGEST_BYTES, "big"))
            for bucket in range(first, first + PAGE_BUCKETS)
        )
