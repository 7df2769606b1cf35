"""What opening finds after a kill, a power cut, or somebody's hand in the folder."""

from __future__ import annotations

import pytest

from mynosql.errors import StorageCorrupt
from mynosql.store.frames import FILE_HEADER
from mynosql.store.sealer import REPLAYED_MAX
from mynosql.store.store import Store, StoreOptions
from tests.sim.memory_files import MemoryFiles
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
    seal,
    sync,
    tombstone,
)


def filled(count: int = 10) -> tuple[Store, MemoryFiles, MemoryIndex]:
    """One frame per record, with a cursor in each."""
    store, files, index = open_memory()
    for n in range(count):
        store.put([row_of(f"id-{n}", n, owed=True, hlc=100 + n)], notes={"cursor/x": b"%d" % n, "other": b"%d" % n})
    return store, files, index


def frame_offsets(files: MemoryFiles, name: str) -> list[int]:
    from mynosql.store.frames import JournalReader

    return [frame.offset for frame in JournalReader(files, name)]


def test_a_kill_loses_nothing_and_numbers_go_on() -> None:
    store, files, index = filled()
    store.put_one(tombstone("id-3"))
    again = reopen_killed(files, index)
    assert again.counters == store.counters
    assert again.notes() == store.notes()
    assert (again.head_seq, again.durable_seq, again.hlc_max) == (11, 11, 2000)
    assert feed_rows(again) == feed_rows(store)
    assert again.put_one(row_of("new", 1)) == 12


def test_what_was_replayed_is_durable_before_anybody_may_hear_of_it() -> None:
    _, files, index = filled()
    flushed: list[str] = []
    files = files.copy()
    files.on_operation = lambda doing, name: flushed.append(name) if doing == "flush" else None
    store = Store.open(files, index.crash(), SMALL)
    assert flushed == ["journal-00000000"]
    assert (store.written, store.durable, store.durable_seq) == (0, 0, 10)


def test_one_kill_after_another_keeps_all_and_sealing_takes_the_old_journals_along() -> None:
    store, files, index = filled()
    for turn in range(5):
        files, index = files.copy(), index.crash()
        store = Store.open(files, index, SMALL, node=NODE)
        store.put_one(row_of(f"after-{turn}", turn))
    assert len([name for name in files.list() if name.startswith("journal")]) == 6
    assert store.records == 15
    assert seal(store) == 1
    assert files.list() == ["filter", "shard-00000000"]
    assert store.check().problems == ()
    assert reopen_killed(files, index).records == 15


def test_journals_of_many_kills_are_sealed_at_once() -> None:
    _, files, index = filled()
    for turn in range(REPLAYED_MAX - 2):
        files, index = files.copy(), index.crash()
        store = Store.open(files, index, SMALL, node=NODE)
        assert not store.is_seal_due
        store.put_one(row_of(f"after-{turn}", turn))
    store = Store.open(files.copy(), index.crash(), SMALL, node=NODE)
    assert not store.is_seal_due
    store.put_one(row_of("last", 1))
    store = Store.open(store._files, index.crash(), SMALL, node=NODE)
    assert store.is_seal_due
    assert seal(store, force=False) == 1
    assert store._files.list() == ["filter", "shard-00000000"]


def test_many_replayed_journals_do_not_make_one_endless_memtable() -> None:
    options = StoreOptions(memtable_bytes_max=3000)
    store, files, index = open_memory(options=options)
    for n in range(100):
        store.put_one(row_of(f"id-{n}", n))
    again = reopen_killed(files, index, options)
    assert all(memtable.size_bytes < 4000 for memtable in again._unsealed.memtables)
    assert again.pressure == pytest.approx(store.pressure)
    assert seal(again) > 3
    assert again.records == 100


def test_a_torn_tail_is_dropped_and_the_rest_kept() -> None:
    _, files, index = filled()
    last = frame_offsets(files, "journal-00000000")[-1]
    for size in (last + 1, files.size("journal-00000000") - 1, last):
        cut = files.copy()
        cut.cut("journal-00000000", size)
        store = Store.open(cut, index.crash(), SMALL)
        assert (store.records, store.head_seq, store.note("cursor/x")) == (9, 9, b"8")
        assert store.problems == ()
        assert store.put_one(row_of("new", 1)) == 10
        assert Store.open(cut.copy(), index.crash(), SMALL).records == 10


