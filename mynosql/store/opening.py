"""Opens the store of a folder, with its index made anew from the shards when that is damaged, lost or an old copy.

Owns the decision that an index cannot be used; rebuild.py does the work. Driven by the face.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from mynosql.errors import StorageCorrupt, StorageError
from mynosql.store.files import Files
from mynosql.store.index import FILE_NAME, Index, SqliteIndex
from mynosql.store.rebuild import REBUILDING_NOTE, Rebuilder
from mynosql.store.recovery import CURSOR_PREFIX
from mynosql.store.store import DELIVERED_NOTE, OWN_NOTES_PREFIX, Store
from mynosql.store.types import Problem, StoreOptions

Progress = Callable[[int, int], None]


class OpenIndex(Protocol):
    """Opens the index in a file, or makes a new one there."""

    def __call__(self, path: str, /) -> Index: ...


def open_store(
    files: Files, options: StoreOptions | None = None, *, node: int | None = None, progress: Progress | None = None,
    open_index: OpenIndex = SqliteIndex,
) -> Store:
    """Store.open() on the index in the folder's file; rebuilt first when it cannot be used.

    What a rebuilt index lost: cursors and what was delivered, so that much is asked for and sent once more, and
    whatever of the other notes could not be read. store.problems says that it happened.
    """
    try:
        return _open(files, open_index, options, node, progress)
    except StorageCorrupt as error:
        if not any(name.startswith("shard-") for name in files.list()):
            raise
        reason = error
    notes = _salvaged_notes(files, open_index)
    for suffix in ("", "-wal", "-shm"):
        files.remove(FILE_NAME + suffix)
    files.sync_folder()
    index = open_index(files.path(FILE_NAME))
    rebuilder = Rebuilder(files, index, progress)
    try:
        rebuilder.run(notes, node=node)
        store = Store.open(files, index, options, node=node, progress=progress)
    except BaseException:
        with contextlib.suppress(StorageError):
            index.close()
        raise
    store.is_rebuilt = True
    for problem in rebuilder.problems:
        store.note_problem(problem)
    store.note_problem(Problem(files.path(FILE_NAME), None, f"made anew from the shards, because: {reason}", 0))
    return store


def _open(
    files: Files, open_index: OpenIndex, options: StoreOptions | None, node: int | None, progress: Progress | None
) -> Store:
    index = open_index(files.path(FILE_NAME))
    try:
        if index.note(REBUILDING_NOTE):
            text = "it lost entries, or its rebuilding was interrupted; open it again"
            raise StorageCorrupt(files.path(FILE_NAME), None, text)
        return Store.open(files, index, options, node=node, progress=progress)
    except BaseException:
        with contextlib.suppress(StorageError):
            index.close()
        raise


def _salvaged_notes(files: Files, open_index: OpenIndex) -> dict[str, bytes]:
    """Notes that can be read and that only repeat work when they are wrong or missing are kept; marks are not."""
    try:
        index = open_index(files.path(FILE_NAME))
    except StorageError:
        return {}
    try:
        notes = index.notes()
    except StorageError:
        notes = {}
    with contextlib.suppress(StorageError):
        index.close()
    return {
        key: value for key, value in notes.items()
        if not key.startswith((CURSOR_PREFIX, OWN_NOTES_PREFIX)) and key != DELIVERED_NOTE
    }
