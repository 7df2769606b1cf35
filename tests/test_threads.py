"""Threads of one application against each other: each one's acknowledgements hold, whatever the others do meanwhile.

Savers, readers, a deleter and a compactor share one database with the smallest memtable, so that sealing and rewriting
never end. `tox -e deep` runs it longer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import mynosql
from mynosql import RecordNotFound, RevisionConflict

ROUNDS = 4_000 if os.environ.get("MYNOSQL_DEEP") else 250
SAVERS = 4
IDS = 40
DEADLINE_S = 600.0
FILLING = "some text that makes a record long enough to fill memtables " * 6


class Threads:
    """What each thread was told, and a first error of any of them."""

    def __init__(self, db: mynosql.MyNoSQL) -> None:
        self.db = db
        self.begun = {self.id_of(saver, place): 0 for saver in range(SAVERS) for place in range(IDS)}
        """The number of the newest save that may have taken place."""
        self.acked = dict(self.begun)
        """The number of the newest save that was acknowledged. Each id has one writer."""
        self.to_delete: SimpleQueue[str | None] = SimpleQueue()
        self.deleted: set[str] = set()
        self.shared: list[int] = []
        """The increments that were acknowledged on the one record that all savers edit."""
        self.is_over = threading.Event()
        self.errors: list[BaseException] = []
        self.reads = self.compactions = 0

    @staticmethod
    def id_of(saver: int, place: int) -> str:
        return f"saver{saver}/{place:03}"

    def save(self, saver: int) -> None:
        """Edits of ids of its own, a batch now and then, an increment of what all share, and something to delete."""
        db = self.db
        recs = {self.id_of(saver, place): db.savedoc({"id": self.id_of(saver, place), "n": 0}) for place in range(IDS)}
        for number in range(1, ROUNDS + 1):
            some = [self.id_of(saver, (number * step) % IDS) for step in ((1,) if number % 10 else (1, 3, 7))]
            some = list(dict.fromkeys(some))
            for id in some:
                self.begun[id] = number
            edits = [{**recs[id], "n": number, "text": f"{saver} {number} {FILLING}"} for id in some]
            for rec in [db.savedoc(edits[0])] if len(some) == 1 else db.savedocs(edits):
                recs[rec["id"]] = rec
                self.acked[rec["id"]] = number
            if number % 5 == 0:
                self.increment()
                db.savedoc({"id": f"gone/{saver}/{number}", "text": FILLING})
                self.to_delete.put(f"gone/{saver}/{number}")

    def increment(self) -> None:
        """Optimistic: whoever lost reads again."""
        while True:
            rec = self.db.readdoc("shared")
            try:
                self.db.savedoc({**rec, "n": rec["n"] + 1})
            except RevisionConflict:
                continue
            self.shared.append(rec["n"] + 1)
            return

    def delete(self) -> None:
        while (id := self.to_delete.get()) is not None:
            self.db.deletedoc(id)
            self.deleted.add(id)
            assert id not in self.db

    def read(self, seed: int) -> None:
        """Whatever was acknowledged before a read began is in its answer, and nothing that was never begun."""
        position = seed
        ids = list(self.begun)
        while not self.is_over.is_set():
            position += 7
            some = [ids[(position + step) % len(ids)] for step in range(3)]
            before = [self.acked[id] for id in some]
            try:
                recs = [self.db.readdoc(some[0])] if position % 2 else self.db.readdocs(some)
            except RecordNotFound:
                assert 0 in before
                continue
            for id, rec, least in zip(some, recs, before, strict=False):
                assert rec is not None
                assert rec["id"] == id
                assert least <= rec["n"] <= self.begun[id]
                assert rec["n"] == 0 or rec["text"] == f"{id[5]} {rec['n']} {FILLING}"
            self.reads += 1

    def list(self) -> None:
        while not self.is_over.is_set():
            listed = list(self.db.listdocs(prefix="saver"))
            assert listed == sorted(set(listed))
            assert sum(1 for _ in self.db.changes()) >= len(listed)

    def compact(self) -> None:
        while not self.is_over.is_set():
            self.db.compactdb()
            self.compactions += 1

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self.errors.append(error)
            self.to_delete.put(None)

    def run(self) -> None:
        def begun(work: Callable[..., None], *arguments: Any) -> threading.Thread:
            thread = threading.Thread(target=self._guarded, args=(work, *arguments), daemon=True)
            thread.start()
            return thread

        savers = [begun(self.save, saver) for saver in range(SAVERS)]
        deleter = begun(self.delete)
        others = [begun(self.read, 0), begun(self.read, 1), begun(self.list), begun(self.compact)]
        for thread in savers:
            thread.join(DEADLINE_S)
        self.to_delete.put(None)
        deleter.join(DEADLINE_S)
        self.is_over.set()
        for thread in others:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in (*savers, deleter, *others))
        if self.errors:
            raise self.errors[0]

    def check(self, db: mynosql.MyNoSQL) -> None:
        """The database holds what the threads were told, and nothing else."""
        for id, number in self.acked.items():
            assert db.readdoc(id)["n"] == number
        assert len(self.deleted) == SAVERS * (ROUNDS // 5)
        assert not any(id in db for id in self.deleted)
        assert all(db.docinfo(id).state in ("deleted", "pending") for id in self.deleted), "a tombstone, not yet sent"
        assert sorted(self.shared) == list(range(1, len(self.shared) + 1)), "no increment was lost, none came twice"
        assert db.readdoc("shared")["n"] == len(self.shared)
        assert len(db) == len(self.acked) + 1
        assert db.syncstatus().conflicts == 0


def test_what_each_thread_was_told_holds(make_db: Callable[..., Any], tmp_path: Any) -> None:
    db = make_db(location=tmp_path, memtable_bytes_max=1 << 16)
    db.savedoc({"id": "shared", "n": 0})
    threads = Threads(db)

    threads.run()

    assert threads.reads
    assert threads.compactions
    threads.check(db)
    db.closedb()
    with mynosql.opendb("Test", location=tmp_path) as again:
        threads.check(again)
