"""The real merging.Merger of one simulated process, stepped in virtual time instead of on its thread.

Stands in for what the merger asks of opened.OpenDatabase, and tells the oracle of every merge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import Any

from mynosql.errors import StorageError
from mynosql.ledger import Ledger
from mynosql.merging import PAUSE_S, Merger
from mynosql.row import Entry, Leaf, Leaves
from mynosql.store.types import FeedSlice
from tests.sim.machine import Process
from tests.sim.oracle import Oracle

FETCH_S = 2.0
REST_S = 1.0
"""A node that must not save just now looks again after that."""


def merge_function(name: str, *, is_alike: bool) -> Callable[[Hashable, list[dict[Any, Any]]], dict[Any, Any]]:
    """The sum of what is merged; is_alike: the same on every node."""
    def merge(id: Hashable, revisions: list[dict[Any, Any]]) -> dict[Any, Any]:
        n = max(revision.get("n", revision.get("same", 0)) for revision in revisions)
        return {"n": n, "merged": True} if is_alike else {"n": n, "merged by": name}

    return merge


class MergingProcess:
    """One process that merges conflicts. Implements what Merger needs of an OpenDatabase and of its Reading."""

    def __init__(self, process: Process, oracle: Oracle, can_save: Callable[[], bool], *, is_alike: bool) -> None:
        self.process = process
        self.oracle = oracle
        self.reading = self
        self.lock = contextlib.nullcontext()
        self.is_closed = False
        self._can_save = can_save
        self._merger = Merger(self, clock=lambda: process.time.now)  # type: ignore[arg-type]
        self._merger._thread = True  # type: ignore[assignment]  # none is started
        self._merger.add(merge_function(process.machine.name, is_alike=is_alike), "")
        self._wake_at: float | None = None
        self.plan(PAUSE_S)

    # Time

    def plan(self, delay_s: float) -> None:
        """The merger is stepped by then."""
        due = self.process.time.now + delay_s
        if self._wake_at is None or due < self._wake_at:
            self._wake_at = due
            self.process.time.at(due, self._on_due)

    def _on_due(self) -> None:
        process = self.process
        if self._wake_at is not None and process.time.now >= self._wake_at:
            self._wake_at = None
            process.machine.guarded(process, self._step)

    def _step(self) -> None:
        process = self.process
        if process.store.read_only_reason is not None:
            return
        if not self._can_save():
            self.plan(REST_S)
            return
        process.act(self._merge)
        due = self._merger.next_due
        if due is not None:
            self.plan(max(due - process.time.now, PAUSE_S))

    def _merge(self) -> None:
        while self._merger.step():
            pass

    # What the merger asks of its node

    @property
    def store(self) -> Any:
        return self.process.store

    @property
    def node_id(self) -> int:
        return self.process.replica.ledger.node

    def notify(self) -> None:
        pass

    def on_background_error(self, error: BaseException) -> None:
        self.process.replica.on_failure(error)

    def find(self, id_key: bytes) -> Entry | None:
        return self.store.find(id_key)

    def read_base(self, id_key: bytes, leaves: Leaves) -> None:
        return None

    def read_leaf(self, id_key: bytes, leaf: Leaf) -> bytes | None:
        entry = self.store.find(id_key)
        return None if entry is None or leaf not in entry.leaves else (
            self.store.read_body(id_key, entry.leaves.index(leaf))
        )

    def entries(self, low: bytes, high: bytes | None, limit: int) -> list[Entry]:
        return self.store.entries(low, high, live_only=True, limit=limit)

    def feed_page(self, after_seq: int, bytes_max: int, low: bytes, high: bytes | None) -> FeedSlice:
        return self.store.feed(
            after_seq, until_seq=self.store.head_seq, bytes_max=bytes_max, bodies=False, body_bytes_max=0, low=low,
            high=high,
        )

    def fetch_leaves(self, id_key: bytes, timeout_s: float) -> None:
        """Asked for, and not waited for: they are looked for again when the record is due next."""
        replica = self.process.replica
        if replica.has_live_mirror:
            replica.fetch([id_key], FETCH_S, False, self.process.time.now, all_leaves=True)

    def merge(self, id_key: bytes, body: bytes, seen: Leaves) -> Leaf | None:
        machine, ledger = self.process.machine, self.process.replica.ledger
        self.oracle.on_attempt(machine, id_key, seen)
        try:
            leaf = Ledger.merge(ledger, id_key, body, seen=seen, now_ms=machine.wall_ms())
        except StorageError:
            self.oracle.on_answered(machine)
            raise
        if leaf is not None and leaf not in seen:
            machine.merges += 1
            self.oracle.on_written(self.process, id_key, leaf, seen)
        self.oracle.on_answered(machine)
        return leaf
