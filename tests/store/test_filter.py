"""filter.py: never a false "no", few false "maybe", bounded memory, a file that is right or refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.errors import StorageCorrupt
from mynosql.store import filter as module
from mynosql.store.filter import LAYER_KEYS_FIRST, Filter

hashes = st.integers(0, (1 << 42) - 1)


def random_hashes(count: int, seed: int = 1) -> list[int]:
    rng = Random(seed)
    return [rng.getrandbits(42) for _ in range(count)]


def filled(keys: Iterable[int], **options: int) -> Filter:
    made = Filter(**options)
    made.add_many(keys)
    return made


@given(st.sets(hashes), hashes)
def test_what_was_added_is_never_denied(keys: set[int], other: int) -> None:
    made = Filter()
    for key in keys:
        made.add(key)
    assert all(map(made.might_contain, keys))
    if not keys:
        assert not made.might_contain(other)


def test_what_was_added_is_never_denied_over_all_layers_and_few_others_are_taken_for_it() -> None:
    keys = random_hashes(3 * LAYER_KEYS_FIRST)
    made = filled(keys)
    assert len(made._layers) == 2
    assert all(map(made.might_contain, keys))
    unknown = random_hashes(50_000, seed=2)
    assert sum(map(made.might_contain, unknown)) / len(unknown) < 0.03


def test_a_full_layer_takes_about_1_8_percent_of_others_for_its_own() -> None:
    made = filled(random_hashes(LAYER_KEYS_FIRST))
    unknown = random_hashes(50_000, seed=2)
    assert 0.01 < sum(map(made.might_contain, unknown)) / len(unknown) < 0.025


def test_a_layer_is_added_when_the_newest_is_full_and_takes_four_times_as_many() -> None:
    made = filled(random_hashes(LAYER_KEYS_FIRST))
    assert made.size_bytes == LAYER_KEYS_FIRST * 2
    made.add_many(random_hashes(5_000, seed=2))
    assert made.size_bytes == LAYER_KEYS_FIRST * 2 * 5


def test_adding_again_takes_no_room() -> None:
    keys = random_hashes(1_000)
    made = filled(keys)
    before = made._keys
    made.add_many(keys)
    assert made._keys == before


def test_past_its_bound_it_holds_nothing_and_says_maybe_to_everything() -> None:
    bound = LAYER_KEYS_FIRST * 2 * 5
    keys = random_hashes(7 * LAYER_KEYS_FIRST)
    at_bound = filled(keys[:4 * LAYER_KEYS_FIRST], bytes_max=bound)
    assert (at_bound.is_saturated, at_bound.size_bytes) == (False, bound)
    past = filled(keys, bytes_max=bound)
    assert (past.is_saturated, past.size_bytes) == (True, 0)
    assert all(map(past.might_contain, [0, (1 << 42) - 1, *keys[:100]]))
    past.add(7)
    assert past.size_bytes == 0


def test_a_bound_below_the_first_layer_is_saturated_from_the_start() -> None:
    assert Filter(bytes_max=1000).is_saturated


# The file


@pytest.mark.parametrize("count", [0, 1000, LAYER_KEYS_FIRST + 5_000])
def test_the_file_gives_back_the_same_filter_and_what_it_covers(count: int) -> None:
    keys = random_hashes(count)
    data = filled(keys).pack(last_segment=41)
    read, last_segment = Filter.unpack(data, path="filter")
    assert (last_segment, all(map(read.might_contain, keys))) == (41, True)
    assert read.pack(last_segment=41) == data
    more = random_hashes(2_000, seed=3)
    read.add_many(more)
    assert all(map(read.might_contain, keys + more))
    assert sum(map(read.might_contain, random_hashes(20_000, seed=4))) < 700


def test_a_million_keys_take_less_than_their_bits_on_disk() -> None:
    """1.2 bytes a key, measured; a full layer's bits alone are 2."""
    assert len(filled(random_hashes(LAYER_KEYS_FIRST)).pack(last_segment=0)) < 1.5 * LAYER_KEYS_FIRST


def test_a_saturated_filter_stays_so_over_its_file() -> None:
    data = Filter(bytes_max=1000).pack(last_segment=3)
    read, last_segment = Filter.unpack(data, path="filter")
    assert (read.is_saturated, read.might_contain(5), last_segment) == (True, True, 3)


def test_a_file_larger_than_the_bound_is_read_as_saturated() -> None:
    data = filled(random_hashes(2 * LAYER_KEYS_FIRST)).pack(last_segment=3)
    read, _ = Filter.unpack(data, path="filter", bytes_max=LAYER_KEYS_FIRST * 2)
    assert read.is_saturated


SMALL_FILE = filled(random_hashes(300)).pack(last_segment=2)


@given(st.integers(0, len(SMALL_FILE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    data = bytearray(SMALL_FILE)
    data[at] ^= change
    with pytest.raises(StorageCorrupt, match="nothing is lost, it is made anew") as caught:
        Filter.unpack(bytes(data), path="folder/filter")
    assert caught.value.path == "folder/filter"


@given(st.integers(0, len(SMALL_FILE) - 1))
def test_a_file_cut_anywhere_is_refused(size: int) -> None:
    with pytest.raises(StorageCorrupt):
        Filter.unpack(SMALL_FILE[:size], path="filter")


@given(st.binary(max_size=40) | st.binary(max_size=40).map(module.zlib.compress), st.integers(0, 3))
def test_forged_content_with_a_right_checksum_is_a_filter_or_corrupt_and_costs_no_more_than_the_bound(
    content: bytes, layers: int
) -> None:
    rest = module._REST.pack(1, layers, 5) + content
    data = module._START.pack(module.MAGIC, module.FORMAT, module.zlib.crc32(rest)) + rest
    try:
        read, _ = Filter.unpack(data, path="filter", bytes_max=1 << 20)
    except StorageCorrupt:
        return
    assert read.size_bytes <= 1 << 20
    assert {type(read.might_contain(n << 12)) for n in range(0, 1 << 14, 97)} == {bool}


def test_the_file_is_the_same_on_machines_of_either_byte_order(monkeypatch: pytest.MonkeyPatch) -> None:
    words = filled([5 << 12 | 3])._layers[0][0]
    assert module._swapped(words) is words
    monkeypatch.setattr(sys, "byteorder", "big")
    assert module._swapped(words)[5] == int.from_bytes(words[5].to_bytes(8, "little"), "big")
