"""What saves and rows of other nodes mean for the records of one store; on the memory doors, without a disk."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mynosql.clock import COUNTER_BITS, HybridClock
from mynosql.errors import RecordInvalid, RecordNotFound, RevisionConflict
from mynosql.ledger import Ledger, Save, check_given
from mynosql.revision import LEAVES_MAX_PUSHED, rev_string
from mynosql.row import Entry, Row, StaleBody
from mynosql.store.store import Store
from mynosql.sync.effects import Applied
from tests.store.making import body_of, conflict_row, key, leaf_of, open_memory, remote_row, row_of, tombstone

NOW_MS = 1_000_000
OTHER = 77


class Side:
    """One node's store and ledger."""

    def __init__(self, node: int = 1) -> None:
        self.store: Store = open_memory()[0]
        self.ledger = Ledger(self.store, node=node, clock=HybridClock())
        self.now_ms = NOW_MS

    def save(self, id: Any, value: Any, rev: str | None = None, *, branch: bool = False) -> str:
        self.now_ms += 1
        save = Save(key(id), rev, body_of(value))
        return rev_string(self.ledger.save(save, branch=branch, now_ms=self.now_ms))

    def apply(self, *rows: Row, pushed: bool = False, notes: dict[str, bytes] | None = None) -> Applied:
        return self.ledger.apply(rows, notes=notes, pushed=pushed, now_ms=self.now_ms)

    def entry(self, id: Any) -> Entry:
        entry = self.store.find(key(id))
        assert entry is not None
        return entry

    def row(self, id: Any, *, with_bodies: bool = True) -> Row:
        """The row as this node would send it."""
        entry = self.entry(id)
        bodies = tuple(self.store.read_body(key(id), at) if with_bodies else None for at in range(len(entry.leaves)))
        return Row(key(id), entry.leaves, bodies)

    def body(self, id: Any) -> bytes | None:
        return self.store.read_body(key(id), 0)


@pytest.fixture
def here() -> Side:
    return Side(1)


@pytest.fixture
def there() -> Side:
    return Side(OTHER)


# Local calls


def test_what_is_saved_here_is_owed(here: Side) -> None:
    here.save("a", 1)
    assert here.entry("a").owed
    assert here.store.counters.pending == 1


def test_a_batch_refused_at_any_record_leaves_the_store_as_it_was(here: Side) -> None:
    here.save("a", 1)
    head = here.store.head_seq
    with pytest.raises(RevisionConflict) as refused:
        here.ledger.save_many(
            [Save(key("b"), None, body_of(1)), Save(key("a"), None, body_of(2))], now_ms=NOW_MS
        )
    assert refused.value.position == 1
    assert here.store.head_seq == head


def test_a_batch_is_one_frame(here: Side) -> None:
    written = here.store.written
    here.ledger.save_many([Save(key(id), None, body_of(1)) for id in "abc"], now_ms=NOW_MS)
    assert here.store.written == written + 1


def test_saving_the_body_of_a_leaf_that_is_not_held_holds_it_without_a_change(here: Side) -> None:
    here.apply(remote_row("a", "theirs"))
    seq, head = here.entry("a").seq, here.store.head_seq
    here.save("a", "theirs")
    assert here.body("a") == body_of("theirs")
    assert (here.entry("a").seq, here.store.head_seq, here.entry("a").owed) == (seq, head, False)


def test_a_child_is_younger_than_its_parent_even_with_a_clock_far_behind(here: Side) -> None:
    ahead = (NOW_MS * 1000) << COUNTER_BITS
    here.apply(row_of("a", 1, hlc=ahead, node=OTHER))
    here.save("a", 2, rev_string(here.entry("a").winner))
    assert here.entry("a").winner.hlc > ahead


