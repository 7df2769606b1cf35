from __future__ import annotations

import pytest

from mynosql.errors import StorageCorrupt
from mynosql.idkey import id_hash
from mynosql.row import Row
from mynosql.store.memtable import OBJECT_BYTES, ROW_BYTES, Memtable, spot_of, weight_of
from mynosql.store.packed import pack_row
from tests.sim.memory_files import MemoryFiles
from tests.store.making import body_of, key, row_of


def numbered(id: str, seq: int, value: object = 1, *, stray: bool = False) -> Row:
    return row_of(id, value)._replace(seq=seq, stray=stray)


def filled(*rows: Row, first_seq: int = 10) -> Memtable:
    """Every second row is where a journal would have it, the others are kept themselves."""
    files = MemoryFiles()
    journal = files.open_append("journal-7")
    journal.write(b"header")
    memtable = Memtable(first_seq, files)
    source = memtable.add_source("journal-7")
    for number, row in enumerate(rows):
        packed = pack_row(row)
        offset = journal.write(packed)
        spot = spot_of(source, offset, len(packed)) if number % 2 else None
        memtable.insert(row, spot, memtable.row(row.id_key))
    return memtable


def test_rows_are_found_by_id_and_fed_in_the_order_of_their_seqs() -> None:
    rows = [numbered("b", 10), numbered("a", 11), numbered("c", 12)]
    memtable = filled(*rows)
    assert memtable.row(key("a")) == rows[1]
    assert list(memtable.between(0, 99)) == rows
    assert list(memtable.between(10, 11)) == [rows[1]]
    assert (memtable.last_seq, len(memtable)) == (12, 3)


def test_only_the_newest_row_of_an_id_is_fed() -> None:
    memtable = filled(numbered("a", 10), numbered("b", 11), numbered("a", 12, 2))
    assert [row.seq for row in memtable.between(0, 99)] == [11, 12]


def test_a_stray_takes_the_place_of_its_change_when_that_is_here_too() -> None:
    memtable = filled(numbered("a", 10), numbered("b", 11), numbered("a", 10, "body", stray=True))
    assert [(row.seq, row.stray) for row in memtable.between(0, 99)] == [(10, False), (11, False)]
    row = memtable.row(key("a"))
    assert row is not None
    assert row.bodies == (body_of("body"),)


def test_a_stray_of_an_older_change_is_not_fed_and_takes_no_seq() -> None:
    memtable = filled(numbered("a", 3, stray=True), numbered("b", 10))
    assert [row.seq for row in memtable.between(0, 99)] == [10]
    memtable.insert(numbered("a", 11, 2), None, memtable.row(key("a")))
    assert [row.seq for row in memtable.between(0, 99)] == [10, 11]


def test_lost_seqs_leave_empty_places() -> None:
    memtable = filled(numbered("a", 10))
    memtable.skip_to(15)
    memtable.insert(numbered("b", 15), None, memtable.row(key("b")))
    assert [row.seq for row in memtable.between(0, 99)] == [10, 15]
    assert memtable.last_seq == 15


def test_sorted_keys_follow_what_comes_in_later() -> None:
    memtable = filled(numbered("b", 10))
    assert memtable.sorted_keys() == [key("b")]
    memtable.insert(numbered("a", 11), None, memtable.row(key("a")))
    memtable.insert(numbered("b", 12), None, memtable.row(key("b")))
    assert memtable.sorted_keys() == [key("a"), key("b")]


def test_a_row_is_found_by_the_hash_of_its_id() -> None:
    memtable = filled(numbered("a", 10))
    assert memtable.find_hash(id_hash(key("b"))) is None
    memtable.insert(numbered("b", 11), None, memtable.row(key("b")))
    assert memtable.find_hash(id_hash(key("b"))) == memtable.row(key("b"))


def test_size_counts_keys_something_for_each_row_and_bodies_where_they_are_in_memory() -> None:
    row, other = numbered("a", 10, "x" * 1000), numbered("b", 11, "x" * 1000)
    memtable = filled(row)
    alone = ROW_BYTES + len(row.id_key) + OBJECT_BYTES + len(row.bodies[0] or b"")
    assert memtable.size_bytes == alone
    both = filled(row, other).size_bytes
    assert both - alone == ROW_BYTES + len(other.id_key) + weight_of(len(pack_row(other)))


def test_a_journal_that_no_longer_says_what_was_written_is_noticed() -> None:
    files, row = MemoryFiles(), numbered("a", 10)
    files.open_append("journal-7").write(bytes(1000))
    memtable = Memtable(10, files)
    memtable.insert(row, spot_of(memtable.add_source("journal-7"), 13, len(pack_row(row))), None)
    with pytest.raises(StorageCorrupt, match="check the disk"):
        memtable.row(key("a"))
