"""Virtual time: one queue of events, one clock that jumps from event to event, one seeded generator for chance.

Knows nothing of nodes or networks; both put their events here. Driven by run.Run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

EVENTS_MAX = 400_000
"""A run takes some thousands: more is two nodes that keep each other busy for ever."""


class TooBusy(AssertionError):
    """More happened than a mesh that comes to rest would do."""


class Time:
    """The events to come, in order of their time, then of being planned."""

    def __init__(self, seed: object) -> None:
        self.now = 0.0
        self.rng = Random(f"time {seed}")
        self.count = 0
        """Events so far."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0

    def at(self, due: float, call: Callable[[], None]) -> None:
        """call() happens then; now, if that has passed."""
        self._planned += 1
        heapq.heappush(self._events, (due, self._planned, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.at(self.now + delay_s, call)

    def run(self, seconds: float) -> None:
        """That much time passes."""
        end = self.now + seconds
        events = self._events
        while events and events[0][0] <= end:
            self._next()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, within_s: float, every_s: float = 0.0) -> bool:
        """Time passes until the condition holds (True) or within_s is over (False).

        every_s: ask only so often; 0: after each event.
        """
        end = self.now + within_s
        while not condition():
            if self.now >= end:
                return False
            if every_s:
                self.run(min(every_s, end - self.now))
            elif self._events and self._events[0][0] <= end:
                self._next()
            else:
                self.now = end
        return True

    def _next(self) -> None:
        due, _, call = heapq.heappop(self._events)
        if due > self.now:
            self.now = due
        self.count += 1
        if self.count > EVENTS_MAX:
            raise TooBusy(f"{EVENTS_MAX} events: somebody keeps somebody busy for ever")
        call()