def test_delete_covers_all_leaves_and_needs_one_that_is_known(here: Side) -> None:
    here.apply(conflict_row("a", 1, 2, 3))
    with pytest.raises(RevisionConflict):
        here.ledger.delete(key("a"), given="1-" + "0" * 32, now_ms=NOW_MS)
    loser = rev_string(here.entry("a").leaves[2])
    leaf = here.ledger.delete(key("a"), given=loser, now_ms=NOW_MS)
    assert here.entry("a").leaves == (leaf,)
    assert leaf.deleted
    assert here.ledger.delete(key("a"), given=loser, now_ms=NOW_MS) == leaf
    with pytest.raises(RecordNotFound):
        here.ledger.delete(key("never"), now_ms=NOW_MS)


@pytest.mark.parametrize("rev", [7, b"1-00", ["1"]])
def test_a_rev_that_is_no_str_is_an_invalid_record(rev: Any) -> None:
    with pytest.raises(RecordInvalid) as refused:
        check_given(rev)
    assert refused.value.path == "rev"


# Rows of other nodes


def test_a_new_row_is_taken_as_it_came_and_is_not_owed(here: Side) -> None:
    applied = here.apply(row_of("a", 1, owed=True, node=OTHER), notes={"cursor/x": b"5"})
    assert (applied.first_seq, applied.last_seq, applied.is_copy, applied.refused) == (1, 1, True, ())
    assert not here.entry("a").owed
    assert here.store.note("cursor/x") == b"5"


def test_the_same_rows_again_change_nothing(here: Side) -> None:
    rows = [row_of("a", 1, node=OTHER), tombstone("b"), remote_row("c", 1), conflict_row("d", 1, 2)]
    here.apply(*rows)
    written = here.store.written
    again = here.apply(*rows)
    assert (again.first_seq, again.last_seq) == (0, 0)
    assert here.store.written == written


@pytest.mark.parametrize("is_pushed", [True, False])
@pytest.mark.parametrize("fault", ["other bytes", "other size", "body of a tombstone", "second leaf"])
def test_a_body_that_is_not_its_leafs_is_refused_and_the_others_are_taken(
    here: Side, fault: str, is_pushed: bool
) -> None:
    good = row_of("a", 1)
    bad = {
        "other bytes": good._replace(bodies=(body_of(2),)),
        "other size": good._replace(bodies=(body_of("longer"),)),
        "body of a tombstone": tombstone("a")._replace(bodies=(b"x",)),
        "second leaf": conflict_row("a", 1, 2)._replace(bodies=(body_of(1), body_of(3))),
    }[fault]
    applied = here.apply(bad, row_of("b", 1), pushed=is_pushed)
    assert [(row.id_key, row.code) for row in applied.refused] == [(key("a"), "body-wrong")]
    assert here.store.find(key("a")) is None
    assert here.body("b") == body_of(1)


def test_a_new_live_leaf_without_its_body_is_refused_only_when_pushed(here: Side) -> None:
    row = remote_row("a", 1)
    refused = here.apply(row, pushed=True).refused
    assert [(fault.id_key, fault.code) for fault in refused] == [(key("a"), "body-missing")]
    assert here.store.find(key("a")) is None
    assert here.apply(row).refused == ()
    assert not here.entry("a").is_fresh


def test_a_pushed_leaf_that_is_known_needs_no_body(here: Side) -> None:
    row = row_of("a", 1, node=OTHER)
    here.apply(row)
    assert here.apply(row._replace(bodies=(None,)), pushed=True).refused == ()


def leaves_apart(count: int) -> list[Row]:
    return [row_of("a", value, hlc=1000 + value, node=100 + value) for value in range(count)]


def test_the_ninth_leaf_is_refused_when_pushed_and_merged_between_mirrors(here: Side) -> None:
    *allowed, ninth = leaves_apart(LEAVES_MAX_PUSHED + 1)
    assert here.apply(*allowed, pushed=True).refused == ()
    assert [fault.code for fault in here.apply(ninth, pushed=True).refused] == ["too-many-leaves"]
    assert len(here.entry("a").leaves) == LEAVES_MAX_PUSHED
    assert here.apply(ninth).refused == ()
    assert len(here.entry("a").leaves) == LEAVES_MAX_PUSHED + 1
    assert here.apply(ninth, pushed=True).refused == (), "it adds no leaf any more"


