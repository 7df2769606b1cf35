"""The door to the index: which block holds an id, which blocks and segments there are, and small durable notes.

Owns SQLite and its schema; rows of numbers only. Ids are known by their short hash; whoever looks one up compares the
id key in the block's head. A seal is one Commit: one transaction, durable on return. place() and the other reads run
under the store's lock on one connection, commit() may run in a job's thread on the other. Model for tests:
tests/sim/memory_index.py, held to the same behaviour by tests/store/test_index.py. Tables: docs/FORMAT.md, "Index".
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, Protocol

from mynosql.errors import FormatUnknown, StorageCorrupt, StorageError, StorageFailed, StorageFull
from mynosql.store.shard import BlockRef

FORMAT = 1
FILE_NAME = "index"
APPLICATION_ID = 0x4D4E5351  # "MNSQ"
SHORT_HASH_BITS = 42
"""SQLite stores a row id of up to 42 bits in 6 bytes; a million ids collide about once in ten databases."""
_SHORT_HASH_SHIFT = 64 - SHORT_HASH_BITS
_SHORT_HASH_MASK = (1 << SHORT_HASH_BITS) - 1


def short_hash(id_hash: int) -> int:
    """The part of idkey.id_hash that the index and the filter keep: its top bits, never negative."""
    return id_hash >> _SHORT_HASH_SHIFT & _SHORT_HASH_MASK


class BlockRow(NamedTuple):
    """One sealed block."""

    number: int
    """Unique, grows; never used again."""
    segment: int
    shard: int
    offset: int
    head_bytes: int
    body_bytes: int
    row_count: int
    seq_min: int
    seq_max: int
    missing: int

    @property
    def ref(self) -> BlockRef:
        return BlockRef(self.number, self.shard, self.offset, self.head_bytes, self.body_bytes, self.row_count)


class Segment(NamedTuple):
    """One sealed memtable: consecutive blocks whose rows are sorted by id key."""

    number: int
    """Unique, grows; a higher one is newer."""
    first_key: bytes
    last_key: bytes
    seq_min: int
    seq_max: int
    block_first: int
    block_last: int
    row_count: int
    dead: int = 0
    """Rows that a newer segment has replaced."""


class Placed(NamedTuple):
    """Where an id's row now lies."""

    short_hash: int
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One change of the index, all or nothing."""

    segments: Sequence[Segment] = ()
    """New ones."""
    blocks: Sequence[BlockRow] = ()
    """New ones."""
    places: Sequence[Placed] = ()
    """Replace what the hash had; one per hash; fastest when sorted."""
    places_removed: Sequence[int] = ()
    """Short hashes that no longer name a place."""
    twins: Sequence[Placed] = ()
    """Further places of hashes that place() already answers with another id's row."""
    twins_removed: Sequence[Placed] = ()
    dead: Mapping[int, int] = field(default_factory=dict)
    """Segment number → rows of it that died with this commit."""
    segments_removed: Sequence[int] = ()
    """Numbers of segments that go, with their blocks; their places must have been replaced."""
    notes: Mapping[str, bytes] = field(default_factory=dict)
    """Key → value; b"" deletes."""
    journal_sealed: int | None = None
    """Journals up to this number hold nothing that is not in the segments."""


class Index(Protocol):
    """What the store asks of its index. Reads see every commit that has returned."""

    def place(self, short_hash: int) -> int | None:
        """The place of this hash's (first) row, None when no sealed row has it."""
        ...

    def twins(self, short_hash: int) -> Sequence[int]:
        """Further places under the same hash; nearly always empty, answered from memory."""
        ...

    def places(self, short_hashes: Iterable[int]) -> dict[int, int]:
        """place() of each hash that has one, read on the connection that commits: for a seal job, without the lock."""
        ...

    def block(self, number: int) -> BlockRow | None: ...

    def blocks_of(self, segment: int) -> list[BlockRow]:
        """In number order, which is id-key order."""
        ...

    def segments(self) -> list[Segment]:
        """In number order, oldest first."""
        ...

    def blocks_after(self, seq: int) -> Iterator[tuple[Segment, list[BlockRow]]]:
        """Blocks with seq_max > seq, per segment in segment order; a segment without one is left out."""
        ...

    def blocks_missing(self, after: int = -1, limit: int = 256) -> list[BlockRow]:
        """Blocks with missing > 0 and number > after, in number order, at most limit."""
        ...

    def hashes(self) -> Iterator[int]:
        """Every short hash that has a place, ascending: what the filter is rebuilt from."""
        ...

    def note(self, key: str) -> bytes:
        """The note's value, b"" when there is none."""
        ...

    def notes(self, prefix: str = "") -> dict[str, bytes]: ...

    @property
    def journal_sealed(self) -> int:
        """Journals up to this number are in the segments; -1 when none is."""
        ...

    @property
    def last_block(self) -> int:
        """The highest block number ever used, -1 when none was."""
        ...

    @property
    def last_segment(self) -> int:
        """The highest segment number ever used, -1 when none was."""
        ...

    def commit(self, commit: Commit) -> None:
        """Apply all of it, durably. Raises StorageFull (nothing applied), StorageFailed, StorageCorrupt."""
        ...

    def check(self) -> list[str]:
        """What is wrong inside the index, one sentence each; empty when sound."""
        ...

    def size_bytes(self) -> int: ...

    def close(self) -> None:
        """Checkpointed, only the one file remains. Idempotent."""
        ...


