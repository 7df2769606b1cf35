"""In a recorded process: says what is tried and what is promised, in the file of marks, between the storage calls.

    child = Child(sys.argv)                     # root folder and file of marks
    node = child.open("A", mode="mirror")
    node.save("x", "y")                         # two saves, each a new version of its record
    node.promise_durable()

A version is a number that grows by one at each attempt in the process; the record tells its own version and a text made
from it, so that whoever finds it knows whether it is right. Nothing here knows of strace.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mynosql

NAME = "Test"
MODE = "#mode"
"""Among the ids that were tried: the mode of the node."""
EVICTED = "evicted"
"""In place of a version: the record is known, its body is not here."""


@lru_cache(maxsize=4096)
def text_of(id: str, version: int, length: int) -> str:
    """What a record of this version says: hardly compressible, so that few records fill a block. length: even."""
    return random.Random(f"{id}/{version}").randbytes(length // 2).hex()


class Child:
    """The recorded process: its nodes and its marks."""

    def __init__(self, root: str, marks: str) -> None:
        self.root = root
        self.text_bytes = 300
        """How long the texts are from now on."""
        self.version = 0
        self.newest: dict[str, int] = {}
        """Per id the last version that was tried."""
        self._marks = os.open(marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def mark(self, **said: Any) -> None:
        """One line among the marks, by one system call."""
        os.write(self._marks, json.dumps(said).encode() + b"\n")

    def open(self, folder: str, *, receives: Sequence[str] = (), **options: Any) -> Node:
        """Open the node in this folder below the root. receives: folders of nodes whose versions may come here."""
        if "mode" in options:
            self.mark(node=folder, tries={MODE: options["mode"].capitalize()})
        node = Node(self, folder, mynosql.opendb(NAME, location=os.path.join(self.root, folder), **options))
        self.mark(node=folder, opened=True, receives=list(receives))
        return node


class Node:
    """One open database in the recorded process."""

    def __init__(self, child: Child, folder: str, db: mynosql.MyNoSQL) -> None:
        self.child, self.folder, self.db = child, folder, db
        self.is_each = db._node().options.durability == "each"

    def save(self, *ids: str) -> None:
        """Each id gets a new version by a savedoc of its own."""
        for id in ids:
            (version,) = self._try((id,))
            self.db[id] = {"version": version, "text": text_of(id, version, self.child.text_bytes)}
            self._returned()

    def save_batch(self, *ids: str) -> None:
        """All ids get new versions by one savedocs."""
        versions = self._try(ids)
        recs: list[dict[str, Any]] = []
        for id, version in zip(ids, versions, strict=True):
            rec = {"id": id, "version": version, "text": text_of(id, version, self.child.text_bytes)}
            if id in self.db:
                rec["rev"] = self.db.docinfo(id).rev
            recs.append(rec)
        self.db.savedocs(recs)
        self._returned()

    def delete(self, *ids: str) -> None:
        """Each id is deleted by a deletedoc of its own."""
        for id in ids:
            self.child.mark(node=self.folder, tries={id: None})
            self.db.deletedoc(id)
            self._returned()

    def evict(self, *ids: str) -> None:
        """The body of each id leaves this node by an evictdoc of its own."""
        for id in ids:
            self.child.mark(node=self.folder, tries={id: EVICTED}, is_local=True)
            assert self.db.evictdoc(id), f"{id} is still owed, or not here"
            self._returned()

    def fetch(self, *ids: str) -> None:
        """Bodies that are not here come from a mirror again."""
        for id in ids:
            self.child.mark(node=self.folder, tries={id: self.child.newest[id]}, is_local=True)
            assert self.db.readdoc(id, timeout=30.0)["version"] == self.child.newest[id]
        self._returned()

    def back_up(self, folder: str) -> None:
        """A copy of all that was saved here, as the node of another folder."""
        self.child.mark(node=folder, opened=True, receives=[self.folder])
        self.db.backupdb(os.path.join(self.child.root, folder))
        self.child.mark(node=folder, of=self.folder, promises="durable")

    def _try(self, ids: Sequence[str]) -> list[int]:
        first = self.child.version + 1
        self.child.version += len(ids)
        versions = list(range(first, first + len(ids)))
        self.child.newest.update(zip(ids, versions, strict=True))
        self.child.mark(node=self.folder, tries=dict(zip(ids, versions, strict=True)))
        return versions

    def _returned(self) -> None:
        opened = self.db._node()
        with opened.lock:
            feed, seq = opened.index_id.hex(), opened.store.head_seq
        self.child.mark(
            node=self.folder, of=self.folder, promises="durable" if self.is_each else "killed", feed=feed, seq=seq
        )

    def promise_durable(self, *, at: str | None = None) -> None:
        """All that was saved here so far survives a power cut; at: on that node, as this one was told."""
        opened = self.db._node()
        if at is not None:
            assert self.db.waitsync(timeout=30.0), "no mirror confirmed"
        else:
            with opened.lock:
                opened.workers.wait_durable()
        self.child.mark(node=at or self.folder, of=self.folder, promises="durable")

    def compact(self) -> None:
        """All is sealed, and rewritten without what was replaced."""
        self.db.compactdb()
        self.child.mark(node=self.folder, of=self.folder, promises="durable")

    def set_mode(self, mode: str) -> None:
        """The mode is changed, durably as soon as promise_durable() was called."""
        self.child.mark(node=self.folder, tries={MODE: mode})
        self.db.setdbmode(mode)
        self._returned()

    def close(self) -> None:
        """All is sealed and durable."""
        self.db.closedb()
        self.child.mark(node=self.folder, of=self.folder, promises="durable")