def test_edits_made_apart_are_both_leaves_with_their_bodies(here: Side, there: Side) -> None:
    first = here.save("a", 1)
    there.apply(here.row("a"))
    here.save("a", "ours", first)
    there.save("a", "theirs", first)
    applied = here.apply(there.row("a"))
    assert not applied.is_copy, "their sender does not know of ours"
    there.apply(here.row("a"))
    assert here.row("a") == there.row("a")
    assert set(here.row("a").bodies) == {body_of("ours"), body_of("theirs")}


def test_a_newer_revision_without_body_keeps_the_old_body_as_stale(here: Side, there: Side) -> None:
    rev = here.save("a", "old")
    there.apply(here.row("a"))
    there.save("a", "new", rev)
    held = here.entry("a").winner
    here.apply(there.row("a", with_bodies=False))
    assert here.entry("a").stale == held
    assert here.store.read_stale(key("a")) == body_of("old")
    rev = there.save("a", "newer", rev_string(there.entry("a").winner))
    here.apply(there.row("a", with_bodies=False))
    assert here.store.read_stale(key("a")) == body_of("old"), "the only body there is stays"
    here.apply(there.row("a"))
    assert here.entry("a").stale is None
    assert here.body("a") == body_of("newer")


def test_two_revisions_in_one_batch_keep_the_first_body_as_stale(here: Side, there: Side) -> None:
    rev = there.save("a", "old")
    older = there.row("a")
    there.save("a", "new", rev)
    here.apply(older, there.row("a", with_bodies=False))
    assert here.store.read_stale(key("a")) == body_of("old")
    assert here.store.head_seq == 1, "one row for one id"


def test_a_body_alone_comes_as_a_stray_that_moves_no_seq(here: Side) -> None:
    row = row_of("a", 1, node=OTHER)
    here.apply(row._replace(bodies=(None,)))
    head = here.store.head_seq
    applied = here.apply(row)
    assert (applied.first_seq, applied.last_seq) == (0, 0)
    assert here.body("a") == body_of(1)
    assert (here.entry("a").seq, here.store.head_seq) == (head, head)


def test_our_unsent_edit_stays_owed_beside_theirs_and_not_once_it_is_covered(here: Side, there: Side) -> None:
    rev = here.save("a", 1)
    there.apply(here.row("a"))
    here.save("a", "ours", rev)
    there.save("a", "theirs", rev)
    here.apply(there.row("a"))
    assert here.entry("a").owed
    there.apply(here.row("a"))
    there.ledger.resolve(key("a"), body_of("both"), now_ms=there.now_ms + 1)
    here.apply(there.row("a"))
    assert not here.entry("a").owed
    assert here.body("a") == body_of("both")


def test_our_unsent_edit_stays_owed_when_we_were_renamed_meanwhile(here: Side, there: Side) -> None:
    """A copied folder takes a new node id: what it wrote under the old one still has to be delivered."""
    here.save("a", {"by": "here"})
    here.ledger.rename(99)
    there.save("a", {"by": "there"})

    here.apply(there.row("a"))

    assert len(here.entry("a").leaves) == 2
    assert here.entry("a").owed


def test_a_merge_covers_exactly_what_was_seen(here: Side, there: Side) -> None:
    rev = here.save("a", 0)
    here.save("a", 1, rev)
    here.save("a", 2, rev, branch=True)
    seen = here.entry("a").leaves
    here.save("a", 3, rev, branch=True)
    assert here.ledger.merge(key("a"), body_of(9), seen=seen, now_ms=here.now_ms) is None
    assert len(here.entry("a").leaves) == 3
    merged = here.ledger.merge(key("a"), body_of(9), seen=here.entry("a").leaves, now_ms=here.now_ms)
    assert here.entry("a").leaves == (merged,)
    assert here.ledger.merge(key("none"), body_of(9), seen=seen, now_ms=here.now_ms) is None


