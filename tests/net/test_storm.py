"""Many nodes whose mirror is away: when they try again, in virtual time, with the real connection and no socket."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from mynosql.address import Address
from mynosql.net import outbound
from mynosql.net.options import Counters, NetOptions
from mynosql.net.outbound import Dial, World

NODES = 300


class Timer:
    """As reactor.Timer."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class VirtualTime:
    """Stands for the reactor and for the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._calls: list[tuple[float, int, Timer, Callable[[], None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self.now

    def call_at(self, due: float, function: Callable[[], None]) -> Timer:
        timer = Timer()
        self._count += 1
        heapq.heappush(self._calls, (due, self._count, timer, function))
        return timer

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            self.now, _, timer, function = heapq.heappop(self._calls)
            if not timer.is_cancelled:
                function()
        self.now = end


class Nobody:
    """Stands for the resolver and for the receiver: no host is found, and every attempt is written down."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self.attempts: list[float] = []

    def resolve(self, host: str, then: Callable[[tuple[str, ...], str], None]) -> None:
        self.attempts.append(self._time.now)
        then((), "nobody answers")

    def on_link_down(self, link: Any, reason: str) -> None:
        """Nothing is to be done."""


def attempts_per_tenth(attempts: list[float], start: float, seconds: float) -> list[int]:
    counts = [0] * round(seconds * 10)
    for at in attempts:
        if start <= at < start + seconds:
            counts[int((at - start) * 10)] += 1
    return counts


def test_three_hundred_nodes_find_their_mirror_again_within_seconds_and_not_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = VirtualTime()
    monkeypatch.setattr(outbound.time, "monotonic", time.monotonic)
    nobody = Nobody(time)
    absent: Any = None
    world: Any = World(
        context=absent, reactor=time, resolver=nobody, security=absent,  # type: ignore[arg-type]
        options=NetOptions(), counters=Counters(), receiver=nobody,  # type: ignore[arg-type]
    )
    world.random.seed(1)
    dials = [Dial(world, Address("mirror.example", 8800)) for _ in range(NODES)]
    time.run(700.0)  # pauses grow with the outage, up to 5 s after 10 minutes

    counts = attempts_per_tenth(nobody.attempts, time.now - 5.0, 5.0)
    assert sum(counts) >= NODES, "each tries at least once in 5 s: whoever is back is found within that"
    assert max(counts) <= NODES / 10, "in no tenth of a second more than a tenth of them"
    assert min(counts) >= 1
    assert sum(counts) <= 2 * NODES
    for dial in dials:
        dial.close()
    before = len(nobody.attempts)
    time.run(60.0)
    assert len(nobody.attempts) == before
