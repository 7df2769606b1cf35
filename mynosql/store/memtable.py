"""The newest rows in memory, by id and in seq order, until they are sealed.

Owns nothing but memory. The rows of one memtable carry consecutive seqs but for strays, so the feed finds a place by
subtraction. Driven by Store under its lock; a frozen memtable never changes again and may be read by a seal job.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mynosql.idkey import id_hash
from mynosql.row import Row
from mynosql.store.frames import JournalWriter

ROW_BYTES = 150
"""What one row counts for beside its id key and bodies, so that many tiny records fill a memtable as well.
(CPython spends about 600 bytes on the objects of a row; counting them all would make segments needlessly small.)"""


class Memtable:
    """Rows by id key, and the order in which they were written."""

    __slots__ = (
        "_hashed", "_sorted", "first_seq", "frames", "journal", "log", "notes", "replaces", "replayed", "rows",
        "size_bytes", "tally",
    )

    def __init__(self, first_seq: int) -> None:
        self.rows: dict[bytes, Row] = {}
        self.first_seq = first_seq
        """The seq of log[0]."""
        self.log: list[Row | None] = []
        """log[i] is the row with seq first_seq + i; None when a later row of the same id superseded it."""
        self.size_bytes = 0
        self.frames = 0
        """The store's frame counter after the last frame written to this memtable."""
        self.journal: JournalWriter | None = None
        """Where its frames are written; made with the first frame, open until the memtable is sealed."""
        self.replayed: list[int] = []
        """Numbers of journals of an earlier run whose rows are here."""
        self.notes: dict[str, bytes] = {}
        """Notes written by its frames; b"" deletes."""
        self.replaces: set[bytes] = set()
        """Ids that had a row outside this memtable when they came into it."""
        self.tally = b""
        """The packed counters as of its last row; set when it is frozen."""
        self._sorted: list[bytes] = []
        self._hashed: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def last_seq(self) -> int:
        """The seq of the last row in the log; first_seq - 1 when there is none."""
        return self.first_seq + len(self.log) - 1

    @property
    def is_empty(self) -> bool:
        """Nothing was written: no row, and no frame with notes alone."""
        return self.journal is None and not self.replayed

    @property
    def journal_number(self) -> int | None:
        """The highest number of a journal whose rows are here; None when there is none."""
        if self.journal is not None:
            return self.journal.number
        return max(self.replayed, default=None)

    def insert(self, row: Row) -> None:
        """The row is the newest of its id. row.seq: last_seq + 1, or for a stray the seq it has had before."""
        rows = self.rows
        id_key, _, bodies, seq, _, stray, stale = row
        size = ROW_BYTES + len(id_key)
        for body in bodies:
            if body is not None:
                size += len(body)
        if stale is not None:
            size += len(stale.body)
        self.size_bytes += size
        if not stray:
            self.log.append(row)
        old = rows.get(id_key)
        if old is not None and not old.stray:
            place = old.seq - self.first_seq
            if stray and old.seq == seq:
                # The change itself stands here too: the row takes its place in the feed, body and all.
                row = row._replace(stray=False)
                self.log[place] = row
            else:
                self.log[place] = None
        rows[id_key] = row

    def skip_to(self, seq: int) -> None:
        """Leave places empty so that the next row may carry `seq`: rows between were lost with a damaged journal."""
        self.log.extend([None] * (seq - self.last_seq - 1))

    def sorted_keys(self) -> list[bytes]:
        """The id keys in order; the caller must not change the list. Cheap when little came in since the last call."""
        if len(self._sorted) != len(self.rows):
            # Rows never leave a memtable, so the new ones are the last of the dict.
            new = list(islice(self.rows, len(self._sorted), None))
            self._sorted = sorted(self._sorted + new)
        return self._sorted

    def find_hash(self, full_hash: int) -> Row | None:
        """The row of the id with this id hash."""
        hashed = self._hashed
        if len(hashed) != len(self.rows):
            hashed.update((id_hash(id_key), id_key) for id_key in islice(self.rows, len(hashed), None))
        id_key = hashed.get(full_hash)
        return None if id_key is None else self.rows[id_key]

    def between(self, after_seq: int, until_seq: int) -> Iterator[Row]:
        """Rows of the feed with after_seq < seq <= until_seq, in order; strays and replaced rows are not among them."""
        start = max(0, after_seq + 1 - self.first_seq)
        end = max(0, until_seq + 1 - self.first_seq)
        for row in self.log[start:end]:
            if row is not None:
                yield row
