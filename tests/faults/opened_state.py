"""A folder as a power cut left it, opened with the real library, and what is then found in it.

Owns the two ways of opening: the store alone (a few milliseconds, for thousands of states), and the whole face, which
also saves, checks, closes and opens again. Goes through public names only; knows no format.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

import mynosql
from mynosql.codec import unpack_body
from mynosql.idkey import pack_id
from mynosql.replica import MODE_NOTE
from mynosql.store.folder import Folder
from mynosql.store.index import Index, SqliteIndex
from mynosql.store.opening import open_store
from mynosql.store.store import Store
from mynosql.sync.memory import Memory
from tests.faults.disk_model import Entry
from tests.faults.promises import Held, Version
from tests.faults.recorded_child import EVICTED, MODE, NAME, text_of


class WrongRecord(AssertionError):
    """A record reads back, but not as it was saved."""


def lay_out(place: Path, entries: Iterable[Entry]) -> Path:
    """The folder of the database below `place`, which holds these entries and nothing else."""
    shutil.rmtree(place, ignore_errors=True)
    folder = place / NAME
    place.mkdir(parents=True)
    for entry in entries:
        path = os.path.join(place, entry.path)
        if entry.data is None:
            os.makedirs(path, exist_ok=True)
        elif entry.is_socket:
            os.mknod(path, stat.S_IFSOCK | 0o600)
        else:
            with open(path, "wb", buffering=0) as file:
                file.write(entry.data)
    return folder


def hold_of_store(folder: Path, ids: Iterable[str]) -> Held:
    """What is found by opening the folder, the index and the store; nothing is sealed or saved. Raises any error."""
    opened: list[Index] = []

    def open_index(path: str, /) -> Index:
        opened.append(SqliteIndex(path))
        return opened[-1]

    locked = Folder.open(folder, mint=os.urandom)
    try:
        store = open_store(locked.files, node=locked.identity.node, open_index=open_index)
        return Held(_versions(store, ids), _cursors(store))
    finally:
        with contextlib.suppress(mynosql.StorageError):
            for index in opened:
                index.close()
        locked.close()


def _versions(store: Store, ids: Iterable[str]) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for id in ids:
        if id == MODE:
            if store.note(MODE_NOTE):
                found[id] = store.note(MODE_NOTE).decode().capitalize()
            continue
        record = store.read(pack_id(id))
        if record is None:
            continue
        entry, body = record
        if entry.winner.deleted:
            found[id] = None
        else:
            found[id] = EVICTED if body is None else _checked_version(id, unpack_body(body))
    count = sum(isinstance(version, int) for version in found.values())
    if count != store.counters.held:
        raise WrongRecord(f"{count} records are held, the counter says {store.counters.held}")
    return found


def _checked_version(id: str, rec: dict[str, object]) -> int:
    version = rec.get("version")
    if not isinstance(version, int) or rec.get("text") != text_of(id, version, len(str(rec.get("text")))):
        raise WrongRecord(f"{id}: not as it was saved: {str(rec)[:200]}")
    return version


def _cursors(store: Store) -> dict[str, int]:
    memory = Memory(store.notes(), lambda key, value: None)
    return {feed.hex(): cursor.seq for feed, cursor in memory.cursors.items()}


def hold_of_face(place: Path, ids: Iterable[str]) -> Held:
    """What is found by opendb; then a save, checkdb, closedb and another opendb must find the same and the new record.

    A sound state stays sound: whatever a cut left in the folder, nothing of it is found damaged afterwards.
    """
    ids = list(ids)
    versions: list[dict[str, Version]] = []
    for opening in range(2):
        with mynosql.opendb(NAME, location=place, listen="127.0.0.1:0") as db:
            versions.append(_versions_of_face(db, ids))
            if opening == 0:
                db.savedoc({"id": "after the cut", "n": 1})
            elif db["after the cut"]["n"] != 1:
                raise WrongRecord("what was saved after the cut is not there")
            elif not (report := db.checkdb()).ok:
                raise WrongRecord(f"checkdb after the cut: {report.problems}")
    if versions[0] != versions[1]:
        raise WrongRecord("closing and opening again after the cut changed what is held")
    return Held(versions[0], {})


def _versions_of_face(db: mynosql.MyNoSQL, ids: Iterable[str]) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for id in ids:
        if id == MODE:
            found[id] = db.getdbmode()
            continue
        state = db.docinfo(id).state
        if state == "deleted" or (state == "pending" and id not in db):
            found[id] = None
        elif id in db:
            found[id] = EVICTED
            with contextlib.suppress(mynosql.RecordUnavailable):
                found[id] = _checked_version(id, db.readdoc(id, timeout=0.0))
    return found