def test_damage_in_the_middle_costs_its_frames_and_no_cursor_behind_it_is_believed() -> None:
    _, files, index = filled()
    offset = frame_offsets(files, "journal-00000000")[5]
    files.damage("journal-00000000", offset + 30, b"\x00\xff\x00")
    store = Store.open(files, index, SMALL, node=NODE)
    assert [entry.id_key for entry in store.entries(b"", None, live_only=True, limit=99)] == [
        key(f"id-{n}") for n in range(10) if n != 5
    ]
    assert store.note("cursor/x") == b"4", "asked again from there, what was lost comes back"
    assert store.note("other") == b"9"
    assert store.head_seq == 10
    [problem] = store.problems
    assert (problem.offset, problem.records) == (offset, 1)
    assert [row.seq for row in feed_rows(store)] == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert [problem.records for problem in store.check().problems] == [1]
    seal(store)
    assert store.check().problems == ()


def test_a_journal_without_its_header_is_read_all_the_same() -> None:
    _, files, index = filled()
    files.damage("journal-00000000", 0, bytes(FILE_HEADER.size))
    store = Store.open(files, index, SMALL)
    assert (store.records, store.note("cursor/x")) == (10, b"9")


def test_a_cursor_in_a_later_journal_is_not_believed_when_the_end_of_an_earlier_one_is_lost() -> None:
    options = StoreOptions(memtable_bytes_max=1000)
    store, files, index = open_memory(options=options)
    for n in range(12):
        store.put([row_of(f"id-{n}", n)], notes={"cursor/x": b"%d" % n})
    offsets = frame_offsets(files, "journal-00000000")
    files.cut("journal-00000000", offsets[-1])
    store = Store.open(files, index, options)
    lost = len(offsets) - 1
    assert store.find(key(f"id-{lost}")) is None
    assert store.records == 11
    assert store.note("cursor/x") == b"%d" % (lost - 1)


def test_a_refused_change_stays_refused_when_the_one_that_replaced_it_is_lost() -> None:
    """The frame that forgets the refusal may survive a power cut that took the one before it: seed 3100, --size 3."""
    store, files, index = open_memory()
    seq = store.put_one(row_of("a", "refused", owed=True))
    store.put([], notes={f"rejected/{seq}": b"why"})
    store.put_one(row_of("a", "tried again", owed=True, hlc=2000))
    store.put([], notes={f"rejected/{seq}": b"", "rejected/9": b"another"})
    files.damage("journal-00000000", frame_offsets(files, "journal-00000000")[2] + 30, b"\x00\xff\x00")
    store = Store.open(files, index, SMALL)
    assert [row.seq for row in feed_rows(store)] == [seq]
    assert store.notes("rejected/") == {f"rejected/{seq}": b"why", "rejected/9": b"another"}


def test_the_body_of_a_lost_change_is_dropped() -> None:
    store, files, index = open_memory()
    store.put_one(row_of("a", 1))
    store.put_one(row_of("b", 1))
    store.put_one(row_of("b", 2)._replace(seq=2, stray=True))
    files.damage("journal-00000000", frame_offsets(files, "journal-00000000")[1] + 30, b"\xff\xff\xff")
    store = Store.open(files, index, SMALL)
    assert (store.records, store.find(key("b"))) == (1, None)


def test_a_journal_that_was_sealed_but_not_removed_is_removed_and_not_replayed() -> None:
    store, files, index = filled()
    journal = bytes(files.read("journal-00000000", 0, files.size("journal-00000000")))
    seal(store)
    files.write_atomic("journal-00000000", journal)
    store = Store.open(files, index.crash(), SMALL)
    assert "journal-00000000" not in files.list()
    assert (store.records, store.head_seq) == (10, 10)


def test_what_an_unfinished_seal_wrote_is_cut_off() -> None:
    store, files, index = filled()
    seal(store)
    size = files.size("shard-00000000")
    store.put_one(row_of("a", 1))
    files.open_append("shard-00000000").write(b"half a block")
    files.open_append("shard-00000001").write(b"another")
    store = Store.open(files, index.crash(), SMALL)
    assert files.size("shard-00000000") == size
    assert "shard-00000001" not in files.list()
    seal(store)
    assert store.check().problems == ()


