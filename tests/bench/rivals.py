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

    def delete(self, key: str) -> None:
        self._execute("DELETE FROM record WHERE key = ?", (key,))


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

    def delete(self, key: str) -> None:
        self._cache.delete(key)


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

    def delete(self, key: str) -> None:
        del self._records[key]


class RocksZstd:
    """RocksDB with Zstandard and a dictionary, keeping what we keep: revision, change number and digest of each record.

    The body's own entry carries them, and a second one a save is the feed: change number to key. Settings: the tuning
    guide's advice for small compressible values.
    """

    META = (1, 1_790_000_000_000 << 16, 0x1234_5678_9ABC_DEF0)
    FEED = b"f"

    def __init__(self) -> None:
        import hashlib

        import msgpack
        import rocksdict

        self._rocksdict = rocksdict
        self._digest = hashlib.blake2b
        self._pack = msgpack.packb
        self._unpack = msgpack.unpackb

    def open(self, folder: Path) -> None:
        options = self._rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(self._rocksdict.DBCompressionType.zstd())
        options.set_compression_options(-14, 3, 0, 16 << 10)
        options.set_zstd_max_train_bytes(1 << 20)
        blocks = self._rocksdict.BlockBasedOptions()
        blocks.set_block_size(16 << 10)
        options.set_block_based_table_factory(blocks)
        self._records: Any = self._rocksdict.Rdict(str(folder / "records"), options)
        self._seq = 0

    def close(self) -> None:
        self._records.flush()
        self._records.close()

    def prepare(self, key: str, body: Body) -> tuple[str, Body]:
        return key, body

    def save(self, item: tuple[str, Body]) -> None:
        self.save_batch((item,))

    def save_batch(self, items: Sequence[tuple[str, Body]]) -> None:
        batch = self._rocksdict.WriteBatch(raw_mode=True)
        for key, body in items:
            packed = self._pack(body)
            self._seq += 1
            generation, clock, node = self.META
            digest = self._digest(packed, digest_size=8).digest()
            row = self._pack((generation, clock + self._seq, node, self._seq, digest, packed))
            batch.put(b"r" + key.encode(), row)
            batch.put(self.FEED + self._seq.to_bytes(8, "big"), key.encode())
        self._records.write(batch)

    def read(self, key: str) -> Body:
        record: Body = self._unpack(self._unpack(self._records[b"r" + key.encode()])[5])
        return record

    def update(self, key: str, record: Body) -> None:
        self.save_batch(((key, record),))

    def delete(self, key: str) -> None:
        del self._records[b"r" + key.encode()]


class Lmdb:
    """LMDB without an fsync for each transaction, as the others: a crash of the process loses nothing."""

    def __init__(self) -> None:
        import lmdb
        import msgpack

        self._lmdb = lmdb
        self._pack = msgpack.packb
        self._unpack = msgpack.unpackb

    def open(self, folder: Path) -> None:
        self._environment = self._lmdb.open(str(folder), map_size=1 << 36, sync=False)

    def close(self) -> None:
        self._environment.sync(True)
        self._environment.close()

    def prepare(self, key: str, body: Body) -> tuple[str, Body]:
        return key, body

    def save(self, item: tuple[str, Body]) -> None:
        self.save_batch((item,))

    def save_batch(self, items: Sequence[tuple[str, Body]]) -> None:
        with self._environment.begin(write=True) as transaction:
            for key, body in items:
                transaction.put(key.encode(), self._pack(body))

    def read(self, key: str) -> Body:
        with self._environment.begin() as transaction:
            record: Body = self._unpack(transaction.get(key.encode()))
        return record

    def update(self, key: str, record: Body) -> None:
        self.save_batch(((key, record),))

    def delete(self, key: str) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.delete(key.encode())


