"""What is remembered of the mesh: each note there and back."""

from __future__ import annotations

import pytest

from mynosql.row import Leaf, Row
from mynosql.sync.memory import OPENINGS_MAX, TAKEN_MAX, Cursor, Memory, Opening, Rejected, Taken, highest_hlc_of

INDEX = b"I" * 16


def remembered(change: str, *arguments: object, **named: object) -> Memory:
    """A memory after that change, read again from its notes."""
    notes: dict[str, bytes] = {}
    getattr(Memory({}, notes.__setitem__), change)(*arguments, **named)
    return Memory(notes, lambda key, value: None)


def test_notes_come_back() -> None:
    assert remembered("set_offered", INDEX, 12).offered == {INDEX: 12}
    assert remembered("set_taken", INDEX, Taken(5, 9), is_kept=True).taken == {INDEX: Taken(5, 9)}
    assert remembered("set_taken", INDEX, Taken(5, 9), is_kept=False).taken == {}
    assert remembered("set_confirmed", 2**64 - 1, 12).confirmed == {2**64 - 1: 12}
    assert remembered("set_delivered", 12, is_kept=True).delivered == 12
    assert remembered("set_delivered", 12, is_kept=False).delivered == 0
    assert remembered("set_owed_all_until", 9).owed_all_until == 9
    assert remembered("set_databases", [b"b" * 16, b"a" * 16]).databases == (b"a" * 16, b"b" * 16)
    assert remembered("set_synced").is_synced
    assert remembered("set_filling", True).is_filling
    assert remembered("set_filling", False).is_filled
    rejected = Rejected(b"\x10a", "code", "text")
    assert remembered("set_rejected", 5, rejected).rejected == {5: rejected}
    assert remembered("add_opening", Opening(7, 3)).openings == (Opening(7, 3),)


def test_cursors_come_back_from_the_notes_of_an_apply() -> None:
    cursor = Cursor(5, 6, 7, 8)
    memory = Memory({}, lambda key, value: None)

    again = Memory({**memory.cursor_note(INDEX, cursor), **memory.pushed_note(INDEX, Cursor(9, 99, 7))}, print)

    assert again.cursors == {INDEX: cursor}
    assert again.pushed == {INDEX: Cursor(9, 99, 7)}
    assert again.hlc_of(7) == 99
    assert again.hlc_of(8) == 0


def test_the_most_that_was_confirmed_counts_until_it_is_forgotten() -> None:
    notes: dict[str, bytes] = {}
    memory = Memory({}, notes.__setitem__)
    memory.set_confirmed(1, 5)
    memory.set_confirmed(2, 3)
    assert [memory.confirmed_by(count) for count in (1, 2, 3)] == [5, 3, 0]

    memory.forget_confirmed()

    assert memory.confirmed_by(1) == 0
    assert set(notes.values()) == {b""}


def test_what_mirrors_took_is_forgotten_once_enough_have_it_and_bounded_until_then() -> None:
    notes: dict[str, bytes] = {}
    memory = Memory({}, notes.__setitem__)
    for number in range(TAKEN_MAX + 1):
        memory.set_taken(bytes([number]) * 16, Taken(number + 1, 9), is_kept=True)
    assert len(memory.taken) == TAKEN_MAX
    assert bytes(16) not in memory.taken
    assert memory.acked == TAKEN_MAX + 1

    memory.set_delivered(TAKEN_MAX, is_kept=True)

    assert list(memory.taken.values()) == [Taken(TAKEN_MAX + 1, 9)]
    assert len([value for key, value in notes.items() if value and key.startswith("taken/")]) == 1


def test_an_opening_limits_what_others_can_know_of_it() -> None:
    memory = Memory({}, lambda key, value: None)
    for nonce, head in ((11, 0), (12, 40), (13, 90)):
        memory.add_opening(Opening(nonce, head))

    assert memory.limit_of(11) == 40
    assert memory.limit_of(12) == 90
    assert memory.limit_of(13) is None
    with pytest.raises(KeyError):
        memory.limit_of(14)
    memory.add_opening(Opening(15, 100), is_first=True)
    assert memory.openings == (Opening(15, 100),)


def test_openings_are_bounded_and_forgotten_ones_are_no_rollback() -> None:
    memory = Memory({}, lambda key, value: None)
    for nonce in range(1, OPENINGS_MAX + 2):
        memory.add_opening(Opening(nonce, nonce))

    assert len(memory.openings) == OPENINGS_MAX
    assert memory.limit_of(1) is None


def test_rejected_changes_are_settled_by_id() -> None:
    memory = Memory({}, lambda key, value: None)
    memory.set_rejected(1, Rejected(b"a", "c", "t"))
    memory.set_rejected(2, Rejected(b"b", "c", "t"))

    assert memory.settle_rejected({b"a", b"x"})
    assert not memory.settle_rejected({b"a"})
    assert list(memory.rejected) == [2]


def test_only_what_a_node_wrote_itself_counts_for_its_clock() -> None:
    rows = [
        Row(b"a", (Leaf(1, 50, 7, True, 0, bytes(8)), Leaf(1, 90, 8, True, 0, bytes(8))), (None, None)),
        Row(b"b", (Leaf(1, 60, 7, True, 0, bytes(8)),), (None,)),
    ]

    assert highest_hlc_of(rows, 7) == 60
    assert highest_hlc_of(rows, 9) == 0
