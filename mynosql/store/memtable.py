"""The newest rows until they are sealed: which ids there are, in which order, and where in a journal each row stands.

Owns spots, not rows: a row is in its journal before it is here, and is read from there, so that a burst of saves costs
200 bytes of memory a record whatever the records hold. The rows of one memtable carry consecutive seqs but for strays,
so the feed finds a spot by subtraction. Driven by Store under its lock; a frozen memtable never changes again and may
be read by a seal job.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mynosql.errors import StorageCorrupt
from mynosql.idkey import id_hash
from mynosql.row import Row
from mynosql.store.files import Files
from mynosql.store.frames import JournalWriter
from mynosql.store.packed import unpack_row

Kept = int | Row
"""Where a row stands (see spot_of), or the row itself where no journal has it packed for reading."""
JOURNALED_BYTES_MAX = 64 << 10
"""A row packed to more than this is kept itself: its body is read in pieces."""
ROW_BYTES = 200
"""Memory of one row beside its id key: two objects' heads, slots in a dict and two arrays."""
OBJECT_BYTES = 600
"""What a row that is kept itself costs beside its bodies."""
NO_HASH = -1
"""Stands for a short hash that nobody had to compute yet."""
_ITSELF = 1
"""Stands in the log for a row that is kept itself; 0 for one that is superseded."""
_OFFSET_BITS, _LENGTH_BITS = 36, 20
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_WINDOW_BYTES = 256 << 10


def spot_of(source: int, offset: int, length: int) -> int:
    """Where a packed row stands: in which of a memtable's sources, and where there. Never 0 or 1: frames have heads."""
    return (source << _OFFSET_BITS | offset) << _LENGTH_BITS | length


def weight_of(packed_bytes: int) -> int:
    """What a packed row counts for beside ROW_BYTES and its id key: nothing in memory, but the journal is bounded too.

    (A seal reads it whole: four times a memtable's limit at most.)
    """
    return packed_bytes >> 3 if packed_bytes < 512 else packed_bytes >> 2