_SCHEMA = """
CREATE TABLE place (hash INTEGER PRIMARY KEY, place INTEGER NOT NULL);
CREATE TABLE twin (hash INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (hash, place)) WITHOUT ROWID;
CREATE TABLE block (number INTEGER PRIMARY KEY, segment INTEGER NOT NULL, shard INTEGER NOT NULL,
  start INTEGER NOT NULL, head_bytes INTEGER NOT NULL, body_bytes INTEGER NOT NULL, row_count INTEGER NOT NULL,
  seq_min INTEGER NOT NULL, seq_max INTEGER NOT NULL, missing INTEGER NOT NULL);
CREATE INDEX block_missing ON block (number) WHERE missing > 0;
CREATE TABLE segment (number INTEGER PRIMARY KEY, first_key BLOB NOT NULL, last_key BLOB NOT NULL,
  seq_min INTEGER NOT NULL, seq_max INTEGER NOT NULL, block_first INTEGER NOT NULL, block_last INTEGER NOT NULL,
  row_count INTEGER NOT NULL, dead INTEGER NOT NULL);
CREATE TABLE note (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_BLOCK = "number, segment, shard, start, head_bytes, body_bytes, row_count, seq_min, seq_max, missing"
_SEGMENT = "number, first_key, last_key, seq_min, seq_max, block_first, block_last, row_count, dead"
PAGE_BYTES = 4096
_WAL_BYTES_KEPT = 4 << 20


class SqliteIndex:
    """The index in one SQLite file."""

    def __init__(self, path: str) -> None:
        """Open or make the index. Raises FormatUnknown (file untouched), StorageCorrupt, StorageFull, StorageFailed."""
        self.path = path
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        _check_format(path)
        try:
            self._writer = _connect(path)
            if self._writer.execute("PRAGMA user_version").fetchone()[0] == 0:
                self._make_schema(self._writer)
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only=ON")
            self._twins = self._load_twins()
        except (sqlite3.Error, StorageError) as error:
            self._abandon()
            if isinstance(error, sqlite3.Error):
                self._raise_mapped(error)
            raise

    def _make_schema(self, connection: sqlite3.Connection) -> None:
        connection.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; COMMIT"
        )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def place(self, short_hash: int) -> int | None:
        try:
            row = self._read.execute("SELECT place FROM place WHERE hash=?", (short_hash,)).fetchone()
        except sqlite3.Error as error:
            self._raise_mapped(error)
        return None if row is None else int(row[0])

    def twins(self, short_hash: int) -> Sequence[int]:
        return self._twins.get(short_hash, ())

    def places(self, short_hashes: Iterable[int]) -> dict[int, int]:
        if self._writer is None:
            raise StorageFailed(f"{self.path}: the index is closed; open the database again")
        find = self._writer.execute
        try:
            found = {key: find("SELECT place FROM place WHERE hash=?", (key,)).fetchone() for key in short_hashes}
        except sqlite3.Error as error:
            self._raise_mapped(error)
        return {key: row[0] for key, row in found.items() if row is not None}

    def block(self, number: int) -> BlockRow | None:
        rows = self._blocks(f"SELECT {_BLOCK} FROM block WHERE number=?", number)
        return rows[0] if rows else None

    def blocks_of(self, segment: int) -> list[BlockRow]:
        found = self._query("SELECT block_first, block_last FROM segment WHERE number=?", segment)
        if not found:
            return []
        return self._blocks(f"SELECT {_BLOCK} FROM block WHERE number BETWEEN ? AND ? ORDER BY number", *found[0])

    def segments(self) -> list[Segment]:
        return [Segment(*row) for row in self._query(f"SELECT {_SEGMENT} FROM segment ORDER BY number")]

    def blocks_after(self, seq: int) -> Iterator[tuple[Segment, list[BlockRow]]]:
        for row in self._query(f"SELECT {_SEGMENT} FROM segment WHERE seq_max>? ORDER BY number", seq):
            segment = Segment(*row)
            blocks = self._blocks(
                f"SELECT {_BLOCK} FROM block WHERE number BETWEEN ? AND ? AND seq_max>? ORDER BY number",
                segment.block_first, segment.block_last, seq,
            )
            if blocks:
                yield segment, blocks

    def blocks_missing(self, after: int = -1, limit: int = 256) -> list[BlockRow]:
        return self._blocks(
            f"SELECT {_BLOCK} FROM block WHERE missing>0 AND number>? ORDER BY number LIMIT ?", after, limit
        )

    def hashes(self) -> Iterator[int]:
        after = -1
        while True:
            rows = self._query("SELECT hash FROM place WHERE hash>? ORDER BY hash LIMIT 10000", after)
            if not rows:
                return
            for (found,) in rows:
                yield found
            after = rows[-1][0]

    def note(self, key: str) -> bytes:
        rows = self._query("SELECT value FROM note WHERE key=?", key)
        return bytes(rows[0][0]) if rows else b""

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        rows = self._query("SELECT key, value FROM note WHERE key>=? ORDER BY key", prefix)
        return {key: bytes(value) for key, value in rows if key.startswith(prefix)}

    @property
    def journal_sealed(self) -> int:
        return self._counter("journal_sealed")

    @property
    def last_block(self) -> int:
        return self._counter("last_block")

    @property
    def last_segment(self) -> int:
        return self._counter("last_segment")

    def commit(self, commit: Commit) -> None:
        connection = self._writer
        if connection is None:
            raise StorageFailed(f"{self.path}: the index is closed; open the database again")
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._apply(connection, commit)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            self._raise_mapped(error)
        if commit.twins or commit.twins_removed:
            self._twins = self._load_twins()

    def _apply(self, connection: sqlite3.Connection, commit: Commit) -> None:
        many = connection.executemany
        for number in commit.segments_removed:
            connection.execute("DELETE FROM block WHERE segment=?", (number,))
            connection.execute("DELETE FROM segment WHERE number=?", (number,))
        many(f"INSERT INTO segment ({_SEGMENT}) VALUES (?,?,?,?,?,?,?,?,?)", commit.segments)
        many(f"INSERT INTO block ({_BLOCK}) VALUES (?,?,?,?,?,?,?,?,?,?)", commit.blocks)
        many("DELETE FROM place WHERE hash=?", ((found,) for found in commit.places_removed))
        many("INSERT OR REPLACE INTO place (hash, place) VALUES (?,?)", commit.places)
        many("DELETE FROM twin WHERE hash=? AND place=?", commit.twins_removed)
        many("INSERT OR REPLACE INTO twin (hash, place) VALUES (?,?)", commit.twins)
        many("UPDATE segment SET dead=dead+? WHERE number=?", ((rows, number) for number, rows in commit.dead.items()))
        for key, value in commit.notes.items():
            if value:
                connection.execute("INSERT OR REPLACE INTO note (key, value) VALUES (?,?)", (key, value))
            else:
                connection.execute("DELETE FROM note WHERE key=?", (key,))
        counters = []
        if commit.journal_sealed is not None:
            counters.append(("journal_sealed", commit.journal_sealed))
        if commit.blocks:
            counters.append(("last_block", max(block.number for block in commit.blocks)))
        if commit.segments:
            counters.append(("last_segment", max(segment.number for segment in commit.segments)))
        many("INSERT INTO counter (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET "
             "value=max(value, excluded.value)", counters)

    def check(self) -> list[str]:
        try:
            rows = self._read.execute("PRAGMA integrity_check(100)").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def size_bytes(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                total += os.stat(self.path + suffix).st_size
        return total

    def close(self) -> None:
        if self._writer is None:
            return
        try:
            if self._reader is not None:
                self._reader.close()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()
        except sqlite3.Error as error:
            self._raise_mapped(error)
        finally:
            self._abandon()

    # Helpers

    @property
    def _read(self) -> sqlite3.Connection:
        if self._reader is None:
            raise StorageFailed(f"{self.path}: the index is closed; open the database again")
        return self._reader

    def _query(self, sql: str, *values: int | str) -> list[tuple]:  # type: ignore[type-arg]
        try:
            return self._read.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self._raise_mapped(error)

    def _blocks(self, sql: str, *values: int) -> list[BlockRow]:
        return [BlockRow(*row) for row in self._query(sql, *values)]

    def _counter(self, name: str) -> int:
        rows = self._query("SELECT value FROM counter WHERE name=?", name)
        return int(rows[0][0]) if rows else -1

    def _load_twins(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for key, place in self._query("SELECT hash, place FROM twin ORDER BY hash, place"):
            found[key] = (*found.get(key, ()), place)
        return found

    def _abandon(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None

    def _raise_mapped(self, error: sqlite3.Error) -> NoReturn:
        text = str(error)
        if "disk is full" in text:
            raise StorageFull(f"{self.path}: no space for the index; free some space") from error
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in text:
            raise StorageFailed(f"{self.path}: {text}; check the disk and the rights, then open again") from error
        raise StorageCorrupt(self.path, None, f"the index is damaged ({text}); run checkdb") from error


def _check_format(path: str) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageFailed(f"{path}: cannot read: {error.strerror}; check the rights") from error
    if not head:
        return
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise StorageCorrupt(path, 0, "not an index; restore the folder from a backup or from another node")
    found = int.from_bytes(head[60:64], "big")
    if found > FORMAT:
        raise FormatUnknown(f"{path}: index format {found}, this version reads up to {FORMAT}; "
                            "open it with a newer version of mynosql (the folder was left untouched)")


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    for pragma in (
        f"page_size={PAGE_BYTES}", "journal_mode=WAL", "synchronous=FULL", "cache_size=-2048",
        f"journal_size_limit={_WAL_BYTES_KEPT}", "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection
