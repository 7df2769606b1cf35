"""Reading one record: the memtables' row, else the newest sealed one, with the caches of what was read.

Owns the caches of records and entries and the ids found to be unknown; whoever writes says which of them are true no
longer. Driven by Store under its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mynosql.idkey import TAG_STR
from mynosql.row import Entry, Leaf
from mynosql.store.cache import Cache
from mynosql.store.history import find_superseded
from mynosql.store.memtable import NO_HASH
from mynosql.store.sealed import Sealed
from mynosql.store.tally import entry_of_row
from mynosql.store.types import StoreOptions
from mynosql.store.unsealed import Unsealed

ABSENT_MAX = 4096
"""Ids remembered as unknown between two writes."""
WHOLE_OVERHEAD_BYTES = 160
"""What a kept whole costs beside its bytes: two objects' heads, the dict's slot."""
CACHED_OVERHEAD_BYTES = 700
"""What a cached record costs beside its body: key, entry, leaf and the dict's slot in CPython."""


class Reader:
    """Finds and reads the records of one store."""

    def __init__(self, options: StoreOptions, sealed: Sealed, unsealed: Unsealed) -> None:
        self._sealed = sealed
        self._unsealed = unsealed
        self._records: Cache[bytes, tuple[Entry, bytes | None]] = Cache(options.cache_bytes_max // 8, _record_bytes)
        self.wholes: Cache[str, bytes] = Cache(options.cache_bytes_max * 7 // 8, _whole_bytes)
        """By str id what keep_whole() was given for the record as it is now. wholes.young may be read without the
        lock: it is a dict whose values never change, and a put has taken the record out before it returns.
        """
        self._entries: Cache[bytes, Entry] = Cache(options.entry_cache_count_max, lambda _, entry: 1)
        self.absent: dict[bytes, int] = {}
        """Ids that were found to be unknown since the last write, with their short hashes."""

    def find(self, id_key: bytes) -> Entry | None:
        """What is known of the id, None when it never was. Raises StorageCorrupt when its block is damaged."""
        hit = self._records.young.get(id_key)
        if hit is not None:
            return hit[0]
        unsealed = self._unsealed
        kept = unsealed.active.kept.get(id_key)
        if kept is not None:
            return entry_of_row(unsealed.active.unpack(kept))
        row = unsealed.frozen_row(id_key) if unsealed.frozen else None
        return self.find_sealed(id_key) if row is None else entry_of_row(row)

    def find_sealed(self, id_key: bytes) -> Entry | None:
        """find() without a look into the memtables."""
        if id_key in self.absent:
            return None
        hit = self._entries.young.get(id_key)
        if hit is not None:
            return hit
        entry = self._entries.find(id_key)
        if entry is not None:
            return entry
        sealed = self._sealed
        hashed = sealed.hash_of(id_key) if sealed.segments else NO_HASH
        found = sealed.locate_hashed(id_key, hashed) if sealed.segments else None
        if found is None:
            # Cleared by every write; a save asks twice, first whether the id is known, then to count it.
            if len(self.absent) >= ABSENT_MAX:
                self.absent.clear()
            self.absent[id_key] = hashed
            return None
        entry = self._sealed.entry(found)
        self._entries.put(id_key, entry)
        return entry

    def read(self, id_key: bytes) -> tuple[Entry, bytes | None] | None:
        """The entry and the winner's packed body (None: deleted, or not held); None when the id is unknown.

        Raises StorageCorrupt when its block is damaged or the body is not the one that its leaf names.
        """
        hit = self._records.young.get(id_key)
        return hit if hit is not None else self._read_uncached(id_key)

    def keep_whole(self, id_key: bytes, leaf: Leaf, whole: bytes) -> None:
        """whole is what the caller makes of the winner's body of a str id, if that is still the winner."""
        entry = self.find(id_key)
        if entry is not None and entry.winner == leaf:
            self.wholes.put(_str_id(id_key), whole)

    def _read_uncached(self, id_key: bytes) -> tuple[Entry, bytes | None] | None:
        cached = self._records.find(id_key)
        if cached is not None:
            return cached
        row = self._unsealed.row(id_key)
        if row is not None:
            record = (entry_of_row(row), row.bodies[0])
        else:
            if id_key in self.absent:
                return None
            found = self._sealed.locate(id_key)
            if found is None:
                return None
            record = (self._sealed.entry(found), self._sealed.body(found))
        self._records.put(id_key, record)
        return record

    def read_body(self, id_key: bytes, leaf_position: int) -> bytes | None:
        """The packed body of leaves[leaf_position], None when it is deleted, not held or the id is unknown."""
        row = self._unsealed.row(id_key)
        if row is not None:
            return row.bodies[leaf_position]
        found = self._sealed.locate(id_key)
        return None if found is None else self._sealed.body(found, leaf_position)

    def read_stale(self, id_key: bytes) -> bytes | None:
        """The body of the superseded revision entry.stale, None when none is held."""
        row = self._unsealed.row(id_key)
        if row is not None:
            return None if row.stale is None else row.stale.body
        found = self._sealed.locate(id_key)
        return None if found is None else self._sealed.stale_body(found)

    def read_superseded(self, id_key: bytes, is_wanted: Callable[[Leaf], bool]) -> tuple[Leaf, bytes] | None:
        """The newest wanted revision of the id whose body has not left the disk yet, None when there is none."""
        return find_superseded(self._sealed, self._unsealed.memtables, id_key, is_wanted)

    def read_piece(self, id_key: bytes, leaf_position: int, offset: int, length: int) -> bytes | None:
        """A part of a leaf's body, shorter where the body ends; None when it is not held.

        Only the touched pieces of a large body are read, so the digest of the whole cannot be checked here.
        """
        row = self._unsealed.row(id_key)
        if row is not None:
            body = row.bodies[leaf_position]
            return None if body is None else body[offset : offset + length]
        found = self._sealed.locate(id_key)
        return None if found is None else self._sealed.piece(found, leaf_position, offset, length)

    def find_hashes(self, id_hashes: Iterable[int]) -> dict[int, Entry]:
        """Entries by full id hash (idkey.id_hash); hashes that no id here has are left out."""
        entries: dict[int, Entry] = {}
        for full_hash in id_hashes:
            row = self._unsealed.row_of_hash(full_hash)
            entry = self._sealed.find_hash(full_hash) if row is None else entry_of_row(row)
            if entry is not None:
                entries[full_hash] = entry
        return entries

    def is_cached(self, id_key: bytes) -> bool:
        """It was read lately, and is still in memory."""
        is_whole = id_key[0] == TAG_STR and self.wholes.holds(_str_id(id_key))
        return is_whole or self._records.holds(id_key)

    # Changes

    def forget(self, id_key: bytes) -> None:
        """What was read of the record is not what it is any more."""
        self._records.drop(id_key)
        if id_key[0] == TAG_STR:
            self.wholes.drop(_str_id(id_key))
        self._entries.drop(id_key)

    @property
    def caches(self) -> tuple[Cache[bytes, tuple[Entry, bytes | None]], Cache[str, bytes], Cache[bytes, Entry]]:
        """What was read."""
        return self._records, self.wholes, self._entries

    def drop_caches(self) -> None:
        """Nothing is kept in memory that can be read again."""
        self._records.clear()
        self.wholes.clear()
        self._entries.clear()


def _record_bytes(id_key: bytes, record: tuple[Entry, bytes | None]) -> int:
    body = record[1]
    return CACHED_OVERHEAD_BYTES + len(id_key) + (len(body) if body else 0)


def _whole_bytes(id: str, whole: bytes) -> int:
    return WHOLE_OVERHEAD_BYTES + len(id) + len(whole)


def _str_id(id_key: bytes) -> str:
    return id_key[1:].decode("utf-8", "surrogatepass")
