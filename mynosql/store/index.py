"""The door to the index: which block holds an id, which blocks and segments there are, and small durable notes.

Owns SQLite and its schema; rows of numbers only. Ids are known by their short hash; whoever looks one up compares the
id key in the block's head. A seal is one Commit: one transaction, durable on return. commit() is for one thread at a
time; every read may run in any thread at any time. Model for tests: tests/sim/memory_index.py, held to the same
behaviour by tests/store/test_index.py. Tables: docs/FORMAT.md, "Index".
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple, NoReturn, Protocol

from mynosql.errors import FormatUnknown, StorageCorrupt, StorageFailed, StorageFull
from mynosql.store.files import TMP_SUFFIX, DiskFiles, raise_mapped
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


class Usage(NamedTuple):
    """What the blocks of a segment take in a shard."""

    segment: int
    shard: int
    bytes: int


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
    places: Mapping[int, int] = field(default_factory=dict)
    """Short hash → place of its row; replace what the hash had. Fastest in the order of the hashes."""
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
        """place() of each hash that has one, for many of them at once."""
        ...

    def places_between(self, low: int, high: int) -> list[int]:
        """The places, twins among them, of all short hashes with low <= hash < high."""
        ...

    def block(self, number: int) -> BlockRow | None: ...

    def blocks_of(self, segment: int) -> list[BlockRow]:
        """In number order, which is id-key order."""
        ...

    def segments(self) -> list[Segment]:
        """In number order, oldest first."""
        ...

    def usage(self) -> list[Usage]:
        """Of each segment and shard, in order."""
        ...

    def body_bytes(self) -> dict[int, int]:
        """What the bodies of each segment take, by its number."""
        ...

    def blocks_with_bodies(self) -> list[int]:
        """The numbers of all blocks with a body, in order."""
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

    def write_again(self) -> None:
        """All that commits have said is on the disk on return, also where an earlier process saw its fsync fail."""
        ...

    def close(self) -> None:
        """Checkpointed, only the one file remains. Idempotent."""
        ...


_SCHEMA = """
CREATE TABLE place (hash INTEGER PRIMARY KEY, place INTEGER NOT NULL);
CREATE TABLE twin (hash INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (hash, place)) WITHOUT ROWID;
CREATE TABLE block (number INTEGER PRIMARY KEY, segment INTEGER NOT NULL, shard INTEGER NOT NULL,
  start INTEGER NOT NULL, head_bytes INTEGER NOT NULL, body_bytes INTEGER NOT NULL, row_count INTEGER NOT NULL,
  seq_min INTEGER NOT NULL, seq_max INTEGER NOT NULL, missing INTEGER NOT NULL);
CREATE TABLE segment (number INTEGER PRIMARY KEY, first_key BLOB NOT NULL, last_key BLOB NOT NULL,
  seq_min INTEGER NOT NULL, seq_max INTEGER NOT NULL, block_first INTEGER NOT NULL, block_last INTEGER NOT NULL,
  row_count INTEGER NOT NULL, dead INTEGER NOT NULL);
