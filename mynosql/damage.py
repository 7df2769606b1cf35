"""What damage took from this node's disk, until the node's conversations have been told of it.

Owns when mending is tried again, and what was given up meanwhile. Memory only; the mending itself is the store's
(store/mending.py), the telling the node's. Driven by replica.Replica.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from mynosql.errors import StorageCorrupt, StorageError
from mynosql.row import Entry
from mynosql.store.mending import Mended
from mynosql.store.store import Store

MEND_REST_S = 1.0
"""A job of the background, or the disk, was in the way: mending is tried again then."""

P = ParamSpec("P")
T = TypeVar("T")


class Mending(Protocol):
    """Has methods that may meet damage."""

    def mend(self, error: StorageCorrupt | None) -> bool:
        """What the error is about was given up, to be fetched again: True, the call is worth another try."""
        ...


M = TypeVar("M", bound=Mending)


def mended(method: Callable[Concatenate[M, P], T]) -> Callable[Concatenate[M, P], T]:
    """Once more, when damage that the call met was given up since others have what it took."""

    @wraps(method)
    def call(self: M, /, *arguments: P.args, **options: P.kwargs) -> T:
        try:
            return method(self, *arguments, **options)
        except StorageCorrupt as error:
            if not self.mend(error):
                raise
            return method(self, *arguments, **options)

    return call


class Damage:
    """The damage of one store."""

    def __init__(self, store: Store, is_owed: Callable[[Entry], bool]) -> None:
        """is_owed: no other disk has that entry's bodies: they are not given up."""
        self._store, self._is_owed = store, is_owed
        self._id_keys: list[bytes] = []
        self._has_lost_rows = False
        self._mend_after = float("-inf")

    def is_due(self, now: float) -> bool:
        """There is damage, and time to mend it."""
        return self._store.is_damaged and now >= self._mend_after

    def next_due(self, now: float, *, has_others: bool) -> float | None:
        """When mend() or take() is worth calling; None: not before something happens."""
        if self._id_keys or self._has_lost_rows:
            return now
        return max(now, self._mend_after) if self._store.is_damaged and has_others else None

    def mend(self, now: float) -> Mended | None:
        """What is damaged is given up; None: not now, is_due() says when. Raises StorageError."""
        try:
            mended = self._store.mend(self._is_owed)
        except StorageError:
            self._mend_after = now + MEND_REST_S
            raise
        if mended is None:
            self._mend_after = now + MEND_REST_S
            return None
        self._id_keys += mended.id_keys
        self._has_lost_rows |= bool(mended.rows_dropped)
        return mended

    def take(self) -> tuple[list[bytes], bool]:
        """What was given up since this was asked last: ids without their bodies, and whether rows are unknown now."""
        taken = self._id_keys, self._has_lost_rows
        self._id_keys, self._has_lost_rows = [], False
        return taken
