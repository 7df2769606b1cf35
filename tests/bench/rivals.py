"""The rivals on one machine, with the settings that their own documentation starts with and the same msgpack bodies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.workload import Body


class SqliteTable:
    """A table of the standard library's sqlite3: rowid, unique TEXT key, body as BLOB; WAL, synchronous NORMAL.

    Autocommit, so that each save is a transaction as it is for us; the module keeps the prepared statements.
    """

    def __init__(self) -> None:
        import sqlite3

        import msgpack

        self._sqlite3 = sqlite3
        self._pack = msgpack.packb
        self._unpack = msgpack.unpackb

    def open(self, folder: Path) -> None:
        self._connection = self._sqlite3.connect(folder / "records.sqlite", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS record (key TEXT NOT NULL UNIQUE, body BLOB NOT NULL)"
        )
        self._execute = self._connection.execute

    def close(self) -> None:
        self._connection.close()

    def prepare(self, key: str, body: Body) -> tuple[str, Body]:
        return key, body

    def save(self, item: tuple[str, Body]) -> None:
        self._execute("INSERT INTO record (key, body) VALUES (?, ?)", (item[0], self._pack(item[1])))

    def save_batch(self, items: Sequence[tuple[str, Body]]) -> None:
        pack = self._pack
        self._execute("BEGIN")
        self._connection.executemany(
            "INSERT INTO record (key, body) VALUES (?, ?)", ((key, pack(body)) for key, body in items)
        )
        self._execute("COMMIT")

    def read(self, key: str) -> Body:
        row = self._execute("SELECT body FROM record WHERE key = ?", (key,)).fetchone()
        record: Body = self._unpack(row[0])
        return record

    def update(self, key: str, record: Body) -> None:
        self._execute("UPDATE record SET body = ? WHERE key = ?", (self._pack(record), key))


class DiskCache:
    """diskcache.Cache that evicts nothing and has no limit; otherwise its defaults."""

    def __init__(self) -> None:
        import diskcache
        import msgpack

        self._diskcache = diskcache
        self._pack = msgpack.packb
        self._unpack = msgpack.unpackb

    def open(self, folder: Path) -> None:
        self._cache = self._diskcache.Cache(str(folder), eviction_policy="none", cull_limit=0, size_limit=1 << 40)

    def close(self) -> None:
        self._cache.close()

    def prepare(self, key: str, body: Body) -> tuple[str, Body]:
        return key, body

    def save(self, item: tuple[str, Body]) -> None:
        self._cache.set(item[0], self._pack(item[1]))

    def save_batch(self, items: Sequence[tuple[str, Body]]) -> None:
        with self._cache.transact():
            for key, body in items:
                self._cache.set(key, self._pack(body))

    def read(self, key: str) -> Body:
        record: Body = self._unpack(self._cache[key])
        return record

    def update(self, key: str, record: Body) -> None:
        self._cache.set(key, self._pack(record))


class RocksDict:
    """RocksDB through rocksdict with default options: str keys, bytes values."""

    def __init__(self) -> None:
        import msgpack
        import rocksdict

        self._rocksdict = rocksdict
        self._pack = msgpack.packb
        self._unpack = msgpack.unpackb

    def open(self, folder: Path) -> None:
        self._records: Any = self._rocksdict.Rdict(str(folder))

    def close(self) -> None:
        self._records.close()

    def prepare(self, key: str, body: Body) -> tuple[str, Body]:
        return key, body

    def save(self, item: tuple[str, Body]) -> None:
        self._records[item[0]] = self._pack(item[1])

    def save_batch(self, items: Sequence[tuple[str, Body]]) -> None:
        batch = self._rocksdict.WriteBatch()
        for key, body in items:
            batch.put(key, self._pack(body))
        self._records.write(batch)

    def read(self, key: str) -> Body:
        record: Body = self._unpack(self._records[key])
        return record

    def update(self, key: str, record: Body) -> None:
        self._records[key] = self._pack(record)