CREATE TABLE note (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_PLACE_SQL = "SELECT place FROM place WHERE hash=?"
_BLOCK = "number, segment, shard, start, head_bytes, body_bytes, row_count, seq_min, seq_max, missing"
_BLOCK_TYPES = (int,) * 10
_SEGMENT = "number, first_key, last_key, seq_min, seq_max, block_first, block_last, row_count, dead"
_SEGMENT_TYPES = (int, bytes, bytes, int, int, int, int, int, int)
PAGE_BYTES = 4096
"""Measured at 1 M records: 17.2 to 17.6 bytes a record with pages of 2 to 16 KiB; a commit rewrites whole pages."""
CACHE_KIB = 1024
"""Per connection; the operating system caches the file as well."""
_WAL_BYTES_KEPT = 4 << 20
_ASKED_AT_ONCE = 500
_PLACES_AT_ONCE = 480
"""Twice as many values in one statement: below 999, which every SQLite takes."""
_HASHES_AT_ONCE = 10_000
_BUSY_TIMEOUT_S = 30.0
_SQL_ERRORS = (sqlite3.Error, UnicodeError)
"""UnicodeError: sqlite3 fails to decode its own message when that quotes a damaged name."""
_SIDE_FILES = ("-wal", "-shm", "-journal")


class SqliteIndex:
    """The index in one SQLite file."""

    def __init__(self, path: str) -> None:
        """Open or make the index. Raises FormatUnknown (file untouched), StorageCorrupt, StorageFull, StorageFailed."""
        self.path = path
        self._is_open = True
        self._writer: sqlite3.Connection | None = None
        # A connection must not serve two threads at once (they would share a prepared statement): who reads takes one
        # out and puts it back. The caller's lock makes that one connection in all but the moments of a job.
        self._readers: list[sqlite3.Connection] = []
        if not _check_format(path):
            _make(path)
        try:
            self._writer = _connect(path)
            self._twins = self._load_twins()
        except BaseException as error:
            self._abandon()
            if isinstance(error, _SQL_ERRORS):
                self._raise_mapped(error)
            raise

    def place(self, short_hash: int) -> int | None:
        reader = self._take_reader()
        try:
            row = reader.execute(_PLACE_SQL, (short_hash,)).fetchone()
        except _SQL_ERRORS as error:
            self._raise_mapped(error)
        finally:
            self._readers.append(reader)
        if row is None:
            return None
        (place,) = row
        if type(place) is not int:
            self._raise_wrong_types("place")
        return place

    def places(self, short_hashes: Iterable[int]) -> dict[int, int]:
        wanted = iter(sorted(short_hashes))
        found: dict[int, int] = {}
        while True:
            part = list(islice(wanted, _ASKED_AT_ONCE))
            if not part:
                return found
            marks = ",".join("?" * len(part))
            found.update(self._query(f"SELECT hash, place FROM place WHERE hash IN ({marks})", (int, int), *part))

    def twins(self, short_hash: int) -> Sequence[int]:
        return self._twins.get(short_hash, ())

    def places_between(self, low: int, high: int) -> list[int]:
        rows = self._query("SELECT place FROM place WHERE hash>=? AND hash<? ORDER BY hash", (int,), low, high)
        twins = [place for found, places in self._twins.items() if low <= found < high for place in places]
        return [place for (place,) in rows] + twins

    def block(self, number: int) -> BlockRow | None:
        rows = self._blocks("number=?", number)
        return rows[0] if rows else None

    def blocks_of(self, segment: int) -> list[BlockRow]:
        found = self._query("SELECT block_first, block_last FROM segment WHERE number=?", (int, int), segment)
        if not found:
            return []
        return self._blocks("number BETWEEN ? AND ? AND segment=? ORDER BY number", *found[0], segment)

    def segments(self) -> list[Segment]:
        rows = self._query(f"SELECT {_SEGMENT} FROM segment ORDER BY number", _SEGMENT_TYPES)
        return [Segment._make(row) for row in rows]

    def usage(self) -> list[Usage]:
        sql = "SELECT segment, shard, sum(head_bytes + body_bytes) FROM block GROUP BY segment, shard"
        return [Usage._make(row) for row in self._query(sql + " ORDER BY segment, shard", (int, int, int))]

    def body_bytes(self) -> dict[int, int]:
        return dict(self._query("SELECT segment, sum(body_bytes) FROM block GROUP BY segment", (int, int)))

    def blocks_with_bodies(self) -> list[int]:
        rows = self._query("SELECT number FROM block WHERE body_bytes>0 ORDER BY number", (int,))
        return [number for (number,) in rows]

    def hashes(self) -> Iterator[int]:
        after = -1
        sql = f"SELECT hash FROM place WHERE hash>? ORDER BY hash LIMIT {_HASHES_AT_ONCE}"
        while rows := self._query(sql, (int,), after):
            for (found,) in rows:
                yield found
            if rows[-1][0] <= after:  # only a damaged file goes in circles
                self._raise_wrong_types("place")
            after = rows[-1][0]

    def note(self, key: str) -> bytes:
        rows = self._query("SELECT value FROM note WHERE key=?", (bytes,), key)
        return rows[0][0] if rows else b""

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        rows = self._query("SELECT key, value FROM note WHERE key>=? ORDER BY key", (str, bytes), prefix)
        return {key: value for key, value in rows if key.startswith(prefix)}

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
            self._raise_closed()
        try:
            connection.execute("BEGIN IMMEDIATE")
            _apply(connection, commit)
            connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(*_SQL_ERRORS):
                connection.execute("ROLLBACK")
            if isinstance(error, _SQL_ERRORS):
                self._raise_mapped(error)
            raise
        if commit.twins or commit.twins_removed:
            self._twins = self._load_twins()

    def check(self) -> list[str]:
        try:
            rows = self._query("PRAGMA integrity_check(100)", (str,))
        except StorageCorrupt as error:
            return [str(error)]
        return [text for (text,) in rows if text != "ok"]

    def size_bytes(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                total += os.stat(self.path + suffix).st_size
        return total

    def write_again(self) -> None:
        # The log is read as this process sees it, and each of its pages written into the file, which is fsynced.
        writer = self._writer
        if writer is None:
            self._raise_closed()
        try:
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except _SQL_ERRORS as error:
            self._raise_mapped(error)

    def close(self) -> None:
        writer = self._writer
        if writer is None:
            return
        try:
            while self._readers:
                self._readers.pop().close()
            writer.close()  # the last connection: SQLite moves the log into the file and removes -wal and -shm
        except _SQL_ERRORS as error:
            self._raise_mapped(error)
        finally:
            self._abandon()

    # Helpers

    def _take_reader(self) -> sqlite3.Connection:
        try:
            return self._readers.pop()
        except IndexError:
            if not self._is_open:
                self._raise_closed()
        try:
            return _connect(self.path, is_reader=True)
        except _SQL_ERRORS as error:
            self._raise_mapped(error)

    def _query(self, sql: str, types: tuple[type, ...], *values: int | str) -> list[Any]:
        """All rows, each a tuple of exactly these types: SQLite has no checksums, a flipped bit may change a type."""
        reader = self._take_reader()
        try:
            rows = reader.execute(sql, values).fetchall()
        except _SQL_ERRORS as error:
            self._raise_mapped(error)
        finally:
            self._readers.append(reader)
        for row in rows:
            if tuple(map(type, row)) != types:
                self._raise_wrong_types(sql.partition(" FROM ")[2].split()[0] if " FROM " in sql else sql)
        return rows

    def _blocks(self, where: str, *values: int) -> list[BlockRow]:
        rows = self._query(f"SELECT {_BLOCK} FROM block WHERE {where}", _BLOCK_TYPES, *values)
        return [BlockRow._make(row) for row in rows]

    def _counter(self, name: str) -> int:
        rows = self._query("SELECT value FROM counter WHERE name=?", (int,), name)
        return rows[0][0] if rows else -1

    def _load_twins(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for key, place in self._query("SELECT hash, place FROM twin ORDER BY hash, place", (int, int)):
            found[key] = (*found.get(key, ()), place)
        return found

    def _abandon(self) -> None:
        self._is_open = False
        readers, self._readers = self._readers, []
        writer, self._writer = self._writer, None
        for connection in (*readers, writer):
            if connection is not None:
                with contextlib.suppress(*_SQL_ERRORS):
                    connection.close()

    def _raise_closed(self) -> NoReturn:
        raise StorageFailed(f"{self.path}: the index is closed; open the database again")

    def _raise_wrong_types(self, table: str) -> NoReturn:
        raise StorageCorrupt(self.path, None, f"the index is damaged (a row of {table} cannot be); run checkdb")

    def _raise_mapped(self, error: Exception) -> NoReturn:
        _raise_mapped(error, self.path)


def _apply(connection: sqlite3.Connection, commit: Commit) -> None:
    many = connection.executemany
    removed = [(number,) for number in commit.segments_removed]
    many("DELETE FROM block WHERE segment=?", removed)
    many("DELETE FROM segment WHERE number=?", removed)
    many(f"INSERT INTO segment ({_SEGMENT}) VALUES (?,?,?,?,?,?,?,?,?)", commit.segments)
    many(f"INSERT INTO block ({_BLOCK}) VALUES (?,?,?,?,?,?,?,?,?,?)", commit.blocks)
    many("DELETE FROM place WHERE hash=?", ((found,) for found in commit.places_removed))
    _insert_places(connection, commit.places)
    many("DELETE FROM twin WHERE hash=? AND place=?", commit.twins_removed)
    many("INSERT OR REPLACE INTO twin (hash, place) VALUES (?,?)", commit.twins)
    many("UPDATE segment SET dead=dead+? WHERE number=?", ((rows, number) for number, rows in commit.dead.items()))
    many("DELETE FROM note WHERE key=?", ((key,) for key, value in commit.notes.items() if not value))
    many("INSERT OR REPLACE INTO note (key, value) VALUES (?,?)", [note for note in commit.notes.items() if note[1]])
    counters = [("last_block", block.number) for block in commit.blocks]
    counters += [("last_segment", segment.number) for segment in commit.segments]
    if commit.journal_sealed is not None:
        counters.append(("journal_sealed", commit.journal_sealed))
    many("INSERT INTO counter (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET "
         "value=max(value, excluded.value)", counters)


def _insert_places(connection: sqlite3.Connection, places: Mapping[int, int]) -> None:
    """Many rows a statement: at each one sqlite3 gives up the interpreter's lock and may wait 5 ms to get it back."""
    pairs = list(chain.from_iterable(places.items()))
    for start in range(0, len(pairs), _PLACES_AT_ONCE * 2):
        part = pairs[start : start + _PLACES_AT_ONCE * 2]
        marks = ",".join(["(?,?)"] * (len(part) // 2))
        connection.execute(f"INSERT OR REPLACE INTO place (hash, place) VALUES {marks}", part)


def _check_format(path: str) -> bool:
    """True: an index of our format is there; False: none. Reads the file's header only: nothing is touched."""
    try:
        with open(path, "rb") as file:
            head = file.read(100)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        for suffix in _SIDE_FILES:
            if os.path.exists(path + suffix):
                text = f"the index is missing although {os.path.basename(path + suffix)} is there"
                raise StorageCorrupt(path, None, f"{text}; restore the folder from a backup or another node") from None
        return False
    except OSError as error:
        raise StorageFailed(f"{path}: cannot read: {error.strerror or error}; check the rights") from error
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
        raise StorageCorrupt(path, 0, "not an index; restore the folder from a backup or another node")
    found = int.from_bytes(head[60:64], "big")
    is_ours = int.from_bytes(head[68:72], "big") == APPLICATION_ID
    if is_ours and found > FORMAT:
        raise FormatUnknown(f"{path}: index format {found}, this version reads up to {FORMAT}; "
                            "open it with a newer version of mynosql (the folder was left untouched)")
    if not is_ours or found != FORMAT:
        raise StorageCorrupt(path, 60, "an SQLite file, but not an index; restore the folder from a backup")
    # SQLite reads a page that is cut short as if its end were zeros. With a log beside it, it will write it again.
    if size % PAGE_BYTES and not os.path.exists(path + "-wal"):
        raise StorageCorrupt(path, size, "the index is cut short; restore the folder from a backup or another node")
    return True


def _make(path: str) -> None:
    """An empty index, there as a whole or not at all after a crash."""
    tmp = path + TMP_SUFFIX
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(tmp)
        connection = sqlite3.connect(tmp, isolation_level=None)
        try:
            # No journal beside it: only a complete file is renamed. FULL: SQLite itself flushes the pages.
            for pragma in (f"page_size={PAGE_BYTES}", "journal_mode=MEMORY", "synchronous=FULL"):
                connection.execute(f"PRAGMA {pragma}")
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; COMMIT"
            )
        finally:
            connection.close()
        os.chmod(tmp, 0o600)
        os.replace(tmp, path)
    except _SQL_ERRORS as error:
        _raise_mapped(error, path)
    except OSError as error:
        raise_mapped(error, path, "make the index")
    DiskFiles(os.path.dirname(path)).sync_folder()


def _connect(path: str, *, is_reader: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S)
    try:
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", f"cache_size=-{CACHE_KIB}",
            f"journal_size_limit={_WAL_BYTES_KEPT}", "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        if is_reader:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _raise_mapped(error: Exception, path: str) -> NoReturn:
    text = str(error)
    if "disk is full" in text:
        raise StorageFull(f"{path}: no space for the index; free some space") from error
    is_about_content = not isinstance(error, sqlite3.OperationalError) or "no such" in text or "malformed" in text
    if is_about_content:
        raise StorageCorrupt(path, None, f"the index is damaged ({text}); run checkdb") from error
    raise StorageFailed(f"{path}: {text}; check the disk and the rights, then open the database again") from error
