"""A consistent copy of a store's files while others go on saving.

Owns which bytes are copied: all files as long as they are when the copy begins. Files only grow, but for the index and
what a seal or a rewriting replaces; so sealing waits while the small files are copied, and rewriting until the shards
are. No thread, no lock: the caller (mynosql/backup.py) holds the store's lock where a method says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mynosql.errors import StorageFailed
from mynosql.store.files import Files
from mynosql.store.filter import FILE_NAME as FILTER_NAME
from mynosql.store.frames import parse_journal_name
from mynosql.store.index import FILE_NAME as INDEX_NAME
from mynosql.store.sealer import Hold, Sealer
from mynosql.store.shard import parse_shard_name

FORMAT_NAME = "format"
CHUNK_BYTES = 1 << 20
_SMALL = (FORMAT_NAME, INDEX_NAME, INDEX_NAME + "-wal", FILTER_NAME)
"""Not among them: what belongs to one place only (identity, keys), and the lock."""

Progress = Callable[[int, int], None]


class Copying:
    """One copy: begin, copy_small, go_on, copy_shards, in this order; end in any case."""

    def __init__(self, files: Files, sealer: Sealer) -> None:
        self._files, self._sealer = files, sealer
        self._sizes: dict[str, int] = {}
        self._done = 0

    def begin(self) -> None:
        """What is written now is what is copied. With the lock, and while no job is under way.

        Raises StorageFailed when the store can write no more: what it holds in memory may not be on the disk. Whatever
        it raises, nothing is held.
        """
        sealer, files = self._sealer, self._files
        if sealer.read_only_reason is not None:
            raise StorageFailed(f"no copy can be made: {sealer.read_only_reason}; open the database again")
        assert not sealer.is_busy
        self._sizes = {name: files.size(name) for name in files.list() if _is_copied(name)}
        sealer.hold = Hold.ALL

    def copy_small(self, target: Files, progress: Progress) -> None:
        """Journals, index and the like; without the lock. Raises StorageFull, StorageFailed, StorageCorrupt."""
        for name in self._sizes:
            if parse_shard_name(name) is None:
                self._copy(name, target, progress)

    def go_on(self) -> None:
        """Sealing goes on. With the lock."""
        self._sealer.hold = Hold.REWRITING

    def copy_shards(self, target: Files, progress: Progress) -> None:
        """The rest; all of it is durable on return. Without the lock. Raises as copy_small."""
        for name in self._sizes:
            if parse_shard_name(name) is not None:
                self._copy(name, target, progress)
        target.sync_folder()

    def end(self) -> None:
        """Everything goes on. With the lock."""
        self._sealer.hold = Hold.NOTHING

    def _copy(self, name: str, target: Files, progress: Progress) -> None:
        total = sum(self._sizes.values())
        file = target.open_append(name)
        try:
            for chunk in self._chunks(name):
                file.write(chunk)
                self._done += len(chunk)
                progress(self._done, total)
            file.flush()
        finally:
            file.close()

    def _chunks(self, name: str) -> Iterator[bytes]:
        size = self._sizes[name]
        for start in range(0, size, CHUNK_BYTES):
            wanted = min(CHUNK_BYTES, size - start)
            chunk = self._files.read(name, start, wanted)
            if len(chunk) != wanted:
                raise StorageFailed(f"{self._files.path(name)}: shorter than it was; run checkdb")
            yield chunk


def _is_copied(name: str) -> bool:
    return name in _SMALL or parse_journal_name(name) is not None or parse_shard_name(name) is not None
