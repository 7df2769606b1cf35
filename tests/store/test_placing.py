"""Which place a row gets when its hash is new, known, or another id's."""

from __future__ import annotations

import pytest

from mynosql.store.filter import Filter
from mynosql.store.index import BlockRow, Commit, Placed, Segment
from mynosql.store.placing import Placement, Placer, places_of
from mynosql.store.shard import place_of
from tests.sim.memory_index import MemoryIndex

OLD = [Segment(4, b"a", b"z", 1, 9, 0, 9, 100), Segment(7, b"a", b"z", 10, 19, 10, 19, 100)]


class Bench:
    """An index that knows some ids, given as {id key: (hash, place)}, further ids of a hash being twins."""

    def __init__(self, known: dict[bytes, tuple[int, int]]) -> None:
        self.index, self.filter = MemoryIndex(), Filter()
        self.id_key_at = {place: id_key for id_key, (_, place) in known.items()}
        first: dict[int, int] = {}
        for found, place in known.values():
            if found in first:
                self.index.commit(Commit(twins=[Placed(found, place)]))
            else:
                first[found] = place
                self.index.commit(Commit(places={found: place}))
            self.filter.add(found)

    def place(self, *rows: tuple[bytes, int, int], known_ids: set[bytes] | None = None) -> Placement:
        id_keys, hashes, places = zip(*rows, strict=True)
        placer = Placer(self.index, self.filter, OLD, self.id_key_at.__getitem__)
        return placer.place(id_keys, hashes, places, known_ids=known_ids or set())


def test_new_ids_get_their_places_sorted_by_hash_and_the_index_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench({})
    monkeypatch.setattr(bench.index, "places", None)
    assert bench.place((b"a", 9, 100), (b"b", 3, 101)) == Placement(places={3: 101, 9: 100})


def test_the_row_that_is_replaced_dies_in_its_segment() -> None:
    bench = Bench({b"a": (9, place_of(3, 5)), b"b": (8, place_of(12, 0))})
    for known_ids in ({b"a", b"b"}, set()):
        placement = bench.place((b"a", 9, 1 << 20), (b"b", 8, 1 << 21), known_ids=known_ids)
        assert placement == Placement(
            places={8: 1 << 21, 9: 1 << 20}, dead={4: 1, 7: 1}, buried={b"a": 4, b"b": 7},
        )


def test_another_id_with_the_same_hash_becomes_a_twin() -> None:
    bench = Bench({b"a": (9, 77)})
    assert bench.place((b"b", 9, 1 << 20)) == Placement(twins=[Placed(9, 1 << 20)])


def test_two_new_ids_with_the_same_hash_share_it() -> None:
    placement = Bench({}).place((b"a", 9, 100), (b"b", 9, 101))
    assert placement == Placement(places={9: 100}, twins=[Placed(9, 101)])


def test_a_twin_that_moves_leaves_the_first_alone() -> None:
    bench = Bench({b"a": (9, 77), b"b": (9, 78)})
    placement = bench.place((b"b", 9, 1 << 20), known_ids={b"b"})
    assert placement == Placement(
        twins=[Placed(9, 1 << 20)], twins_removed=[Placed(9, 78)], dead={4: 1}, buried={b"b": 4},
    )


def test_the_first_moves_and_its_twin_stays() -> None:
    bench = Bench({b"a": (9, 77), b"b": (9, 78)})
    placement = bench.place((b"a", 9, 1 << 20), known_ids={b"a"})
    assert placement == Placement(places={9: 1 << 20}, dead={4: 1}, buried={b"a": 4})


def test_blocks_give_each_row_its_place() -> None:
    blocks = [BlockRow(number, 0, 0, 0, 1, 1, 2, 1, 1, 0) for number in (5, 6)]
    assert places_of(blocks) == [place_of(5, 0), place_of(5, 1), place_of(6, 0), place_of(6, 1)]
