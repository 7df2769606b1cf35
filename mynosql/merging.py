"""Conflicts merged as they come: the functions given to onconflict, and the one thread that calls them.

Owns which conflict is due when, and nothing durable: what is in conflict stands in the index, so that every opening
begins with a look through it. The functions run on this thread, without any lock. A merge covers exactly the revisions
that its function saw; whose turn it is says turns.py. Driven by database.MyNoSQL.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from mynosql.codec import pack_body, unpack_body
from mynosql.errors import MyNoSQLError, NotOpen, OptionInvalid, RecordInvalid, StorageFailed, StorageFull
from mynosql.fields import merge_fields
from mynosql.idkey import all_range, unpack_id
from mynosql.opened import OpenDatabase
from mynosql.record import join, split
from mynosql.revision import conflicts_of, rev_string
from mynosql.row import Leaf, Leaves, Version
from mynosql.turns import competing_merges, merge_delay_s

log = logging.getLogger("mynosql")

Record = dict[Any, Any]
MergeFn = Callable[[Hashable, list[Record]], "Record | None"]
_Call = Callable[[Hashable, list[Record], "Record | None"], "Record | None"]
"""With a common base as the third argument, where one is held."""

FIELDS = "fields"
"""Names the built-in merge, fields.merge_fields."""
SCAN_PAGE = 256
"""Entries looked at under one lock."""
FEED_BYTES = 64 << 10
DUE_MAX = 10_000
"""Conflicts that wait for their turn; with more the feed is read on when there is room."""
MERGES_MAX = 4096
"""Records of which our own merges are counted; the oldest are forgotten, their next merge comes early."""
FETCH_S = 5.0
RETRY_S_MAX = 60.0
"""A body that no mirror delivered is asked for again after 1, 2, 4 … so many seconds."""
PAUSE_S = 0.02
"""Between two looks: whoever writes much is woken for so often, and pays for no more."""
_NEVER = 1 << 62


@dataclass(slots=True)
class _Due:
    at: float
    tries: int = 0


class Merger:
    """The merge functions of one open database and the one thread that calls them, started with the first."""

    def __init__(self, node: OpenDatabase, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._clock = clock
        self._calls: dict[int, tuple[str, _Call]] = {}
        self._next_key = 0
        self._due: dict[bytes, _Due] = {}
        self._merges: OrderedDict[bytes, tuple[Version, int]] = OrderedDict()
        """Our last merge of a record, and how many met another one."""
        self._scan_low: bytes | None = None
        """How far the index was looked through; None: to its end."""
        self._is_scan_wanted = False
        self._after = 0
        self._is_stopping = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, node: OpenDatabase) -> Merger:
        """The merger of this database, made with the first call."""
        with node.lock:
            if node.merger is None:
                merger = cls(node)
                node.merger = merger
                node.on_close(merger.stop)
            return node.merger  # type: ignore[no-any-return]

    def add(self, fn: MergeFn | str, prefix: str) -> Callable[[], None]:
        """fn merges the conflicts that there are and those to come; returns what ends it."""
        call = _call_of(fn)
        with self._node.lock:
            key = self._next_key
            self._next_key += 1
            self._calls[key] = (prefix, call)
            self._is_scan_wanted = True
            if self._thread is None:
                self._after = self._node.store.head_seq
                self._thread = threading.Thread(target=self._run, name="mynosql-onconflict", daemon=True)
                self._thread.start()
        self._node.notify()

        def end() -> None:
            self._calls.pop(key, None)

        return end

    def stop(self) -> None:
        """No function is called after this, unless it is called from one."""
        self._is_stopping = True
        self._stopped.set()
        self._node.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # The thread

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                if not self.step():
                    self._wait()
        except NotOpen:
            return
        except Exception as error:
            log.exception("conflicts are not merged any more")
            self._node.on_background_error(error)

    def step(self) -> bool:
        """What is due is merged, and a page is looked through for more; True: there may be another page."""
        self._merge_due(self._clock())
        return len(self._due) < DUE_MAX and self._look()

    @property
    def next_due(self) -> float | None:
        """When a conflict is due, by the clock; None: not before something changes."""
        return min((due.at for due in self._due.values()), default=None)

    def _look(self) -> bool:
        """Look at the next page of the index or of the feed; False when there was nothing new."""
        if self._is_scan_wanted:
            self._is_scan_wanted = False
            self._scan_low = b""
        head = self._node.store.head_seq  # before the count, which then includes all up to it
        if not self._node.store.counters.conflicts:
            self._due.clear()
            self._scan_low, self._after = None, max(self._after, head)
            return False
        low, high = all_range()
        if self._scan_low is not None:
            entries = self._node.reading.entries(max(self._scan_low, low), high, SCAN_PAGE)
            for entry in entries:
                self._note(entry.id_key, entry.leaves)
            self._scan_low = entries[-1].id_key + b"\0" if len(entries) == SCAN_PAGE else None
            return True
        piece = self._node.feed_page(self._after, FEED_BYTES, low, high)
        for row in piece.rows:
            self._note(row.id_key, row.leaves)
        self._after = max(self._after, piece.last_seq)
        return bool(piece.rows) or piece.more

    def _note(self, id_key: bytes, leaves: Leaves) -> None:
        """These are the newest leaves of that record: it is due when they are in conflict, else not any more."""
        if not conflicts_of(leaves):
            self._due.pop(id_key, None)
            return
        merged, merges = self._merges.get(id_key, (Version(0, 0), 0))
        merges = competing_merges(leaves, merged, merges)
        self._due[id_key] = _Due(self._clock() + merge_delay_s(leaves, self._node.node_id, merges))

    def _wait(self) -> None:
        due = self.next_due
        after = self._after if len(self._due) < DUE_MAX else _NEVER
        self._node.wait_change(
            after, None if due is None else max(due - self._clock(), 0.0),
            lambda: self._is_stopping or self._is_scan_wanted,
        )
        if self._node.is_closed:
            self._is_stopping = True
        self._stopped.wait(PAUSE_S)

    def _merge_due(self, now: float) -> None:
        for id_key in [id_key for id_key, due in self._due.items() if due.at <= now]:
            if self._is_stopping:
                return
            due = self._due.pop(id_key)
            try:
                is_done = self._merge(id_key)
            except StorageFailed:
                raise
            except (MyNoSQLError, ValueError) as error:  # damage on disk, or a class that is not registered here
                log.exception("a conflict cannot be merged")
                self._node.on_background_error(error)
                is_done = True
            if not is_done:
                pause_s = min(2.0**due.tries, RETRY_S_MAX)
                self._due[id_key] = _Due(self._clock() + pause_s, min(due.tries + 1, 16))

    def _merge(self, id_key: bytes) -> bool:
        """The conflict is merged, gone or left to a person; False: it cannot be worked on yet."""
        node = self._node
        entry = node.reading.find(id_key)
        losers = () if entry is None else conflicts_of(entry.leaves)
        id = unpack_id(id_key)
        calls = [
            call for prefix, call in list(self._calls.values())
            if not prefix or (isinstance(id, str) and id.startswith(prefix))
        ]
        if entry is None or not losers or not calls:
            return True
        base = node.reading.read_base(id_key, entry.leaves)  # before anything is fetched: a newer body takes its place
        leaves = (entry.winner, *losers)
        bodies = self._bodies(id_key, leaves)
        if bodies is None:
            return False
        for call in calls:
            revisions = [_record(id, leaf, body) for leaf, body in zip(leaves, bodies, strict=True)]
            try:
                merged = call(id, revisions, None if base is None else _record(id, *base))
                packed = None if merged is None else _pack(id, merged)
            except Exception as error:
                log.exception("an onconflict function raised for %r", id)
                node.on_background_error(error)
                continue
            if self._is_stopping:
                return True
            if packed is not None:
                return self._save(id_key, packed, entry.leaves)
        return True

    def _bodies(self, id_key: bytes, leaves: Leaves) -> list[bytes] | None:
        """The bodies of these leaves, fetched if they are not here; None: not to be had now."""
        for is_last in (False, True):
            bodies = [self._node.reading.read_leaf(id_key, leaf) for leaf in leaves]
            found = [body for body in bodies if body is not None]
            if len(found) == len(leaves):
                return found
            if not is_last:
                self._node.reading.fetch_leaves(id_key, FETCH_S)
        return None

    def _save(self, id_key: bytes, packed: bytes, seen: Leaves) -> bool:
        try:
            leaf = self._node.merge(id_key, packed, seen)
        except StorageFull as error:
            self._node.on_background_error(error)
            return False
        if leaf is not None:
            merged, merges = self._merges.pop(id_key, (Version(0, 0), 0))
            self._merges[id_key] = Version(leaf.hlc, leaf.node), competing_merges(seen, merged, merges) + 1
            if len(self._merges) > MERGES_MAX:
                self._merges.popitem(last=False)
        return True  # None: the leaves changed meanwhile, the feed brings the record again


def _call_of(fn: MergeFn | str) -> _Call:
    if fn == FIELDS:
        return lambda _, revisions, base: merge_fields(revisions, base)
    if not callable(fn):
        raise OptionInvalid(f"onconflict needs a function or {FIELDS!r}, got {fn!r:.80}")
    return lambda id, revisions, _: fn(id, revisions)


def _record(id: Hashable, leaf: Leaf, body: bytes) -> Record:
    return join(id, rev_string(leaf), unpack_body(body))


def _pack(id: Hashable, merged: Record) -> bytes:
    given, _, body = split(merged)
    if given is not None and given != id:
        raise RecordInvalid(f"an onconflict function merged {id!r} into a record with id {given!r}", path="id")
    return pack_body(body)


__all__ = ["FIELDS", "MergeFn", "Merger"]