def test_what_is_retried_is_a_new_owed_change_with_the_same_revisions_and_bodies(here: Side, there: Side) -> None:
    rev = there.save("a", 0)
    here.apply(there.row("a"))
    here.save("a", "ours", rev)
    there.save("a", "theirs", rev)
    here.apply(there.row("a"))
    there.save("b", "old")
    here.apply(there.row("b"))
    there.save("b", "new", rev_string(here.entry("b").winner))
    here.apply(there.row("b", with_bodies=False))
    before = [here.row(id) for id in "ab"]
    assert here.ledger.retry(key("a"))
    assert here.ledger.retry(key("b"))
    assert not here.ledger.retry(key("none"))
    assert [here.row(id) for id in "ab"] == before
    assert here.store.read_stale(key("b")) == body_of("old")
    assert [here.entry(id).seq for id in "ab"] == [6, 7]
    assert here.entry("a").owed


def test_a_clock_too_far_ahead_is_not_followed_and_reported(here: Side) -> None:
    minutes_ms = 10 * 60_000
    here.apply(row_of("a", 1, hlc=(NOW_MS + minutes_ms) << COUNTER_BITS, node=OTHER))
    assert here.ledger.ahead_ms == minutes_ms
    here.save("b", 1)
    assert here.entry("b").winner.hlc >> COUNTER_BITS < NOW_MS + 1000


def test_a_renamed_ledger_writes_under_the_new_node_id(here: Side) -> None:
    here.ledger.rename(9)
    here.save("a", 1)
    assert (here.ledger.node, here.entry("a").winner.node) == (9, 9)


def history(seed: int) -> tuple[Sequence[Row], Side]:
    """Rows as two writers that met at times sent them, and a node that took them in the order of their making."""
    rng = random.Random(seed)
    sides, rows = [Side(1), Side(2)], []
    for step in range(10):
        side = rng.choice(sides)
        side.now_ms += rng.randrange(3)
        entry = side.store.find(key("a"))
        if entry is None or rng.random() < 0.8:
            side.save("a", step, None if entry is None else rev_string(entry.winner))
        else:
            side.ledger.delete(key("a"), now_ms=side.now_ms)
        rows.append(side.row("a"))
        if rng.random() < 0.3:
            sides[0].apply(sides[1].row("a")) if sides[1].store.find(key("a")) else None
    taken = Side(3)
    for row in rows:
        taken.apply(row)
    return rows, taken


@given(seed=st.integers(0, 10_000), data=st.data())
@settings(max_examples=60)
def test_neither_order_nor_repetition_nor_batching_changes_what_rows_make(seed: int, data: st.DataObject) -> None:
    rows, taken = history(seed)
    shuffled = data.draw(st.permutations([*rows, *rows[:3]]))
    cut = data.draw(st.integers(0, len(shuffled)))
    other = Side(3)
    other.apply(*shuffled[:cut])
    other.apply(*shuffled[cut:])
    assert other.row("a") == taken.row("a")


def test_a_stale_body_that_came_with_a_row_is_no_part_of_it(here: Side) -> None:
    old = body_of("old")
    here.apply(remote_row("a", "new")._replace(stale=StaleBody(leaf_of(old, hlc=1), old)))
    assert here.entry("a").stale is None


def test_a_version_of_ours_that_was_never_here_is_noticed_once(here: Side, there: Side) -> None:
    """The folder was rolled back, and who has what it lost was never met before."""
    here.save("a", 1)
    there.apply(here.row("a"))
    here.apply(there.row("a"), row_of("b", 1, node=OTHER))
    assert not here.ledger.take_foreign()

    here.apply(row_of("c", 1, node=1))
    assert here.ledger.take_foreign()
    assert not here.ledger.take_foreign()
    here.apply(row_of("c", 1, node=1))
    assert not here.ledger.take_foreign(), "known by now"
    copy = Side(1)
    copy.now_ms += 1_000
    copy.save("a", 2)
    here.apply(copy.row("a"))
    assert here.ledger.take_foreign(), "beside what we have"