class Memtable:
    """Rows by id key, and the order in which they were written."""

    __slots__ = (
        "_contents", "_files", "_hashed", "_large", "_last", "_owed", "_sorted", "first_seq", "frames", "hashes",
        "journal", "kept", "log", "notes", "replaces", "replayed", "size_bytes", "source", "sources", "tally",
    )

    def __init__(self, first_seq: int, files: Files) -> None:
        self.kept: dict[bytes, Kept] = {}
        self.first_seq = first_seq
        """The seq of log[0]."""
        self.log = array("Q")
        """log[i] is the spot of the row with seq first_seq + i; 0 when a later row of the same id superseded it."""
        self.hashes = array("q")
        """hashes[i] is the short hash of the id of log[i], or NO_HASH."""
        self._owed = bytearray()
        """_owed[i]: 1 when the row of log[i] is owed to others."""
        self.size_bytes = 0
        self.frames = 0
        """The store's frame counter after the last frame written to this memtable."""
        self.journal: JournalWriter | None = None
        """Where its frames are written; made with the first frame, open until the memtable is sealed."""
        self.source = 0
        """The number of that journal among the sources."""
        self.sources: list[str] = []
        """Names of the journals that spots speak of."""
        self.replayed: list[int] = []
        """Numbers of journals of an earlier run whose rows are here."""
        self.notes: dict[str, bytes] = {}
        """Notes written by its frames; b"" deletes."""
        self.replaces: dict[bytes, bytes] = {}
        """Ids that had a row outside this memtable when they came into it, with revision.entry_digest of that row's
        leaves, or b"" where Unsealed.keeps_digests was not set.
        """
        self.tally = b""
        """The packed counters as of its last row; set when it is frozen."""
        self._large: dict[int, Row] = {}
        self._files = files
        self._contents: Sequence[bytes] | None = None
        self._last: tuple[int, Any] = 0, None
        """The row unpacked last: a save asks twice, first what is known, then what it replaces."""
        self._sorted: list[bytes] = []
        self._hashed: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, id_key: bytes) -> bool:
        return id_key in self.kept

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

    def start_journal(self, journal: JournalWriter) -> None:
        """Its frames are written there."""
        self.journal = journal
        self.source = self.add_source(journal.name)

    def add_source(self, name: str) -> int:
        """The number for spot_of() of the journal with this name."""
        self.sources.append(name)
        return len(self.sources) - 1

    # Reading

    def row(self, id_key: bytes) -> Row | None:
        """The newest row of the id here, None when it has none. Raises StorageCorrupt."""
        kept = self.kept.get(id_key)
        return None if kept is None else self.unpack(kept)

    def rows(self) -> Iterator[Row]:
        """The newest row of every id, in the order in which the ids came."""
        return map(self.unpack, self.kept.values())

    def unpack(self, kept: Kept) -> Row:
        """The row that is kept so. Raises StorageCorrupt when the journal no longer says what was written to it."""
        if type(kept) is not int:
            return kept  # type: ignore[return-value]
        if kept == self._last[0]:
            row: Row = self._last[1]
            return row
        if self._contents is not None:
            return self._unpacked(self.packed_in(self._contents, kept), kept)
        offset = kept >> _LENGTH_BITS
        name = self.sources[offset >> _OFFSET_BITS]
        row = self._unpacked(self._files.read_fresh(name, offset & _OFFSET_MASK, kept & _LENGTH_MASK), kept)
        self._last = kept, row
        return row

    def _unpacked(self, packed: bytes, spot: int) -> Row:
        try:
            return unpack_row(packed)
        except ValueError as error:
            offset = spot >> _LENGTH_BITS
            raise StorageCorrupt(
                self._files.path(self.sources[offset >> _OFFSET_BITS]), offset & _OFFSET_MASK,
                f"what was saved here cannot be read again ({error}); check the disk",
            ) from error

    def load(self) -> Sequence[bytes]:
        """The whole content of each source. Raises StorageCorrupt."""
        return [self._files.read(name, 0, self._files.size(name)) for name in self.sources]

    def hold(self, contents: Sequence[bytes]) -> None:
        """Rows are read from here from now on: the journals go. contents: what load() gave."""
        self._contents = contents

    def packed_in(self, contents: Sequence[bytes], kept: int) -> bytes:
        """The packed row at this spot of what load() gave."""
        offset = kept >> _LENGTH_BITS
        start = offset & _OFFSET_MASK
        return contents[offset >> _OFFSET_BITS][start : start + (kept & _LENGTH_MASK)]

    def sorted_keys(self) -> list[bytes]:
        """The id keys in order; the caller must not change the list. Cheap when little came in since the last call."""
        if len(self._sorted) != len(self.kept):
            # Rows never leave a memtable, so the new ones are the last of the dict.
            new = list(islice(self.kept, len(self._sorted), None))
            self._sorted = sorted(self._sorted + new)
        return self._sorted

    def find_hash(self, full_hash: int) -> Row | None:
        """The row of the id with this id hash."""
        hashed = self._hashed
        if len(hashed) != len(self.kept):
            hashed.update((id_hash(id_key), id_key) for id_key in islice(self.kept, len(hashed), None))
        id_key = hashed.get(full_hash)
        return None if id_key is None else self.row(id_key)

    def at(self, seq: int) -> Row | None:
        """The row with this seq, None when a later one of its id superseded it."""
        spot = self.log[seq - self.first_seq]
        if spot == _ITSELF:
            return self._large[seq]
        return self.unpack(spot) if spot else None

    def between(self, after_seq: int, until_seq: int) -> Iterator[Row]:
        """Rows of the feed with after_seq < seq <= until_seq, in order; strays and replaced rows are not among them."""
        first, last = max(self.first_seq, after_seq + 1), min(self.last_seq, until_seq)
        window, window_start = b"", 0
        for seq in range(first, last + 1):
            spot = self.log[seq - self.first_seq]
            # They stand one behind the other in the journal: read many at once.
            offset, length = (spot >> _LENGTH_BITS) - window_start, spot & _LENGTH_MASK
            if spot > _ITSELF and self._contents is None:
                if offset < 0 or offset + length > len(window):
                    window_start, offset = spot >> _LENGTH_BITS, 0
                    window = self._files.read(
                        self.sources[window_start >> _OFFSET_BITS], window_start & _OFFSET_MASK,
                        max(length, min(_WINDOW_BYTES, (last - seq + 1) * length * 2)),
                    )
                yield self._unpacked(window[offset : offset + length], spot)
            elif spot:
                yield self._large[seq] if spot == _ITSELF else self.unpack(spot)

    def count_owed(self, after_seq: int, until_seq: int) -> int:
        """How many rows between() would give that this node owes to others."""
        first, last = max(self.first_seq, after_seq + 1), min(self.last_seq, until_seq)
        return sum(self._owed[first - self.first_seq : last + 1 - self.first_seq]) if last >= first else 0

    def is_owed(self, seq: int) -> bool:
        """The row at() that seq is owed to others."""
        return bool(self._owed[seq - self.first_seq])

    def fed_seqs(self) -> list[int]:
        """The seqs for which at() gives a row, in order."""
        return [seq for seq, spot in enumerate(self.log, self.first_seq) if spot]

    # Writing

    def insert_new(self, id_key: bytes, spot: int, is_owed: bool, short_hash: int) -> None:
        """The row at this spot is the first of an id that is not here; its seq is last_seq + 1."""
        self.kept[id_key] = spot
        self.log.append(spot)
        self._owed.append(is_owed)
        self.hashes.append(short_hash)
        packed_bytes = spot & _LENGTH_MASK
        # weight_of(), without a call
        self.size_bytes += ROW_BYTES + len(id_key) + (packed_bytes >> 3 if packed_bytes < 512 else packed_bytes >> 2)

    def insert(self, row: Row, spot: int | None, old: Row | None, short_hash: int = NO_HASH) -> None:
        """The row is the newest of its id. row.seq: last_seq + 1, or for a stray the seq it has had before.

        spot: where its journal has it, None: it is kept itself; old: the row that the id has had here.
        """
        id_key = row.id_key
        kept: Kept = row if spot is None else spot
        self.size_bytes += ROW_BYTES + len(id_key)
        if type(kept) is int:
            self.size_bytes += weight_of(kept & _LENGTH_MASK)
        else:
            self.size_bytes += OBJECT_BYTES + sum([len(body) for body in row.bodies if body is not None])
            self.size_bytes += 0 if row.stale is None else len(row.stale.body)
        if not row.stray:
            self._log(row, kept, short_hash)
        if old is not None and not old.stray:
            position = old.seq - self.first_seq
            self._large.pop(old.seq, None)
            self.log[position] = self._owed[position] = 0
            if row.stray and old.seq == row.seq:
                # The change itself stands here too: the row takes its spot in the feed, body and all.
                kept = row._replace(stray=False)
                self._large[row.seq] = kept
                self.log[position] = _ITSELF
                self._owed[position] = row.owed
        self.kept[id_key] = kept

    def _log(self, row: Row, kept: Kept, short_hash: int) -> None:
        if type(kept) is int:
            self.log.append(kept)
        else:
            self._large[row.seq] = row
            self.log.append(_ITSELF)
        self._owed.append(row.owed)
        self.hashes.append(short_hash)

    def skip_to(self, seq: int) -> None:
        """Leave spots empty so that the next row may carry `seq`: rows between were lost with a damaged journal."""
        lost = seq - self.last_seq - 1
        self.log.extend([0] * lost)
        self._owed.extend(bytes(lost))
        self.hashes.extend([NO_HASH] * lost)
