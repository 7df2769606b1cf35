"""Reading records of one open database: what is here, what a mirror has, and what the index says of either.

Owns the waiting of readers. Knows id keys and packed bodies, not the application's objects. Every method may be called
from any thread. Driven by database.MyNoSQL and merging.Merger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

from mynosql.damage import mended
from mynosql.errors import RecordNotFound, RecordUnavailable, StorageCorrupt
from mynosql.replica import Fetch, Replica
from mynosql.revision import conflicts_of, is_in_past, rev_string
from mynosql.row import Entry, Leaf, Leaves, Version
from mynosql.sync.effects import Outcome
from mynosql.views import DocInfo, State
from mynosql.workers import Workers

_REASONS = {
    Outcome.NOT_HELD: "no mirror that answers holds it",
    Outcome.UNAVAILABLE: "no mirror is connected",
    None: None,
}


class Reading:
    """The readers of one open database."""

    def __init__(
        self, replica: Replica, workers: Workers, *, mend: Callable[[StorageCorrupt | None], bool],
        wake: Callable[[], None], is_closed: Callable[[], bool],
    ) -> None:
        """mend: what a read met is given up, to be fetched again. wake: somebody looks at what there is to send."""
        self._replica, self._workers = replica, workers
        self._store, self._lock = replica.store, workers.lock
        self.mend, self._wake, self._is_closed = mend, wake, is_closed

    @mended
    def find(self, id_key: bytes) -> Entry | None:
        with self._lock:
            return self._store.find(id_key)

    def is_live(self, id_key: bytes) -> bool:
        entry = self.find(id_key)
        return entry is not None and entry.is_live and not self._is_hidden(entry)

    def _is_hidden(self, entry: Entry) -> bool:
        scoping = self._replica.scoping
        return scoping.is_hiding and scoping.is_hidden(entry)

    @mended
    def is_doubtful(self, id_key: bytes) -> bool:
        """Outside of the scope nobody tells us of newer revisions: what is held here may be old. Not what is owed."""
        with self._lock:
            entry = self._store.find(id_key)
            is_pending = entry is not None and self._replica.is_pending(entry)
            return self._replica.scoping.is_outside(id_key) and not is_pending

    def count(self) -> int:
        """Live records that the index knows."""
        if self._replica.node.scope is None:
            return self._store.counters.records
        with self._lock:
            return self._store.counters.records - self._replica.scoping.count_hidden()

    @mended
    def read(self, id_key: bytes) -> tuple[Leaf, bytes | None] | None:
        """The winner here and its packed body; body None: not held, or a tombstone. None: the id is not known."""
        with self._lock:
            found = self._store.read(id_key)
        return None if found is None else (found[0].leaves[0], found[1])

    def read_whole(self, id: str) -> bytes | None:
        """The record as keep_whole was given it, if it has not changed since."""
        with self._lock:
            return self._store.wholes.find(id)

    def keep_whole(self, id_key: bytes, leaf: Leaf, whole: bytes | None) -> None:
        """A record is kept as its readers want it, packed with id and rev; None: it cannot be."""
        if whole is not None:
            with self._lock:
                self._store.keep_whole(id_key, leaf, whole)

    @mended
    def read_remote(
        self, id_key: bytes, id: Hashable, *, timeout_s: float, allow_stale: bool, confirm: bool
    ) -> tuple[Leaf, bytes]:
        """The newest revision of a record that is not held fresh: from a mirror, else the stale one held here."""
        with self._lock:
            entry = self._store.find(id_key)
            is_outside = self._replica.scoping.is_outside(id_key)
            if is_outside and entry is not None and self._replica.scoping.is_hidden(entry):
                entry = None
            if entry is not None and entry.winner.deleted and not is_outside:
                raise RecordNotFound(f"record {id!r} was deleted", id=id)
            is_known_absent = entry is None and not is_outside and self._replica.is_index_complete
            if is_known_absent and not (confirm and self._replica.has_live_mirror):
                raise RecordNotFound(f"no record {id!r} exists", id=id)
            reason = "no mirror is connected"
            if self._replica.has_live_mirror and timeout_s > 0:
                fetch = self._fetch(id_key, timeout_s, confirm=confirm)
                if fetch.is_absent and self._store.find(id_key) is None:
                    raise RecordNotFound(f"no record {id!r} exists, says the mirror", id=id)
                reason = _REASONS.get(fetch.outcome) or f"no mirror delivered it within {timeout_s:g} s"
            else:
                fetch = None
            found = self._store.read(id_key)
            is_sure = not is_outside or (fetch is not None and fetch.outcome is Outcome.FOUND)
            if found is not None and found[1] is not None and (is_sure or allow_stale):
                return found[0].leaves[0], found[1]
            if fetch is not None and fetch.row is not None and fetch.row.bodies[0] is not None:
                # The index has moved on since, but this is at least as new as what it said when the read began.
                return fetch.row.leaves[0], fetch.row.bodies[0]
            if found is not None and found[0].winner.deleted:
                raise RecordNotFound(f"record {id!r} was deleted", id=id)
            if allow_stale and found is not None and found[0].stale is not None:
                body = self._store.read_stale(id_key)
                if body is not None:
                    return found[0].stale, body
        known = "exists, but is not held here" if entry is not None else "is not known to an index that is not complete"
        if is_outside:
            known = "is outside of the index scope"
        raise RecordUnavailable(f"record {id!r} {known}: {reason}", id=id)

    def _fetch(
        self, id_key: bytes, timeout_s: float, *, confirm: bool = False, all_leaves: bool = False
    ) -> Fetch:
        (fetch,) = self._replica.fetch([id_key], timeout_s, confirm, time.monotonic(), all_leaves=all_leaves)
        self._wake()
        if not self._workers.wait(lambda: fetch.is_done or self._is_closed(), timeout_s) or not fetch.is_done:
            self._replica.cancel_fetch(fetch)
        return fetch

    def prefetch(self, id_keys: Sequence[bytes], timeout_s: float) -> None:
        """Fetches at once what is not held of these, so that single reads find it here; failures are left to them."""
        with self._lock:
            if not self._replica.has_live_mirror or timeout_s <= 0:
                return
            wanted = []
            for id_key in id_keys:
                entry = self._store.find(id_key)
                if entry is not None and entry.is_live and not entry.is_fresh:
                    wanted.append(id_key)
            if not wanted:
                return
            fetches = self._replica.fetch(wanted, timeout_s, False, time.monotonic())
            self._wake()
            if not self._workers.wait(lambda: all(fetch.is_done for fetch in fetches), timeout_s):
                for fetch in fetches:
                    self._replica.cancel_fetch(fetch)

    def fetch_leaves(self, id_key: bytes, timeout_s: float) -> None:
        """Bodies of all leaves of this id are asked for; returns when they came or the time is over."""
        with self._lock:
            if self._replica.has_live_mirror and timeout_s > 0:
                self._fetch(id_key, timeout_s, all_leaves=True)

    @mended
    def read_leaf(self, id_key: bytes, leaf: Leaf) -> bytes | None:
        """The packed body of one leaf if it is held here."""
        with self._lock:
            entry = self._store.find(id_key)
            if entry is None or leaf not in entry.leaves:
                return None
            return self._store.read_body(id_key, entry.leaves.index(leaf))

    def read_base(self, id_key: bytes, leaves: Leaves) -> tuple[Leaf, bytes] | None:
        """The newest revision from which all these leaves descend and whose body is still here."""

        def is_base(found: Leaf) -> bool:
            version = Version(found.hlc, found.node)
            return found not in leaves and not found.deleted and all(is_in_past(version, leaf) for leaf in leaves)

        with self._lock:
            return self._store.read_superseded(id_key, is_base)

    def entries(self, low: bytes, high: bytes | None, limit: int) -> list[Entry]:
        """The first `limit` live ones that are not hidden; fewer: these were the last."""
        with self._lock:
            entries = self._store.entries(low, high, live_only=True, limit=limit)
            if not self._replica.scoping.is_hiding:
                return entries
            shown: list[Entry] = []
            while entries:
                shown += [entry for entry in entries if not self._replica.scoping.is_hidden(entry)]
                if len(shown) >= limit or len(entries) < limit:
                    break
                entries = self._store.entries(entries[-1].id_key + b"\0", high, live_only=True, limit=limit)
            return shown[:limit]

    @mended
    def doc_info(self, id_key: bytes, id: Hashable) -> DocInfo:
        with self._lock:
            entry = self._store.find(id_key)
            as_of = self._replica.as_of
            is_outside = self._replica.scoping.is_outside(id_key)
            if entry is None or (is_outside and self._replica.scoping.is_hidden(entry)):
                is_absent = self._replica.is_index_complete and not is_outside
                return DocInfo(id=id, state="absent" if is_absent else "unknown", as_of=as_of)
            winner = entry.winner
            held = winner if entry.is_fresh and not winner.deleted else entry.stale
            state: State
            if self._replica.is_pending(entry):
                state = "pending"
            elif is_outside:
                state = "unknown"
            elif winner.deleted:
                state = "deleted"
            elif entry.is_fresh:
                state = "fresh"
            else:
                state = "stale" if entry.stale is not None else "remote"
            return DocInfo(
                id=id, state=state, rev=rev_string(winner), held_rev=rev_string(held) if held else None,
                size=winner.size, conflicts=len(conflicts_of(entry.leaves)), as_of=as_of,
            )
