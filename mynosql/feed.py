"""The feed of one node for its application: changes() as an iterator with a resumable token, onchange() as calls.

Owns the token's shape and the thread that calls back. A token names a point in this node's history: the index id and
the sequence number there. Driven by database.MyNoSQL.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from mynosql.errors import MyNoSQLError, NotOpen, OptionInvalid
from mynosql.idkey import all_range, prefix_range, unpack_id
from mynosql.opened import OpenDatabase
from mynosql.revision import rev_string
from mynosql.row import Row
from mynosql.views import Change

log = logging.getLogger("mynosql")

PAGE_BYTES = 64 << 10
"""Entries read at a time: a slice short enough that a save never waits for it."""


def pack_token(index_id: bytes, seq: int) -> str:
    """The token of the point after change `seq`."""
    return f"{index_id.hex()}-{seq}"


def parse_token(token: str, index_id: bytes) -> int:
    """The sequence number to go on after; 0 for a token of another index (a restored or rebuilt folder).

    Raises OptionInvalid for what no changes() ever gave.
    """
    name, _, seq = token.partition("-") if isinstance(token, str) else ("", "", "")
    if not name or not seq.isdecimal():
        raise OptionInvalid(f"since={token!r} is not a token: give the .token of a Change, or None for all changes")
    return int(seq) if name == index_id.hex() else 0


class Feed(Iterator[Change]):
    """An iterator over changes. `token` is the point reached: keep it, and go on from there after a restart."""

    def __init__(self, node: OpenDatabase, *, since: str | None, live: bool, prefix: str) -> None:
        self._node = node
        self._index_id = node.index_id
        self._after = 0 if since is None else parse_token(since, self._index_id)
        self._low, self._high = prefix_range(prefix) if prefix else all_range()
        self._is_live = live
        self._is_closed = False
        self._page: list[Row] = []

    @property
    def token(self) -> str:
        return pack_token(self._index_id, self._after)

    def close(self) -> None:
        """Ends the iteration; a thread that waits in it for the next change ends too."""
        self._is_closed = True
        self._node.notify()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Change:
        change = self.next_within(None) if self._is_live else self.next_within(0.0)
        if change is None:
            raise StopIteration
        return change

    def next_within(self, timeout_s: float | None) -> Change | None:
        """The next change, waiting up to timeout_s seconds for it; None when there was none, or after close()."""
        while not self._is_closed:
            if self._page:
                row = self._page.pop()
                self._after = row.seq
                leaf = row.leaves[0]
                return Change(
                    id=unpack_id(row.id_key), rev=rev_string(leaf), deleted=leaf.deleted,
                    token=pack_token(self._index_id, row.seq),
                )
            piece = self._node.feed_page(self._after, PAGE_BYTES, self._low, self._high)
            self._page = list(reversed(piece.rows))
            if not self._page:
                self._after = max(self._after, piece.last_seq)
                if not piece.more and not self._node.wait_change(self._after, timeout_s, lambda: self._is_closed):
                    return None
        return None


class Watchers:
    """The callbacks of one open database and the one thread that calls them, started with the first."""

    def __init__(self, node: OpenDatabase) -> None:
        self._node = node
        self._calls: dict[int, tuple[str, Callable[[Change], None]]] = {}
        self._next_key = 0
        self._feed: Feed | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, node: OpenDatabase) -> Watchers:
        """The watchers of this database, made with the first call."""
        with node.lock:
            if node.watchers is None:
                watchers = cls(node)
                node.watchers = watchers
                node.on_close(watchers.stop)
            return node.watchers  # type: ignore[no-any-return]

    def add(self, fn: Callable[[Change], None], prefix: str) -> Callable[[], None]:
        """fn is called for the changes from now on; returns what ends it."""
        if not callable(fn):
            raise OptionInvalid(f"onchange needs a function, got {type(fn).__name__}")
        with self._node.lock:
            key = self._next_key
            self._next_key += 1
            self._calls[key] = (prefix, fn)
            if self._thread is None:
                since = pack_token(self._node.index_id, self._node.store.head_seq)
                self._feed = Feed(self._node, since=since, live=True, prefix="")
                self._thread = threading.Thread(target=self._run, name="mynosql-onchange", daemon=True)
                self._thread.start()

        def end() -> None:
            self._calls.pop(key, None)

        return end

    def stop(self) -> None:
        """No callback runs after this, unless it is called from one."""
        if self._feed is not None:
            self._feed.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        assert self._feed is not None
        try:
            for change in self._feed:
                for prefix, fn in list(self._calls.values()):
                    if not prefix or (isinstance(change.id, str) and change.id.startswith(prefix)):
                        self._call(fn, change)
        except NotOpen:
            return
        except MyNoSQLError as error:
            self._node.on_background_error(error)

    def _call(self, fn: Callable[[Change], None], change: Change) -> None:
        try:
            fn(change)
        except Exception as error:
            log.exception("an onchange function raised for %r", change.id)
            self._node.on_background_error(error)
