"""What a mirror refused, for its application: the list of it, and the functions that are told of each.

Owns the thread that calls back; what was refused is remembered by sync.memory. Driven by database.MyNoSQL.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from mynosql.errors import MyNoSQLError, OptionInvalid
from mynosql.idkey import unpack_id
from mynosql.opened import OpenDatabase
from mynosql.revision import rev_string
from mynosql.row import Entry
from mynosql.sync.memory import Rejected
from mynosql.views import Rejection

log = logging.getLogger("mynosql")


def rejections_of(node: OpenDatabase) -> list[Rejection]:
    """What was refused and is still so, oldest change first."""
    found = node.rejections()
    return [_rejection(node, *found[seq]) for seq in sorted(found)]


def _rejection(node: OpenDatabase, entry: Entry, rejected: Rejected) -> Rejection:
    ours = [leaf for leaf in entry.leaves if leaf.node == node.node_id] or [entry.winner]
    newest = max(ours, key=lambda leaf: leaf.hlc)
    return Rejection(
        id=unpack_id(entry.id_key), rev=rev_string(newest), code=rejected.code, reason=rejected.text,
    )


class RejectWatchers:
    """The callbacks of one open database and the one thread that calls them, started with the first."""

    def __init__(self, node: OpenDatabase) -> None:
        self._node = node
        self._calls: dict[int, tuple[Callable[[Rejection], None], set[int]]] = {}
        """Each function with the seqs that it has been told of."""
        self._next_key = 0
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, node: OpenDatabase) -> RejectWatchers:
        """The watchers of this database, made with the first call."""
        with node.lock:
            if node.reject_watchers is None:
                watchers = cls(node)
                node.reject_watchers = watchers
                node.on_close(watchers.stop)
            return node.reject_watchers  # type: ignore[no-any-return]

    def add(self, fn: Callable[[Rejection], None]) -> Callable[[], None]:
        """fn is called for what was refused and for what will be; returns what ends it."""
        if not callable(fn):
            raise OptionInvalid(f"onreject needs a function, got {type(fn).__name__}")
        with self._node.lock:
            key = self._next_key
            self._next_key += 1
            self._calls[key] = (fn, set())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mynosql-onreject", daemon=True)
                self._thread.start()
        self._node.notify()

        def end() -> None:
            self._calls.pop(key, None)

        return end

    def stop(self) -> None:
        """No function is called after this, unless it is called from one."""
        self._is_stopping = True
        self._node.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                seqs, found = self._node.wait_rejections(self._is_new, lambda: self._is_stopping)
                for fn, told in list(self._calls.values()):
                    for seq in sorted(found.keys() - told):
                        if self._is_stopping:
                            return
                        self._call(fn, *found[seq])
                    told.clear()
                    told.update(seqs)
                if self._is_stopping or self._node.is_closed:
                    return
        except MyNoSQLError as error:
            self._node.on_background_error(error)

    def _is_new(self, seqs: Collection[int]) -> bool:
        return any(not told.issuperset(seqs) for _, told in self._calls.values())

    def _call(self, fn: Callable[[Rejection], None], entry: Entry, rejected: Rejected) -> None:
        try:
            fn(_rejection(self._node, entry, rejected))
        except Exception as error:
            log.exception("an onreject function raised for %r", entry.id_key)
            self._node.on_background_error(error)