def test_the_first_seal_may_be_the_unfinished_one() -> None:
    _, files, index = filled()
    files.open_append("shard-00000000").write(b"half a block" * 10)
    store = Store.open(files, index, SMALL)
    assert store.records == 10
    seal(store)
    assert store.check().problems == ()


@pytest.mark.parametrize("size", [1, 19, 20])
@pytest.mark.parametrize("number", [0, 1])
def test_a_torn_header_of_a_shard_is_not_written_behind(number: int, size: int) -> None:
    store, files, index = filled()
    if number:
        seal(store)
        store.put_one(row_of("a", 1))
    files.open_append(f"shard-{number:08d}").write(bytes(size))
    store = Store.open(files, index.crash(), SMALL)
    seal(store)
    assert store.check().problems == ()


def test_an_index_that_does_not_know_the_shards_is_refused_and_nothing_is_cut() -> None:
    store, files, index = filled()
    seal(store)
    old = index.crash()
    store.put_one(row_of("a", 1))
    store.close()
    before = {name: files.size(name) for name in files.list()}
    for wrong in (MemoryIndex(), old):
        with pytest.raises(StorageCorrupt, match="old copy"):
            Store.open(files, wrong, SMALL)
        assert {name: files.size(name) for name in files.list()} == before


@pytest.mark.parametrize("state", ["whole", "missing", "damaged", "behind"])
def test_every_sealed_id_is_in_the_filter_whatever_became_of_its_file(state: str) -> None:
    store, files, index = filled()
    seal(store)
    kept = files.read("filter", 0, files.size("filter"))
    store.put([row_of(f"later-{n}", n) for n in range(10)])
    store.close()
    if state == "missing":
        files.remove("filter")
    elif state == "damaged":
        files.damage("filter", 20, b"\xff\xff")
    elif state == "behind":
        files.write_atomic("filter", kept)
    store = Store.open(files, index.crash(), SMALL)
    assert all(store.find(key(f"{kind}-{n}")) for kind in ("id", "later") for n in range(10))
    assert store.check().problems == ()


def test_ids_of_a_damaged_block_stay_in_a_filter_that_is_behind() -> None:
    store, files, index = filled()
    seal(store)
    kept = files.read("filter", 0, files.size("filter"))
    store.put_one(row_of("later", 1))
    store.close()
    files.write_atomic("filter", kept)
    [block] = index.blocks_of(1)
    files.damage("shard-00000000", block.offset + 20, b"\xff\xff\xff")
    store = Store.open(files, index.crash(), SMALL)
    with pytest.raises(StorageCorrupt):
        store.find(key("later"))
    with pytest.raises(StorageCorrupt):
        store.put_one(row_of("later", 2))
    assert store.put_one(row_of("other", 1)) == 12


def test_replay_goes_on_when_the_block_of_an_older_row_is_damaged() -> None:
    store, files, index = filled()
    seal(store)
    store.put_one(row_of("id-1", "new"))
    sync(store)
    [block] = index.blocks_of(0)
    files.damage("shard-00000000", block.offset + 20, b"\xff\xff\xff")
    store = Store.open(files, index.crash(), SMALL)
    assert store.read_body(key("id-1"), 0) == body_of("new")
    assert len(store.problems) == 1


def test_progress_is_told_per_journal() -> None:
    options = StoreOptions(memtable_bytes_max=1000)
    store, files, index = open_memory(options=options)
    for n in range(20):
        store.put_one(row_of(f"id-{n}", n))
    count = len(files.list())
    told: list[tuple[int, int]] = []
    Store.open(files, index, options, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, count) for n in range(count + 1)]


def test_opening_reads_nothing_per_record() -> None:
    store, files, index = open_memory(options=StoreOptions())
    store.put([row_of(f"id-{n}", n) for n in range(5000)])
    store.close()
    read: list[str] = []
    original = files.read

    def counting(name: str, offset: int, length: int) -> bytes:
        read.append(name)
        return original(name, offset, length)

    files.read = counting  # type: ignore[method-assign]
    assert Store.open(files, index.crash()).records == 5000
    assert read == ["filter"]
