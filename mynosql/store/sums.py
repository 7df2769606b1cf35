"""Sums over ranges of the id hash: equal on two nodes whose indexes are equal there, and cheap to keep up to date.

Owns one count and one sum (mod 2^128, over revision.entry_digest) for each of BUCKETS equal ranges of the 64-bit id
hash, in 1.3 MB whatever the number of records. A changed entry costs one subtraction and one addition. No I/O. Kept
true to a store by summing.Summer.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

BUCKET_BITS = 16
"""15 entries a bucket at 1 M records: what is finer than a bucket is found by reading these few."""
BUCKETS = 1 << BUCKET_BITS
DIGEST_BYTES = 16
_GROUP_BITS = 8
_GROUP_BUCKETS = BUCKETS >> _GROUP_BITS
_SUM_MASK = (1 << 8 * DIGEST_BYTES) - 1
_HASH_MASK = (1 << 64) - 1
_BUCKET_SHIFT = 64 - BUCKET_BITS


class RangeSum(NamedTuple):
    """What is known of one range without reading it."""

    entry_count: int
    total: int

    def plus(self, other: RangeSum) -> RangeSum:
        return RangeSum(self.entry_count + other.entry_count, self.total + other.total & _SUM_MASK)



def bucket_of(id_hash: int) -> int:
    """The range of BUCKET_BITS bits that this id hash (idkey.id_hash, signed) is in."""
    return (id_hash & _HASH_MASK) >> _BUCKET_SHIFT


class RangeSums:
    """The counts and sums of all buckets, in memory."""

    def __init__(self) -> None:
        self._counts = array("l", bytes(BUCKETS * array("l").itemsize))
        self._totals = bytearray(BUCKETS * DIGEST_BYTES)
        self._group_counts = [0] * (1 << _GROUP_BITS)
        self._group_totals = [0] * (1 << _GROUP_BITS)
        """So that comparing whole indexes looks at 256 numbers, not at 65,536."""

    def change(self, id_hash: int, old: bytes | None, new: bytes | None) -> None:
        """An entry changed: its digest before (None: there was none) and now (None: there is none)."""
        more = (new is not None) - (old is not None)
        self.add(bucket_of(id_hash), more, int.from_bytes(new or b"", "big") - int.from_bytes(old or b"", "big"))

    def add(self, bucket: int, entry_count: int, total: int) -> None:
        """So many more entries in the bucket, whose digests add up to total; both may be negative."""
        start = bucket * DIGEST_BYTES
        now = int.from_bytes(self._totals[start : start + DIGEST_BYTES], "big") + total & _SUM_MASK
        self._totals[start : start + DIGEST_BYTES] = now.to_bytes(DIGEST_BYTES, "big")
        self._counts[bucket] += entry_count
        group = bucket // _GROUP_BUCKETS
        self._group_counts[group] += entry_count
        self._group_totals[group] = self._group_totals[group] + total & _SUM_MASK

    def sum_of(self, bits: int, prefix: int) -> RangeSum:
        """The range of hashes that begin with these bits (at most BUCKET_BITS; ValueError)."""
        first, last = buckets_of(bits, prefix)
        if bits <= _GROUP_BITS:
            groups = slice(first // _GROUP_BUCKETS, last // _GROUP_BUCKETS)
            return RangeSum(sum(self._group_counts[groups]), sum(self._group_totals[groups]) & _SUM_MASK)
        return RangeSum(sum(self._counts[first:last]), sum(map(self._total, range(first, last))) & _SUM_MASK)

    def _total(self, bucket: int) -> int:
        start = bucket * DIGEST_BYTES
        return int.from_bytes(self._totals[start : start + DIGEST_BYTES], "big")


def buckets_of(bits: int, prefix: int) -> tuple[int, int]:
    """The first bucket of a range, and the first behind it. ValueError: it is no range of whole buckets."""
    if not 0 <= bits <= BUCKET_BITS or prefix < 0 or prefix >> bits:
        raise ValueError(f"no range of whole buckets: {bits} bits, prefix {prefix}")
    return prefix << BUCKET_BITS - bits, prefix + 1 << BUCKET_BITS - bits
