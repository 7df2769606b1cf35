"""Finding and reading sealed rows: filter first, caches, damage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mynosql.errors import StorageCorrupt
from mynosql.idkey import id_hash
from mynosql.store import sealed
from mynosql.store.index import short_hash
from mynosql.store.shard import place_of
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
from tests.sim.memory_index import MemoryIndex
from tests.store.making import body_of, key, open_memory, row_of, seal

ONE = StoreOptions(memtable_bytes_max=1 << 24)


@pytest.fixture
def doors() -> tuple[MemoryFiles, MemoryIndex]:
    store, files, index = open_memory(options=ONE)
    store.put([row_of(f"id-{n:02d}", str(n) * 400) for n in range(100)])
    seal(store)
    store.close()
    return files, index.crash()


def test_unknown_ids_never_ask_the_index(
    doors: tuple[MemoryFiles, MemoryIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(*doors, ONE)
    asked: list[int] = []
    monkeypatch.setattr(doors[1], "place", lambda found: asked.append(found))
    for n in range(2000):
        assert store.find(key(f"other-{n}")) is None
        store.put_one(row_of(f"other-{n}", n))
    assert len(asked) < 50, "one in a hundred may look the same to the filter"


def test_a_block_is_read_once_for_all_its_neighbours(
    doors: tuple[MemoryFiles, MemoryIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, index = doors
    store = Store.open(files, index, ONE)
    read: list[str] = []
    original = files.read
    monkeypatch.setattr(files, "read", lambda *place: read.append(place[0]) or original(*place))
    for n in range(20):
        assert store.read_body(key(f"id-{n:02d}"), 0) == body_of(str(n) * 400)
    assert len(read) <= 3


def test_heads_for_which_there_is_no_room_decoded_are_found_packed(
    doors: tuple[MemoryFiles, MemoryIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, index = doors
    store = Store.open(files, index, replace(ONE, entry_cache_count_max=0, head_cache_bytes_max=16_000))
    ids = [key(f"id-{n:02d}") for n in range(100)]
    first = [store.find(id_key) for id_key in ids]
    monkeypatch.setattr(files, "read", lambda *place: pytest.fail(f"read again: {place}"))
    assert len(store._sealed._heads) < len(store._sealed._packed_heads) == len(store._index.blocks_with_bodies())
    assert [store.find(id_key) for id_key in ids] == first


def test_a_body_that_is_not_what_its_leaf_names_is_never_returned(
    doors: tuple[MemoryFiles, MemoryIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Liar:
        raw_bytes = memory_bytes = 100

        def read(self, offset: int, length: int) -> bytes:
            return bytes(length)

    store = Store.open(*doors, ONE)
    monkeypatch.setattr(sealed.shard, "open_bodies", lambda files, ref, head: Liar())
    with pytest.raises(StorageCorrupt, match="checkdb"):
        store.read(key("id-00"))


def test_damage_in_one_block_is_raised_for_its_ids_and_no_others(doors: tuple[MemoryFiles, MemoryIndex]) -> None:
    files, index = doors
    blocks = index.blocks_of(0)
    assert len(blocks) > 1
    files.damage("shard-00000000", blocks[0].offset + 15, b"\x00\x01\x02")
    store = Store.open(files, index, ONE)
    for n in range(blocks[0].row_count):
        with pytest.raises(StorageCorrupt, match="shard-00000000"):
            store.find(key(f"id-{n:02d}"))
        with pytest.raises(StorageCorrupt):
            store.read(key(f"id-{n:02d}"))
    for n in range(blocks[0].row_count, 100):
        assert store.read_body(key(f"id-{n:02d}"), 0) == body_of(str(n) * 400)


def test_damage_in_the_bodies_still_lets_the_entries_be_found(doors: tuple[MemoryFiles, MemoryIndex]) -> None:
    files, index = doors
    block = index.blocks_of(0)[0]
    files.damage("shard-00000000", block.offset + block.head_bytes + 3, b"\x00\x01\x02")
    store = Store.open(files, index, ONE)
    assert store.find(key("id-00")) is not None
    with pytest.raises(StorageCorrupt):
        store.read(key("id-00"))


def test_a_place_that_leads_nowhere_is_damage_and_not_an_unknown_id(doors: tuple[MemoryFiles, MemoryIndex]) -> None:
    files, index = doors
    found = short_hash(id_hash(key("id-00")))
    for place, said in ((place_of(999, 0), "not in the index"), (place_of(0, 4000), "row 4000")):
        index._places[found] = place
        with pytest.raises(StorageCorrupt, match=said):
            Store.open(files, index, ONE).find(key("id-00"))


def test_damage_met_again_and_again_is_listed_once_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "PROBLEMS_MAX", 3)
    store, _, _ = open_memory()
    for n in range(5):
        for _ in range(2):
            store._sealed.note_problem(StorageCorrupt("shard", n, "damaged"))
    assert [problem.offset for problem in store.problems] == [0, 1, 2]
