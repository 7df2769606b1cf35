"""Turning a memtable into a segment: the order of its steps, colliding ids, shards that are full, the filter's file."""

from __future__ import annotations

from random import Random

import pytest

from mynosql.store import check, seal, sealed
from mynosql.store.seal import pack_owed, unpack_owed
from mynosql.store.store import Store
from tests.sim.memory_files import MemoryFiles, PowerCut
from tests.sim.memory_index import MemoryIndex
from tests.store.making import (
    NODE,
    SMALL,
    body_of,
    feed_rows,
    key,
    open_memory,
    reopen_killed,
    row_of,
    sync,
    tombstone,
)
from tests.store.making import seal as seal_all


def begun() -> tuple[Store, MemoryFiles, MemoryIndex]:
    """A store with one segment, and a second memtable that overwrites a part of it, synced."""
    store, files, index = open_memory()
    store.put([row_of(f"id-{n:02d}", n, owed=True) for n in range(40)], notes={"cursor/x": b"1"})
    seal_all(store)
    store.put([row_of(f"id-{n:02d}", n + 1000, owed=True) for n in range(20, 60)], notes={"cursor/x": b"2"})
    store.put_one(tombstone("id-00"))
    sync(store)
    return store, files, index


def assert_whole(store: Store) -> None:
    """All that begun() wrote is there."""
    assert store.counters.records == 59
    assert store.note("cursor/x") == b"2"
    assert store.head_seq == 81
    for n in range(1, 60):
        assert store.read_body(key(f"id-{n:02d}"), 0) == body_of(n if n < 20 else n + 1000)
    assert [row.seq for row in feed_rows(store)] == [*range(2, 21), *range(41, 82)]
    assert store.check().problems == ()


def steps_of_a_seal() -> list[str]:
    """What a seal asks of the disk, in order."""
    store, files, index = begun()
    steps: list[str] = []
    files.on_operation = lambda doing, name: steps.append(f"{doing} {name.partition('-')[0]}".strip())
    index.on_commit = lambda moment: steps.append(f"commit {moment}")
    seal_all(store)
    return steps


def test_the_order_of_a_seal_keeps_every_acknowledged_save() -> None:
    store, files, index = open_memory()
    store.put_one(row_of("a", 1))
    steps: list[str] = []
    files.on_operation = lambda doing, name: steps.append(f"{doing} {name.partition('-')[0]}".strip())
    index.on_commit = lambda moment: steps.append(f"commit {moment}")
    seal_all(store)
    wanted = ["open shard", "write shard", "write shard", "flush shard", "sync_folder", "commit before", "commit after"]
    assert steps[: len(wanted)] == wanted
    assert steps[-1] == "remove journal"


@pytest.mark.parametrize("stop", range(len(steps_of_a_seal())))
def test_a_power_cut_at_any_step_of_a_seal_loses_nothing(stop: int) -> None:
    for seed in range(8):
        store, files, index = begun()
        count = -1

        def cut(*step: str) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise PowerCut

        files.on_operation = cut
        index.on_commit = cut
        with pytest.raises(PowerCut):
            seal_all(store)
        files, index = files.crash(Random(seed)), index.crash()
        store = Store.open(files, index, SMALL, node=NODE)
        assert_whole(store)
        seal_all(store)
        assert_whole(store)
        store.close()
        assert [name for name in files.list() if name.startswith("journal")] == []


def test_a_kill_at_any_step_of_a_seal_loses_nothing() -> None:
    for stop in range(len(steps_of_a_seal())):
        store, files, index = begun()
        count = -1
        copies: list[Store] = []

        def kill(*step: str, stop: int = stop, files: MemoryFiles = files, index: MemoryIndex = index) -> None:
            nonlocal count
            count += 1
            if count == stop:
                copies.append(reopen_killed(files, index))  # noqa: B023 - read at once

        files.on_operation = kill
        index.on_commit = kill
        seal_all(store)
        assert_whole(copies[0])
        copies[0].close()


def test_rows_that_a_segment_replaces_are_counted_as_dead_in_the_old_one() -> None:
    store, _, index = begun()
    seal_all(store)
    assert [segment.dead for segment in index.segments()] == [21, 0]


def test_ids_with_the_same_short_hash_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (seal, sealed, check):
        monkeypatch.setattr(module, "short_hash", lambda found: found & 3)
    store, files, index = open_memory()
    rng = Random(7)
    expected: dict[str, int] = {}
    for turn in range(12):
        for _ in range(6):
            name = f"id-{rng.randrange(24)}"
            expected[name] = rng.randrange(1000)
            store.put_one(row_of(name, expected[name]))
        seal_all(store)
        if turn % 3 == 2:
            store = reopen_killed(files, index)
            files, index = store._files, store._index  # type: ignore[assignment]
        for name, value in expected.items():
            assert store.read_body(key(name), 0) == body_of(value), f"{name} after {turn + 1} seals"
        assert store.find(key("id-absent")) is None
        assert store.check().problems == ()
    assert sum(segment.dead for segment in index.segments()) > 0
    assert sum(len(index.twins(found)) for found in range(4)) == len(expected) - 4


def test_a_full_shard_gets_no_further_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "SHARD_BYTES_MAX", 1000)
    store, files, index = open_memory()
    for turn in range(6):
        store.put([row_of(f"id-{turn}-{n}", n * n) for n in range(40)])
        seal_all(store)
    shards = [name for name in files.list() if name.startswith("shard")]
    assert len(shards) > 2
    assert all(files.size(name) < 2000 for name in shards)
    store = reopen_killed(files, index)
    assert store.records == 240
    assert store.check().ok
    store.put_one(row_of("a", 1))
    seal_all(store)
    assert store.check().ok


def test_a_memtable_of_notes_alone_makes_no_segment() -> None:
    store, files, index = open_memory()
    store.put([], notes={"addresses": b"x"})
    seal_all(store)
    assert (index.segments(), files.list()) == ([], [])
    assert Store.open(files, index.crash(), SMALL).note("addresses") == b"x"


def test_the_filters_file_follows_growth_and_not_every_seal() -> None:
    store, files, _ = open_memory()
    replaced: list[str] = []
    files.on_operation = lambda doing, name: replaced.append(name) if doing == "replace" else None
    for turn in range(40):
        store.put([row_of(f"id-{turn}-{n}", n) for n in range(10)])
        seal_all(store)
    assert 5 < replaced.count("filter") < 30


def test_a_filter_that_cannot_be_saved_fails_no_seal() -> None:
    store, files, index = open_memory()
    store.put_one(row_of("a", 1))
    sync(store)

    def fill_disk(moment: str) -> None:
        files.space_bytes = files.used_bytes

    index.on_commit = fill_disk
    assert seal_all(store) == 1
    assert "filter" not in files.list()
    assert reopen_killed(files, index).find(key("a")) is not None


def test_owed_counts_come_back_from_their_note() -> None:
    assert unpack_owed(pack_owed({3: 7, 1: 2})) == {1: 2, 3: 7}
    with pytest.raises(ValueError, match="owed"):
        unpack_owed(b"123")
