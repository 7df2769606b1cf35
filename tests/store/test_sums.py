"""store.sums: sums equal a recomputation after random histories."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from mynosql.store.sums import BUCKET_BITS, RangeSums, bucket_of


def recomputed(entries: dict[int, bytes], bits: int, prefix: int) -> tuple[int, int]:
    found = [digest for key, digest in entries.items() if (key % (1 << 64)) >> 64 - bits == prefix]
    return len(found), sum(int.from_bytes(digest, "big") for digest in found) % (1 << 128)


@pytest.mark.parametrize("seed", range(3))
def test_sums_equal_a_recomputation(seed: int) -> None:
    rng = random.Random(seed)
    sums = RangeSums()
    entries: dict[int, bytes] = {}
    for _ in range(3000):
        key = rng.choice(list(entries)) if entries and rng.random() < 0.5 else rng.getrandbits(64) - (1 << 63)
        old = entries.pop(key, None)
        new = None if rng.random() < 0.3 else rng.randbytes(16)
        sums.change(key, old, new)
        if new is not None:
            entries[key] = new
    wanted = [(0, 0), (1, 1), *((8, prefix) for prefix in range(256))]
    wanted += [(BUCKET_BITS, (key % (1 << 64)) >> 64 - BUCKET_BITS) for key in list(entries)[:50]]
    for bits, prefix in wanted:
        assert sums.sum_of(bits, prefix) == recomputed(entries, bits, prefix)


def test_many_entries_of_a_bucket_are_added_at_once() -> None:
    one, other = RangeSums(), RangeSums()
    for key in (5, 6, 7):
        one.change(key, None, b"a" * 16)
    other.add(bucket_of(5), 3, 3 * int.from_bytes(b"a" * 16, "big"))
    assert one.sum_of(0, 0) == other.sum_of(0, 0) == one.sum_of(BUCKET_BITS, 0)


def test_memory_stays_below_two_megabytes_however_many_entries() -> None:
    tracemalloc.start()
    try:
        sums = RangeSums()
        for number in range(100_000):
            sums.change(number * 0x9E3779B97F4A7C15, None, number.to_bytes(16, "little"))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert sums.sum_of(0, 0).entry_count == 100_000
    assert taken < 2_000_000


@pytest.mark.parametrize(("bits", "prefix"), [(-1, 0), (BUCKET_BITS + 1, 0), (4, 16), (4, -1)])
def test_a_range_that_cannot_be_is_refused(bits: int, prefix: int) -> None:
    with pytest.raises(ValueError, match="range"):
        RangeSums().sum_of(bits, prefix)
