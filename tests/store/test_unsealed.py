"""The order of a write: journal first, then memory; rows wait in memtables, the newest answers."""

from __future__ import annotations

import pytest

from mynosql.errors import StorageFull
from mynosql.idkey import id_hash
from mynosql.store.tally import Tally
from mynosql.store.unsealed import Unsealed
from tests.sim.memory_files import MemoryFiles
from tests.store.making import NODE, key, row_of


def made(files: MemoryFiles | None = None) -> Unsealed:
    return Unsealed(files or MemoryFiles(), Tally(), {}, NODE)


def write(unsealed: Unsealed, *ids: str, value: object = 1) -> None:
    for row in unsealed.numbered([row_of(id, value) for id in ids]):
        known = unsealed.row(row.id_key)
        is_outside = known is not None and row.id_key not in unsealed.active
        unsealed.append(b"payload")
        unsealed.absorb(row, None, known, is_outside)


def test_the_newest_row_answers_wherever_it_waits() -> None:
    unsealed = made()
    write(unsealed, "a", "b")
    unsealed.freeze()
    write(unsealed, "b", value=2)
    unsealed.freeze()
    write(unsealed, "c")
    assert [memtable.last_seq for memtable in unsealed.memtables] == [2, 3, 4]
    assert [unsealed.row(key(id)).seq for id in "abc"] == [1, 3, 4]  # type: ignore[union-attr]
    assert unsealed.row(key("d")) is None
    found = unsealed.row_of_hash(id_hash(key("b")))
    assert found is not None
    assert found.seq == 3


def test_a_memtable_remembers_which_of_its_ids_stand_elsewhere_too() -> None:
    unsealed = made()
    write(unsealed, "a", "b", "a")
    assert unsealed.active.replaces == {}
    unsealed.freeze()
    write(unsealed, "b", "c")
    assert unsealed.active.replaces == {key("b"): b""}


def test_each_memtable_has_a_journal_of_its_own_made_with_its_first_frame() -> None:
    files = MemoryFiles()
    unsealed = made(files)
    assert (files.list(), unsealed.active.is_empty) == ([], True)
    write(unsealed, "a")
    unsealed.freeze()
    assert files.list() == ["journal-00000000"]
    write(unsealed, "b", "c")
    assert files.list() == ["journal-00000000", "journal-00000001"]
    assert [memtable.frames for memtable in unsealed.memtables] == [1, 3]


def test_a_journal_that_cannot_be_made_leaves_nothing_and_its_number_is_not_used_again() -> None:
    files = MemoryFiles(space_bytes=3)
    unsealed = made(files)
    with pytest.raises(StorageFull):
        unsealed.append(b"payload")
    assert (files.list(), unsealed.written, unsealed.active.is_empty) == ([], 0, True)
    files.space_bytes = 1000
    unsealed.append(b"payload")
    assert files.list() == ["journal-00000001"]


def test_notes_stay_with_the_memtable_that_will_seal_them_also_their_removal() -> None:
    unsealed = made()
    unsealed.absorb_notes({"a": b"1", "b": b"2"})
    unsealed.freeze()
    unsealed.absorb_notes({"a": b""})
    assert unsealed.notes == {"b": b"2"}
    assert [memtable.notes for memtable in unsealed.memtables] == [{"a": b"1", "b": b"2"}, {"a": b""}]


def test_a_frozen_memtable_keeps_the_counters_of_its_last_row() -> None:
    unsealed = made()
    write(unsealed, "a", "b")
    unsealed.freeze()
    write(unsealed, "c")
    tally = Tally.unpack(unsealed.frozen[0].tally)
    assert (tally.records, tally.head_seq) == (2, 2)
    assert unsealed.tally.records == 3
