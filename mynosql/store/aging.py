"""What was read leaves memory when nobody has asked for it for a minute or two. Memory only; no disk, no lock.

Every AGE_S the caches let go what has not been asked for since the last time. Somebody has to come round for that only
while something is kept: begin() says when that begins. Driven by Store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mynosql.store.cache import Cache

AGE_S = 60.0


class Aging:
    """The age of what these caches hold."""

    def __init__(self, caches: Sequence[Cache[Any, Any]]) -> None:
        self.on_begun: Callable[[], None] = lambda: None
        """Something is kept from now on: next_due() is to be asked again."""
        self._caches = caches
        self._is_begun = False
        self._due: float | None = None

    def begin(self) -> None:
        """Something may have been put into a cache."""
        if not self._is_begun:
            self._is_begun = True
            self.on_begun()

    def next_due(self, now: float) -> float | None:
        """When age() is worth calling; None: nothing is kept."""
        if self._is_begun and self._due is None:
            self._due = now + AGE_S
        return self._due

    def age(self, now: float) -> bool:
        """What was not asked for since the last time is let go, if it is time for that. True: it was time."""
        if self._due is None or now < self._due:
            return False
        for cache in self._caches:
            cache.age()
        self._is_begun = any(len(cache) for cache in self._caches)
        self._due = now + AGE_S if self._is_begun else None
        return True
