from __future__ import annotations

from mynosql.idkey import id_hash
from mynosql.row import Row
from mynosql.store.memtable import ROW_BYTES, Memtable
from tests.store.making import body_of, key, row_of


def numbered(id: str, seq: int, value: object = 1, *, stray: bool = False) -> Row:
    return row_of(id, value)._replace(seq=seq, stray=stray)


def filled(*rows: Row, first_seq: int = 10) -> Memtable:
    memtable = Memtable(first_seq)
    for row in rows:
        memtable.insert(row)
    return memtable


def test_rows_are_found_by_id_and_fed_in_the_order_of_their_seqs() -> None:
    rows = [numbered("b", 10), numbered("a", 11), numbered("c", 12)]
    memtable = filled(*rows)
    assert memtable.rows[key("a")] is rows[1]
    assert list(memtable.between(0, 99)) == rows
    assert list(memtable.between(10, 11)) == [rows[1]]
    assert (memtable.last_seq, len(memtable)) == (12, 3)


def test_only_the_newest_row_of_an_id_is_fed() -> None:
    memtable = filled(numbered("a", 10), numbered("b", 11), numbered("a", 12, 2))
    assert [row.seq for row in memtable.between(0, 99)] == [11, 12]


def test_a_stray_takes_the_place_of_its_change_when_that_is_here_too() -> None:
    memtable = filled(numbered("a", 10), numbered("b", 11), numbered("a", 10, "body", stray=True))
    assert [(row.seq, row.stray) for row in memtable.between(0, 99)] == [(10, False), (11, False)]
    assert memtable.rows[key("a")].bodies == (body_of("body"),)


def test_a_stray_of_an_older_change_is_not_fed_and_takes_no_seq() -> None:
    memtable = filled(numbered("a", 3, stray=True), numbered("b", 10))
    assert [row.seq for row in memtable.between(0, 99)] == [10]
    memtable.insert(numbered("a", 11, 2))
    assert [row.seq for row in memtable.between(0, 99)] == [10, 11]


def test_lost_seqs_leave_empty_places() -> None:
    memtable = filled(numbered("a", 10))
    memtable.skip_to(15)
    memtable.insert(numbered("b", 15))
    assert [row.seq for row in memtable.between(0, 99)] == [10, 15]
    assert memtable.last_seq == 15


def test_sorted_keys_follow_what_comes_in_later() -> None:
    memtable = filled(numbered("b", 10))
    assert memtable.sorted_keys() == [key("b")]
    memtable.insert(numbered("a", 11))
    memtable.insert(numbered("b", 12))
    assert memtable.sorted_keys() == [key("a"), key("b")]


def test_a_row_is_found_by_the_hash_of_its_id() -> None:
    memtable = filled(numbered("a", 10))
    assert memtable.find_hash(id_hash(key("b"))) is None
    memtable.insert(numbered("b", 11))
    assert memtable.find_hash(id_hash(key("b"))) is memtable.rows[key("b")]


def test_size_counts_keys_bodies_and_something_for_each_row() -> None:
    row = numbered("a", 10, "x" * 1000)
    memtable = filled(row)
    assert memtable.size_bytes == len(row.id_key) + len(row.bodies[0] or b"") + ROW_BYTES
