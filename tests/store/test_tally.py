from __future__ import annotations

import pytest

from mynosql.row import Row
from mynosql.store.tally import Tally, entry_of_row, state_of_entry, state_of_row
from mynosql.store.types import Counters
from tests.store.making import conflict_row, entry_of, remote_row, row_of, tombstone

ROWS = {
    "live": row_of("a", 1),
    "deleted": tombstone("a"),
    "remote": remote_row("a", 1),
    "stale": remote_row("a", 1, stale=0),
    "conflict": conflict_row("a", 1, 2, 3),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_and_its_entry_are_in_the_same_state(name: str) -> None:
    row = ROWS[name]
    assert entry_of_row(row) == entry_of(row)
    assert state_of_entry(entry_of_row(row)) == state_of_row(row)


@pytest.mark.parametrize(
    ("name", "counters"),
    [
        ("live", Counters(1, 1, 0, 0, 0, 0)),
        ("deleted", Counters(0, 0, 0, 0, 0, 0)),
        ("remote", Counters(1, 0, 0, 1, 0, 0)),
        ("stale", Counters(1, 0, 1, 1, 0, 0)),
        ("conflict", Counters(1, 1, 0, 0, 1, 0)),
    ],
)
def test_each_state_counts_as_what_it_is(name: str, counters: Counters) -> None:
    tally = Tally()
    tally.replace(None, ROWS[name])
    assert tally.counters() == counters
    assert tally.records == counters.records
    tally.replace(ROWS[name], ROWS["deleted"])
    assert tally.counters() == Counters(0, 0, 0, 0, 0, 0)


def test_equal_bodies_of_two_leaves_are_no_conflict() -> None:
    tally = Tally()
    tally.replace(None, conflict_row("a", 1, 1))
    assert tally.counters().conflicts == 0


def test_only_owed_rows_above_what_was_delivered_are_pending() -> None:
    tally = Tally()
    tally.delivered = 5
    owed: Row = row_of("a", 1, owed=True)._replace(seq=6)
    tally.replace(None, owed)
    assert tally.counters().pending == 1
    tally.replace(entry_of(owed), owed._replace(seq=7))
    assert tally.counters().pending == 1
    tally.replace(owed._replace(seq=7), owed._replace(seq=8, owed=False))
    assert tally.counters().pending == 0
    tally.replace(None, owed._replace(seq=5))
    assert tally.counters().pending == 0


def test_a_tally_comes_back_from_its_bytes() -> None:
    tally = Tally()
    for row in ROWS.values():
        tally.replace(None, row._replace(owed=True, seq=9))
    tally.delivered, tally.head_seq, tally.hlc_max = 3, 12, 1 << 63
    again = Tally.unpack(tally.pack())
    assert again.counters() == tally.counters()
    assert (again.delivered, again.head_seq, again.hlc_max) == (3, 12, 1 << 63)


@pytest.mark.parametrize("data", [b"", b"\x02" + bytes(168), Tally().pack()[:-1], Tally().pack() + b"\0"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="counters"):
        Tally.unpack(data)