class SqliteDict:
    """sqlitedict with autocommit, packing with msgpack instead of pickle."""

    def __init__(self) -> None:
        import msgpack
        import sqlitedict

        self._sqlitedict = sqlitedict
        self._pack = msgpack.packb
        self._unpack = msgpack.unpackb

    def open(self, folder: Path) -> None:
        self._records: Any = self._sqlitedict.SqliteDict(
            str(folder / "records.sqlite"), autocommit=True, encode=self._pack, decode=self._unpack
        )

    def close(self) -> None:
        self._records.close()

    def prepare(self, key: str, body: Body) -> tuple[str, Body]:
        return key, body

    def save(self, item: tuple[str, Body]) -> None:
        self._records[item[0]] = item[1]

    def save_batch(self, items: Sequence[tuple[str, Body]]) -> None:
        self._records.update(items)

    def read(self, key: str) -> Body:
        record: Body = self._records[key]
        return record

    def update(self, key: str, record: Body) -> None:
        self._records[key] = record

    def delete(self, key: str) -> None:
        del self._records[key]


class Zodb:
    """ZODB on a FileStorage, records in a BTree, a transaction a save, which it fsyncs."""

    def __init__(self) -> None:
        import BTrees.OOBTree
        import transaction
        import ZODB

        self._zodb, self._transaction, self._tree_of = ZODB, transaction, BTrees.OOBTree.OOBTree

    def open(self, folder: Path) -> None:
        self._db = self._zodb.DB(str(folder / "records.fs"))
        root: Any = self._db.open().root()
        if "records" not in root:
            root["records"] = self._tree_of()
            self._transaction.commit()
        self._records = root["records"]

    def close(self) -> None:
        self._db.close()

    def prepare(self, key: str, body: Body) -> tuple[str, Body]:
        return key, body

    def save(self, item: tuple[str, Body]) -> None:
        self._records[item[0]] = item[1]
        self._transaction.commit()

    def save_batch(self, items: Sequence[tuple[str, Body]]) -> None:
        self._records.update(items)
        self._transaction.commit()

    def read(self, key: str) -> Body:
        return dict(self._records[key])

    def update(self, key: str, record: Body) -> None:
        self._records[key] = record
        self._transaction.commit()

    def delete(self, key: str) -> None:
        del self._records[key]
        self._transaction.commit()


class TinyDb:
    """TinyDB with its defaults: one JSON file, written anew at each save."""

    def __init__(self) -> None:
        import tinydb

        self._tinydb = tinydb

    def open(self, folder: Path) -> None:
        self._db = self._tinydb.TinyDB(folder / "records.json")

    def close(self) -> None:
        self._db.close()

    def prepare(self, key: str, body: Body) -> Body:
        return {"key": key, **body}

    def save(self, item: Body) -> None:
        self._db.insert(item)

    def save_batch(self, items: Sequence[Body]) -> None:
        self._db.insert_multiple(items)

    def read(self, key: str) -> Body:
        found: Any = self._db.get(self._tinydb.where("key") == key)
        return dict(found)

    def update(self, key: str, record: Body) -> None:
        self._db.update(record, self._tinydb.where("key") == key)

    def delete(self, key: str) -> None:
        self._db.remove(self._tinydb.where("key") == key)


class Predecessor:
    """MyNoSQL 0.0.6: its index is packed again at each save, each record in a file of its own."""

    def open(self, folder: Path) -> None:
        from tests.bench.predecessor import quiet_predecessor

        self._db = quiet_predecessor()
        self._db.setdblocation(str(folder))
        self._db.opendb("bench")

    def close(self) -> None:
        self._db.closedb()

    def prepare(self, key: str, body: Body) -> Body:
        from tests.bench.predecessor import plain_id

        return {"id": plain_id(key), **body}

    def save(self, item: Body) -> None:
        self._db.savedoc(item)

    def save_batch(self, items: Sequence[Body]) -> None:
        for item in items:
            self._db.savedoc(item)

    def read(self, key: str) -> Body:
        from tests.bench.predecessor import plain_id

        return dict(self._db.readdoc(plain_id(key)))

    def update(self, key: str, record: Body) -> None:
        self._db.savedoc(record)

    def delete(self, key: str) -> None:
        from tests.bench.predecessor import plain_id

        self._db.deletedoc(plain_id(key))
