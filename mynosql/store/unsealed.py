"""What is not sealed yet: the memtable that takes rows, the frozen ones that wait, their journals, counts and notes.

Owns the order of a write: the frame is in the journal first, then memory follows (append, then absorb); a write that
fails has changed neither. Knows nothing of segments. Driven by Store; recovery replays journals through absorb().
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial

from mynosql.errors import StorageError
from mynosql.revision import entry_digest
from mynosql.row import Entry, Row
from mynosql.store.files import Files
from mynosql.store.frames import JournalWriter
from mynosql.store.memtable import NO_HASH, Memtable
from mynosql.store.seal import new_journal
from mynosql.store.tally import HELD, LIVE, Tally, state_of_row

_new_row = partial(tuple.__new__, Row)


class Unsealed:
    """Memtables, oldest first, and the state as of the last frame."""

    def __init__(self, files: Files, tally: Tally, notes: dict[str, bytes], node: int | None) -> None:
        self.node = node
        """Whose leaves count for tally.hlc_max; None: everybody's."""
        self.tally = tally
        self.notes = notes
        self.active = Memtable(tally.head_seq + 1, files)
        self.frozen: list[Memtable] = []
        self.written = 0
        """Frames written since opening."""
        self.next_journal = 0
        self.keeps_digests = False
        """Memtables remember what they replace, so that sums can be kept (summing.Summer)."""
        self.spare: JournalWriter | None = None
        """Made ahead for the next memtable."""
        self._files = files

    @property
    def memtables(self) -> list[Memtable]:
        """Oldest first."""
        return [*self.frozen, self.active]

    @property
    def size_bytes(self) -> int:
        """What all memtables count for."""
        return self.active.size_bytes + sum([memtable.size_bytes for memtable in self.frozen])

    def row(self, id_key: bytes) -> Row | None:
        """The newest row of the id, None when it has none here."""
        row = self.active.row(id_key)
        return row if row is not None or not self.frozen else self.frozen_row(id_key)

    def frozen_row(self, id_key: bytes) -> Row | None:
        """The newest row of the id in a frozen memtable."""
        for memtable in reversed(self.frozen):
            row = memtable.row(id_key)
            if row is not None:
                return row
        return None

    def row_of_hash(self, full_hash: int) -> Row | None:
        """The newest row of the id with this id hash."""
        for memtable in (self.active, *reversed(self.frozen)):
            row = memtable.find_hash(full_hash)
            if row is not None:
                return row
        return None

    def numbered(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the next seqs; strays keep theirs."""
        seq = self.tally.head_seq
        numbered = []
        for row in rows:
            if not row.stray:
                seq += 1
                row = _new_row((row.id_key, row.leaves, row.bodies, seq, row.owed, False, row.stale))
            numbered.append(row)
        return numbered

    def append(self, payload: bytes) -> int:
        """A frame is in the journal of the active memtable; returns where its payload begins there.

        Raises StorageFull, StorageFailed: nothing has changed.
        """
        active = self.active
        journal = active.journal
        if journal is None:
            journal = self._new_journal()
            active.start_journal(journal)
        offset = journal.append(payload)
        self.written = active.frames = self.written + 1
        return offset

    def _new_journal(self) -> JournalWriter:
        if self.spare is not None:
            journal, self.spare = self.spare, None
            return journal
        return new_journal(self._files, self.take_journal_number())

    def take_journal_number(self) -> int:
        """A number for a journal. Never used twice: what a failed attempt left under it must not be added to."""
        number, self.next_journal = self.next_journal, self.next_journal + 1
        return number

    def offer_spare(self, journal: JournalWriter) -> None:
        """The journal is taken for the next memtable, unless a higher number was given since: replay is by number."""
        if self.spare is None and journal.number == self.next_journal - 1:
            self.spare = journal
        else:
            self.drop_journal(journal)

    def drop_journal(self, journal: JournalWriter) -> None:
        """The journal holds nothing that is needed; its file goes, at the latest at the next opening."""
        journal.close()
        with contextlib.suppress(StorageError):
            self._files.remove(journal.name)

    def absorb(
        self, row: Row, spot: int | None, known: Row | Entry | None, is_outside: bool, short_hash: int = NO_HASH
    ) -> None:
        """The row, numbered and in the journal, is its id's newest.

        spot: see Memtable.insert; known: what was known of the id before; is_outside: and that does not stand in
        the active memtable.
        """
        tally, active = self.tally, self.active
        leaves = row.leaves
        if known is None and spot is not None and not row.stray:
            active.insert_new(row.id_key, spot, row.owed, short_hash)
            tally.counts[state_of_row(row)] += 1
            if row.owed and row.seq > tally.delivered:
                tally.pending += 1
        else:
            active.insert(row, spot, known if type(known) is Row and not is_outside else None, short_hash)
            tally.replace(known, row)
            if is_outside:
                digest = entry_digest(row.id_key, known.leaves) if self.keeps_digests and known is not None else b""
                active.replaces[row.id_key] = digest
        if not row.stray:
            tally.head_seq = row.seq
        for leaf in leaves:
            if leaf[1] > tally.hlc_max and (leaf[2] == self.node or self.node is None):
                tally.hlc_max = leaf[1]

    def absorb_new(self, id_key: bytes, spot: int, hlc: int, short_hash: int) -> None:
        """What absorb() would do for the next seq's plain row of an unknown id: live, held, owed and our own."""
        self.active.insert_new(id_key, spot, True, short_hash)
        tally = self.tally
        tally.counts[LIVE | HELD] += 1
        tally.head_seq = seq = tally.head_seq + 1
        if seq > tally.delivered:
            tally.pending += 1
        if hlc > tally.hlc_max:
            tally.hlc_max = hlc

    def absorb_notes(self, notes: Mapping[str, bytes]) -> None:
        """The notes, in the journal already, have their values; b"" deletes."""
        for key, value in notes.items():
            if value:
                self.notes[key] = value
            else:
                self.notes.pop(key, None)
        self.active.notes.update(notes)

    def freeze(self) -> None:
        """The active memtable takes no more rows and waits to be sealed; a new one is active."""
        self.active.tally = self.tally.pack()
        self.frozen.append(self.active)
        self.active = Memtable(self.tally.head_seq + 1, self._files)
