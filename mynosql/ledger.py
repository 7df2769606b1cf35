"""What a save, a delete, a resolve and an incoming row mean for the records of one store.

Owns the rules that turn a call of the application, or rows of another node, into rows for the store: which
revision becomes whose child, which bodies stay, what is refused. Never touches sockets or sessions; no lock, no
thread, no clock of its own: the caller gives the wall clock in milliseconds. Driven by database.MyNoSQL (local
calls) and replica.Replica (rows from the mesh).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from mynosql.clock import COUNTER_BITS, HybridClock
from mynosql.codec import digest as digest_of
from mynosql.errors import RecordInvalid, RecordNotFound, RevisionConflict
from mynosql.idkey import unpack_id
from mynosql.revision import (
    LEAVES_MAX_PUSHED,
    Rev,
    SaveKind,
    child_of,
    decide_save,
    hlc_above,
    merge_leaves,
    parse_rev,
    rev_string,
)
from mynosql.row import NO_DIGEST, Entry, Leaf, Leaves, Row, StaleBody
from mynosql.store.store import Store
from mynosql.sync.effects import Applied, RefusedRow

_new_leaf = partial(tuple.__new__, Leaf)


class Save(NamedTuple):
    """One record to save, packed and checked; a NamedTuple because every save makes one."""

    id_key: bytes
    given: str | None
    body: bytes


class Ledger:
    """The records of one store under the rules of revisions."""

    def __init__(self, store: Store, *, node: int, clock: HybridClock) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self.ahead_ms = 0
        """How far the newest clock that was not followed ran ahead of ours; 0: none did."""
        self._is_foreign = False

    @property
    def node(self) -> int:
        return self._node

    def take_foreign(self) -> bool:
        """Since the last call something was applied that bears our node id and was never here."""
        is_foreign, self._is_foreign = self._is_foreign, False
        return is_foreign

    def rename(self, node: int) -> None:
        """From now on new versions carry this node id (minted anew after a copied or restored folder was found)."""
        self._node = node

    # Local calls

    def save(self, save: Save, *, branch: bool, now_ms: int) -> Leaf:
        """The record is in the store, if it differs from what was there; returns its revision.

        Raises RevisionConflict when the given rev is not one that may be followed; StorageFull, StorageFailed.
        """
        row, leaf = self._row_of_save(save, self._store.find(save.id_key), branch=branch, now_ms=now_ms)
        if row is not None:
            self._store.put_one(row)
        return leaf

    def save_new(self, id_key: bytes, body: bytes, now_ms: int) -> Leaf | None:
        """save() without a rev for an id that is not known, which most saves are; None: it is known, save() decides.

        What decide_save and child_of come to for a new record, without a Row.
        """
        store = self._store
        if store.find(id_key) is not None:
            return None
        leaf = self._new_leaf(body, now_ms)
        store.put_new(id_key, leaf, body)
        return leaf

    def _new_leaf(self, body: bytes, now_ms: int) -> Leaf:
        return _new_leaf((1, self._clock.next(now_ms), self._node, False, len(body), digest_of(body), None))

    def _are_all_new(self, saves: Sequence[Save]) -> bool:
        """None has a rev, none is known, and no id is there twice."""
        find = self._store.find
        if not saves or len({save.id_key for save in saves}) != len(saves):
            return False
        return all(save.given is None and find(save.id_key) is None for save in saves)

    def save_many(self, saves: Sequence[Save], *, now_ms: int) -> list[Leaf]:
        """All of them are in the store, in one journal frame, or none is; returns their revisions in order.

        The same id twice follows itself: the second is judged against the first. Errors carry `.position`.
        """
        if self._are_all_new(saves):
            new = [(save.id_key, self._new_leaf(save.body, now_ms), save.body) for save in saves]
            self._store.put_all_new(new)
            return [leaf for _, leaf, _ in new]
        rows: dict[bytes, Row] = {}
        leaves: list[Leaf] = []
        for position, save in enumerate(saves):
            earlier = rows.get(save.id_key)
            entry = self._store.find(save.id_key) if earlier is None else _entry_of(earlier)
            try:
                row, leaf = self._row_of_save(save, entry, branch=False, now_ms=now_ms, earlier=earlier)
            except RevisionConflict as error:
                raise RevisionConflict(
                    f"record {position} of the batch: {error}; none of the batch was saved",
                    id=error.id, given=error.given, latest=error.latest, position=position,
                ) from error
            leaves.append(leaf)
            if row is not None:
                rows[save.id_key] = row
        if rows:
            self._store.put(list(rows.values()))
        return leaves

    def delete(self, id_key: bytes, *, given: str | None = None, now_ms: int) -> Leaf:
        """Every known leaf is covered by a tombstone; a record that is deleted already stays as it is.

        given: the rev the caller deletes, None for whatever is there; it must be a leaf known here.
        Raises RecordNotFound when the id is absent, RevisionConflict when given is not a leaf.
        """
        entry = self._store.find(id_key)
        if entry is None:
            raise RecordNotFound(f"cannot delete {_shown(id_key)}: no such record", id=unpack_id(id_key))
        if all(leaf.deleted for leaf in entry.leaves):
            return entry.winner
        if given is not None and given not in map(rev_string, entry.leaves):
            raise _conflict(id_key, given, entry.leaves, "deletes a revision that is not current")
        leaf = self._child(entry.leaves, None, now_ms)
        self._store.put_one(Row(id_key, (leaf,), (None,), owed=True))
        return leaf

    def resolve(self, id_key: bytes, body: bytes, *, now_ms: int) -> Leaf:
        """A new revision that descends from every known leaf is in the store: the conflict is over wherever it comes.

        Raises RecordNotFound when the id is absent.
        """
        entry = self._store.find(id_key)
        if entry is None:
            raise RecordNotFound(f"cannot resolve {_shown(id_key)}: no such record", id=unpack_id(id_key))
        leaf = self._child(entry.leaves, body, now_ms)
        self._store.put_one(Row(id_key, (leaf,), (body,), owed=True))
        return leaf

    def merge(self, id_key: bytes, body: bytes, *, seen: Leaves, now_ms: int) -> Leaf | None:
        """As resolve, if the leaves are still those that were seen: one that came since would be covered unread.

        None: they are not, and nothing was done.
        """
        entry = self._store.find(id_key)
        if entry is None or entry.leaves != seen:
            return None
        return self.resolve(id_key, body, now_ms=now_ms)

    def retry(self, id_key: bytes) -> bool:
        """The record is a new change of this node, owed like a save, with the revisions it has; False: unknown here."""
        entry = self._store.find(id_key)
        if entry is None:
            return False
        bodies = self._bodies(id_key, entry.leaves, entry, {})
        stale = None if entry.is_fresh else self._stale(id_key, entry, None)
        self._store.put_one(Row(id_key, entry.leaves, bodies, 0, True, False, stale))
        return True

    def evict(self, id_key: bytes, entry: Entry) -> None:
        """Its bodies are here no more; the entry, its place in the feed and what is owed are as before."""
        if entry.held or entry.stale is not None:
            gone = (None,) * len(entry.leaves)
            self._store.put_one(Row(id_key, entry.leaves, gone, entry.seq, entry.owed, True))

    def _row_of_save(
        self, save: Save, entry: Entry | None, *, branch: bool, now_ms: int, earlier: Row | None = None
    ) -> tuple[Row | None, Leaf]:
        body = save.body
        digest = digest_of(body)
        leaves = entry.leaves if entry is not None else None
        given = parse_rev(save.given) if save.given is not None else None
        decision = decide_save(
            leaves, given, is_malformed=given is None and save.given is not None, branch=branch,
            digest=digest, size=len(body),
        )
        kind = decision.kind
        if kind is SaveKind.NO_CHANGE:
            assert entry is not None
            assert decision.leaf is not None
            return self._row_of_body(save, entry, decision.leaf, earlier), decision.leaf
        if kind is SaveKind.CONFLICT:
            assert leaves is not None
            raise _conflict(save.id_key, save.given, leaves, decision.reason)
        parents = decision.parents
        others = decision.others
        leaf = child_of(
            parents, others, hlc=self._clock.next(now_ms, hlc_above(leaves)), node=self._node, deleted=False,
            size=len(body), digest=digest, generation_floor=decision.generation_floor,
        )
        if not others:
            return Row(save.id_key, (leaf,), (body,), 0, True), leaf
        merged = merge_leaves(others, (leaf,))
        bodies = self._bodies(save.id_key, merged, entry, {leaf[1:3]: body}, earlier)
        return Row(save.id_key, merged, bodies, 0, True), leaf

    def _row_of_body(self, save: Save, entry: Entry, leaf: Leaf, earlier: Row | None) -> Row | None:
        """The saved body is that of a leaf known here: a row to hold it from now on, None where it is held."""
        position = entry.leaves.index(leaf)
        if entry.held >> position & 1:
            return None
        bodies = self._bodies(save.id_key, entry.leaves, entry, {leaf[1:3]: save.body}, earlier)
        return Row(save.id_key, entry.leaves, bodies, entry.seq, entry.owed, True)

    def _child(self, parents: Leaves, body: bytes | None, now_ms: int) -> Leaf:
        return child_of(
            parents, (), hlc=self._clock.next(now_ms, hlc_above(parents)), node=self._node, deleted=body is None,
            size=0 if body is None else len(body), digest=NO_DIGEST if body is None else digest_of(body),
        )

    def _bodies(
        self, id_key: bytes, leaves: Leaves, entry: Entry | None,
        new: Mapping[tuple[int, int], bytes], earlier: Row | None = None,
    ) -> tuple[bytes | None, ...]:
        """Bodies of these leaves: the new ones, else what this store (or an earlier row of the batch) holds."""
        bodies: list[bytes | None] = []
        for leaf in leaves:
            body = new.get((leaf.hlc, leaf.node))
            if body is None and not leaf.deleted and entry is not None:
                position = _position(entry.leaves, leaf)
                if position is not None and entry.held >> position & 1:
                    body = earlier.bodies[position] if earlier else self._store.read_body(id_key, position)
            bodies.append(body)
        return tuple(bodies)

    # Rows of other nodes

    def apply(
        self, rows: Iterable[Row], *, notes: Mapping[str, bytes] | None, pushed: bool, now_ms: int
    ) -> Applied:
        """The rows are merged into the store in one journal frame together with the notes; returns what became of them.

        pushed: rows of a writer that this node answers for as a mirror: a ninth leaf, or a live new leaf without
        its body, is refused. Bodies that do not match their leaf's digest are refused always. A new row is not
        owed: its sender has it. The order of rows does not matter; the same rows twice change nothing.
        """
        todo: dict[bytes, Row] = {}
        refused: list[RefusedRow] = []
        hlc_max = 0
        is_copy = True
        own = self._node
        find = self._store.find
        for row in rows:
            fault = _fault_of(row)
            if fault is not None:
                refused.append(fault)
                continue
            id_key, leaves, row_bodies, *_ = row
            earlier = todo.get(id_key)
            entry = find(id_key) if earlier is None else _entry_of(earlier)
            if entry is None:
                merged = leaves
                fault = _push_fault(row, leaves, ()) if pushed else None
                result: Row | None = Row(id_key, leaves, row_bodies)
            else:
                merged = merge_leaves(entry.leaves, row.leaves)
                fault = _push_fault(row, merged, entry.leaves) if pushed else None
                result = None if fault else self._merged_row(row, merged, entry, earlier)
            if fault is not None:
                refused.append(fault)
                continue
            if result is None:
                continue
            if merged[0].node == own or len(merged) > 1:
                known = entry.leaves if entry is not None else ()
                self._is_foreign |= any(leaf.node == own and leaf not in known for leaf in merged)
            if not result.stray:
                hlc_max = max(hlc_max, leaves[0].hlc)
                is_copy = is_copy and (result.leaves is leaves or result.leaves == leaves)
            todo[row.id_key] = result
        head = self._store.head_seq
        if todo or notes:
            self._store.put(list(todo.values()), notes=notes)
        if hlc_max and not self._clock.observe(hlc_max, now_ms):
            self.ahead_ms = (hlc_max >> COUNTER_BITS) - now_ms
        last = self._store.head_seq
        return Applied(
            first_seq=head + 1 if last > head else 0, last_seq=last if last > head else 0, head=last,
            refused=tuple(refused), is_copy=is_copy,
        )

    def _merged_row(self, row: Row, merged: Leaves, entry: Entry, earlier: Row | None) -> Row | None:
        """The row to store when theirs meets an id known here; None when it brings nothing."""
        theirs = {
            (leaf.hlc, leaf.node): body
            for leaf, body in zip(row.leaves, row.bodies, strict=True) if body is not None
        }
        is_change = merged is not entry.leaves
        if not is_change and not any(
            (leaf.hlc, leaf.node) in theirs and not entry.held >> position & 1
            for position, leaf in enumerate(merged)
        ):
            return None
        bodies = self._bodies(row.id_key, merged, entry, theirs, earlier)
        stale = None
        if bodies[0] is None and not merged[0].deleted:
            stale = self._stale(row.id_key, entry, earlier)
        if is_change:
            # What was owed, survives and is not known to the sender is owed still. Not by our node id: it may be
            # another since the save (a folder that was copied or restored takes a new one).
            ours = entry.owed and any(leaf in entry.leaves and leaf not in row.leaves for leaf in merged)
            return Row(row.id_key, merged, bodies, 0, ours, False, stale)
        if earlier is not None:
            return earlier._replace(bodies=bodies, stale=stale)
        return Row(row.id_key, merged, bodies, entry.seq, entry.owed, True, stale)

    def _stale(self, id_key: bytes, entry: Entry, earlier: Row | None) -> StaleBody | None:
        if earlier is not None:
            if earlier.bodies[0] is not None:
                return StaleBody(earlier.leaves[0], earlier.bodies[0])
            return earlier.stale
        if entry.held & 1 and not entry.winner.deleted:
            body = self._store.read_body(id_key, 0)
            return None if body is None else StaleBody(entry.winner, body)
        if entry.stale is not None:
            body = self._store.read_stale(id_key)
            return None if body is None else StaleBody(entry.stale, body)
        return None


def check_given(given: object) -> str | None:
    """The rev of a record as a caller may give it: a str or nothing at all; raises RecordInvalid."""
    if given is None or isinstance(given, str):
        return given
    raise RecordInvalid(
        f"rev is {type(given).__name__}, expected the str that savedoc or readdoc gave; a new record has none",
        path="rev",
    )


def _entry_of(row: Row) -> Entry:
    held = 0
    for position, leaf in enumerate(row.leaves):
        if leaf.deleted or row.bodies[position] is not None:
            held |= 1 << position
    return Entry(row.id_key, row.leaves, held, row.seq, row.owed, row.stale.leaf if row.stale else None)


def _position(leaves: Leaves, leaf: Leaf) -> int | None:
    for position, candidate in enumerate(leaves):
        if candidate.hlc == leaf.hlc and candidate.node == leaf.node:
            return position
    return None


def _fault_of(row: Row) -> RefusedRow | None:
    if len(row.leaves) == 1:
        body = row.bodies[0]
        if body is None:
            return None
        leaf = row.leaves[0]
        if len(body) == leaf.size and not leaf.deleted and digest_of(body) == leaf.digest:
            return None
    for leaf, body in zip(row.leaves, row.bodies, strict=True):
        if body is not None and (leaf.deleted or len(body) != leaf.size or digest_of(body) != leaf.digest):
            return _refused(row, "body-wrong", f"the body of {rev_string(leaf)} does not match its digest and size")
    return None


def _push_fault(row: Row, merged: Leaves, known: Leaves) -> RefusedRow | None:
    if len(merged) > LEAVES_MAX_PUSHED and len(merged) > len(known):
        return _refused(
            row, "too-many-leaves",
            f"{len(known)} revisions of this record are in conflict; resolve them before another is added",
        )
    known_versions = {(leaf.hlc, leaf.node) for leaf in known}
    for leaf, body in zip(row.leaves, row.bodies, strict=True):
        if body is None and not leaf.deleted and leaf in merged and (leaf.hlc, leaf.node) not in known_versions:
            return _refused(row, "body-missing", f"revision {rev_string(leaf)} came without its body")
    return None


def _refused(row: Row, code: str, text: str) -> RefusedRow:
    return RefusedRow(id_key=row.id_key, code=code, text=f"{_shown(row.id_key)}: {text}")


def _shown(id_key: bytes) -> str:
    try:
        return repr(unpack_id(id_key))
    except ValueError:
        return id_key.hex()


def _conflict(id_key: bytes, given: str | None, leaves: Leaves, reason: str) -> RevisionConflict:
    latest = rev_string(leaves[0])
    return RevisionConflict(
        f"cannot save {_shown(id_key)}: {reason}; given rev {given}, newest {latest}: read the record again and "
        "save your edit of what it holds now, or save with branch=True to keep both",
        id=unpack_id(id_key), given=given, latest=latest,
    )


__all__ = ["Ledger", "Rev", "Save", "check_given"]
