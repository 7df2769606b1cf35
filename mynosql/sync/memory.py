"""What a node remembers of the mesh across openings: cursors, confirmations, what is delivered, database ids.

Read once from the store's notes; every change is handed back as a SetNote, or as a note that stands or falls with the
rows of an Apply. Addresses and mirrors are membership.Membership's. Notes that cannot be read count as not there: the
worst that follows is work done twice. Numbers are ASCII decimals.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgpack

from mynosql.row import Row
from mynosql.scope import Scope, common

DATABASE_ID_BYTES = 16
DATABASES_MAX = 8
REJECTED_TEXT_MAX = 400
OPENINGS_MAX = 512
"""Openings remembered: 8 KiB, and years of reboots."""
TAKEN_MAX = 64
"""Mirrors whose acknowledgements are remembered until enough others have the same; of more the oldest go."""
_OPENING = struct.Struct("<QQ")


class Cursor(NamedTuple):
    """How far the feed of one index was taken in."""

    seq: int
    hlc: int = 0
    """Highest clock of a version of `node` in it."""
    node: int = 0
    """Whose index it is."""
    nonce: int = 0
    """Of the opening in which the node told of that seq."""


class Taken(NamedTuple):
    """What one mirror acknowledged while more mirrors are asked for."""

    seq: int
    """Our owed changes up to here are on its disk."""
    theirs: int
    """They stand at or below this seq of its feed."""


class Opening(NamedTuple):
    """One opening of our own database."""

    nonce: int
    head: int
    """Our newest seq at that moment."""


class Rejected(NamedTuple):
    """A change of ours that a mirror refused; it stays here and is not sent again until the record changes."""

    id_key: bytes
    code: str
    text: str


class Memory:
    """The small durable state of the protocol. set_note: hands a changed note to the store."""

    def __init__(self, notes: Mapping[str, bytes], set_note: Callable[[str, bytes], None]) -> None:
        self._set_note = set_note
        self.cursors: dict[bytes, Cursor] = {}
        """Per index id: how far we pulled."""
        self.cursor_scopes: dict[bytes, Scope] = {}
        """Per index id: what was taken in up to the cursor, where that is not everything."""
        self.scope = _scope_from(notes.get("scope", b""))
        """What the index takes in; None: everything."""
        self.pushed: dict[bytes, Cursor] = {}
        """Per index id: how far it pushed to us."""
        self.witnessed: dict[bytes, Cursor] = {}
        """Per index id: the seq that changes of ours got there, as acknowledged."""
        self.offered: dict[bytes, int] = {}
        """Per index id: our changes up to this seq came from it, were pushed to it, or were offered to it as held."""
        self.confirmed: dict[int, int] = {}
        """Per mirror's node id: how much of our feed it has on its disk."""
        self.rejected: dict[int, Rejected] = {}
        self.databases = _databases_from(notes.get("database", b""))
        self.delivered = _number_from(notes.get("delivered", b""))
        """Our owed changes up to this seq are on the disks of as many mirrors as are asked for."""
        self.taken: dict[bytes, Taken] = {}
        """Per index id of a mirror: what it acknowledged above `delivered`."""
        self.owed_all_until = _number_from(notes.get("owed-all-until", b""))
        """Changes above `delivered` and up to this are owed whoever wrote them: we were a mirror then."""
        self.is_filling = notes.get("filling") == b"1"
        self.is_filled = notes.get("filling") == b"0"
        """This node was a full mirror before."""
        self.is_synced = notes.get("synced") == b"1"
        self.openings = _openings_from(notes.get("openings", b""))
        """The last ones, oldest first: what others heard of us must fit into them."""
        for key, value in notes.items():
            self._read(key, value)

    def _read(self, key: str, value: bytes) -> None:
        kind, _, name = key.partition("/")
        try:
            if kind == "cursor":
                self.cursors[bytes.fromhex(name)] = _cursor_from(value)
            elif kind == "cursor-scope":
                self.cursor_scopes[bytes.fromhex(name)] = _scope_from(value) or ()
            elif kind == "pushed":
                self.pushed[bytes.fromhex(name)] = _cursor_from(value)
            elif kind == "witnessed":
                self.witnessed[bytes.fromhex(name)] = _cursor_from(value)
            elif kind == "offered":
                self.offered[bytes.fromhex(name)] = int(value)
            elif kind == "confirmed":
                self.confirmed[int(name, 16)] = int(value)
            elif kind == "taken":
                self.taken[bytes.fromhex(name)] = Taken(*map(int, value.split()))
            elif kind == "rejected":
                self.rejected[int(name)] = Rejected(*msgpack.unpackb(value))
        except (ValueError, TypeError):
            return

    # Cursors: written with the rows that they count

    def cursor_note(self, index_id: bytes, cursor: Cursor) -> dict[str, bytes]:
        """The note that says so, for the Apply of the rows; call set_cursor once that is done."""
        return {f"cursor/{index_id.hex()}": _pack_cursor(cursor)}

    def pushed_note(self, index_id: bytes, cursor: Cursor) -> dict[str, bytes]:
        return {f"pushed/{index_id.hex()}": _pack_cursor(cursor)}

    def set_witnessed(self, index_id: bytes, cursor: Cursor) -> None:
        if cursor.seq > self.witnessed.get(index_id, Cursor(0)).seq:
            self.witnessed[index_id] = cursor
            self._set_note(f"witnessed/{index_id.hex()}", _pack_cursor(cursor))

    def hlc_of(self, node: int) -> int:
        """The highest clock of a version of that node that came from itself; 0: none."""
        found = [cursor.hlc for cursors in (self.cursors, self.pushed) for cursor in cursors.values()
                 if cursor.node == node]
        return max(found, default=0)

    # Scope

    def set_scope(self, scope: Scope | None) -> None:
        """From now on the index takes in that; what was taken in before counts where it is within."""
        self.scope = scope
        self._set_note("scope", b"" if scope is None else msgpack.packb(scope))
        for index_id in self.cursors:
            self.set_cursor_scope(index_id, common(self.cursor_scopes.get(index_id), scope))

    def narrow_cursors(self) -> None:
        """What was written of the scope before a power cut may lack what was to be written of the cursors."""
        for index_id in self.cursors if self.scope is not None else ():
            self.set_cursor_scope(index_id, common(self.cursor_scopes.get(index_id), self.scope))

    def set_cursor_scope(self, index_id: bytes, scope: Scope | None) -> None:
        """Up to the cursor for that index that much was taken in."""
        if self.cursor_scopes.get(index_id) != scope:
            if scope is None:
                del self.cursor_scopes[index_id]
            else:
                self.cursor_scopes[index_id] = scope
            self._set_note(f"cursor-scope/{index_id.hex()}", b"" if scope is None else msgpack.packb(scope))

    def restart_cursor(self, index_id: bytes) -> None:
        """All of that index is to be taken in again; what its node must have is not forgotten."""
        cursor = self.cursors.pop(index_id)
        self.set_witnessed(index_id, cursor)
        self._set_note(f"cursor/{index_id.hex()}", b"")
        self.set_cursor_scope(index_id, None)

    # Notes of their own

    def set_offered(self, index_id: bytes, seq: int) -> None:
        self.offered[index_id] = seq
        self._set_note(f"offered/{index_id.hex()}", b"%d" % seq)

    def set_confirmed(self, node: int, seq: int) -> None:
        self.confirmed[node] = seq
        self._set_note(f"confirmed/{node:016x}", b"%d" % seq)

    def forget_confirmed(self) -> None:
        for node in self.confirmed:
            self._set_note(f"confirmed/{node:016x}", b"")
        self.confirmed.clear()

    def confirmed_by(self, count: int) -> int:
        """How much of our feed that many other mirrors have on their disks, each of them."""
        seqs = sorted(self.confirmed.values(), reverse=True)
        return seqs[count - 1] if len(seqs) >= count else 0

    @property
    def acked(self) -> int:
        """Our owed changes up to this seq are on the disk of one mirror at least."""
        return max([self.delivered, *(taken.seq for taken in self.taken.values())])

    def set_taken(self, index_id: bytes, taken: Taken, *, is_kept: bool) -> None:
        """is_kept: write it down; not needed when nothing was owed in between."""
        if index_id not in self.taken and len(self.taken) >= TAKEN_MAX:
            self._forget_taken(min(self.taken, key=lambda found: self.taken[found].seq))
        self.taken[index_id] = taken
        if is_kept:
            self._set_note(f"taken/{index_id.hex()}", b"%d %d" % taken)

    def _forget_taken(self, index_id: bytes) -> None:
        del self.taken[index_id]
        self._set_note(f"taken/{index_id.hex()}", b"")

    def set_delivered(self, seq: int, *, is_kept: bool) -> None:
        """is_kept: write it down; not needed when nothing was owed in between."""
        self.delivered = seq
        if is_kept:
            self._set_note("delivered", b"%d" % seq)
        for index_id in [index_id for index_id, taken in self.taken.items() if taken.seq <= seq]:
            self._forget_taken(index_id)

    def set_owed_all_until(self, seq: int) -> None:
        self.owed_all_until = seq
        self._set_note("owed-all-until", b"%d" % seq)

    def set_rejected(self, seq: int, rejected: Rejected) -> None:
        self.rejected[seq] = rejected
        value: bytes = msgpack.packb([rejected.id_key, rejected.code, rejected.text[:REJECTED_TEXT_MAX]])
        self._set_note(f"rejected/{seq}", value)

    def settle_rejected(self, id_keys: set[bytes]) -> bool:
        """Records that were accepted after all are rejected no more; True if there was one."""
        settled = [seq for seq, rejected in self.rejected.items() if rejected.id_key in id_keys]
        for seq in settled:
            del self.rejected[seq]
            self._set_note(f"rejected/{seq}", b"")
        return bool(settled)

    def owe_rejected(self) -> None:
        """What was refused is owed again, with what was acknowledged behind it."""
        if self.rejected:
            for index_id in list(self.taken):
                self._forget_taken(index_id)
            self.set_delivered(min(self.delivered, min(self.rejected) - 1), is_kept=True)
            self.settle_rejected({rejected.id_key for rejected in self.rejected.values()})

    def set_databases(self, databases: Iterable[bytes]) -> None:
        self.databases = tuple(sorted(databases))[:DATABASES_MAX]
        self._set_note("database", b"".join(self.databases))

    def set_filling(self, is_filling: bool) -> None:
        self.is_filling = is_filling
        self.is_filled = not is_filling
        self._set_note("filling", b"1" if is_filling else b"0")

    def add_opening(self, opening: Opening, *, is_first: bool = False) -> None:
        """is_first: of this index id, so that the earlier ones mean nothing any more."""
        kept = () if is_first else self.openings[-(OPENINGS_MAX - 1) :]
        self.openings = (*kept, opening)
        self._set_note("openings", b"".join(_OPENING.pack(*found) for found in self.openings))

    def limit_of(self, nonce: int) -> int | None:
        """How far our feed went when that opening ended; None: it has not ended, or is older than what is remembered.

        Raises KeyError for an opening that was never ours: this folder is older than what it told others.
        """
        nonces = [opening.nonce for opening in self.openings]
        if nonce not in nonces:
            if len(self.openings) >= OPENINGS_MAX:
                return None
            raise KeyError(nonce)
        position = nonces.index(nonce) + 1
        return self.openings[position].head if position < len(nonces) else None

    def set_synced(self) -> None:
        if not self.is_synced:
            self.is_synced = True
            self._set_note("synced", b"1")


def highest_hlc_of(rows: Iterable[Row], node: int) -> int:
    """The highest clock among the leaves that this node wrote; 0: none."""
    return max((leaf.hlc for row in rows for leaf in row.leaves if leaf.node == node), default=0)


def _pack_cursor(cursor: Cursor) -> bytes:
    return b"%d %d %d %d" % cursor


def _cursor_from(value: bytes) -> Cursor:
    return Cursor(*map(int, value.split()))


def _scope_from(value: bytes) -> Scope | None:
    try:
        found = msgpack.unpackb(value) if value else None
        return None if found is None else tuple(prefix for prefix in found if isinstance(prefix, str))
    except (ValueError, TypeError, msgpack.UnpackException):
        return None


def _number_from(value: bytes) -> int:
    return int(value) if value.isdigit() else 0


def _openings_from(value: bytes) -> tuple[Opening, ...]:
    if len(value) % _OPENING.size:
        return ()
    return tuple(Opening(*found) for found in _OPENING.iter_unpack(value))


def _databases_from(value: bytes) -> tuple[bytes, ...]:
    if len(value) % DATABASE_ID_BYTES:
        return ()
    return tuple(value[at : at + DATABASE_ID_BYTES] for at in range(0, len(value), DATABASE_ID_BYTES))
