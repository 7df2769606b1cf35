"""store.sums: sums equal a recomputation after random histories, and pages bring them back."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from mynosql.store.sums import BUCKET_BITS, PAGE_BYTES_MAX, RangeSums


def recomputed(entries: dict[int, bytes], bits: int, prefix: int) -> tuple[int, int]:
    found = [digest for key, digest in entries.items() if (key % (1 << 64)) >> 64 - bits == prefix]
    return len(found), sum(int.from_bytes(digest, "big") for digest in found) % (1 << 128)


def random_history(seed: int, saved: dict[int, bytes]) -> tuple[RangeSums, dict[int, bytes]]:
    """The sums, and the entries there at last; `saved` takes the pages as they are written now and then."""
    rng = random.Random(seed)
    sums = RangeSums()
    entries: dict[int, bytes] = {}
    pages: dict[int, bytes] = {}
    for step in range(3000):
        key = rng.choice(list(entries)) if entries and rng.random() < 0.5 else rng.getrandbits(64) - (1 << 63)
        old = entries.pop(key, None)
        new = None if rng.random() < 0.3 else rng.randbytes(16)
        sums.change(key, old, new)
        if new is not None:
            entries[key] = new
        if step % 500 == 499:
            pages.update(sums.take_changed())
    saved.update(pages)
    return sums, entries


@pytest.mark.parametrize("seed", range(3))
def test_sums_equal_a_recomputation_and_come_back_from_their_pages(seed: int) -> None:
    pages: dict[int, bytes] = {}
    sums, entries = random_history(seed, pages)
    again = RangeSums()
    again.load(pages)
    wanted = [(0, 0), (1, 1), *((8, prefix) for prefix in range(256))]
    wanted += [(BUCKET_BITS, (key % (1 << 64)) >> 64 - BUCKET_BITS) for key in list(entries)[:50]]
    for bits, prefix in wanted:
        assert sums.sum_of(bits, prefix) == recomputed(entries, bits, prefix)
        assert again.sum_of(bits, prefix) == sums.sum_of(bits, prefix)


def test_only_pages_that_changed_are_written() -> None:
    sums = RangeSums()
    sums.change(1, None, b"a" * 16)
    sums.change(-1, None, b"b" * 16)
    assert sorted(sums.take_changed()) == [0, 255]
    assert sums.take_changed() == {}


@pytest.mark.parametrize(
    ("page", "data"),
    [
        (0, b""), (0, bytes(31)), (0, bytes(33)), (0, b"\1" + bytes(31)), (0, b"\xff" * PAGE_BYTES_MAX + b"\0"),
        (256, bytes(32)), (-1, bytes(32)),
    ],
)
def test_a_page_that_cannot_be_is_refused_and_nothing_taken(page: int, data: bytes) -> None:
    sums = RangeSums()
    with pytest.raises(ValueError, match="page"):
        sums.load({1: b"\1" + bytes(31) + b"\1" * 20, page: data})
    assert sums.sum_of(0, 0) == (0, 0)


def test_a_page_takes_bytes_for_its_used_buckets_only() -> None:
    sums = RangeSums()
    sums.change(1, None, b"a" * 16)
    (page,) = sums.take_changed().values()
    assert len(page) == 32 + 20
    sums.change(1, b"a" * 16, None)
    assert sums.take_changed() == {0: bytes(32)}
    for bucket in range(1 << BUCKET_BITS):
        sums.change(bucket << 64 - BUCKET_BITS, None, b"b" * 16)
    assert {len(page) for page in sums.take_changed().values()} == {PAGE_BYTES_MAX}


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
