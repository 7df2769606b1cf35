"""Which mirror answers fastest, and which has least to do: a peer measures others now and then.

Owns what was measured and the measurement under way: three Pings each to the mirror that is followed and to one other,
whose Pongs also tell how many nodes each serves. Whom to follow is choosing.Chooser's. The rules stand in
docs/PROTOCOL.md, "Choosing a mirror". Pure.
"""

from __future__ import annotations

from mynosql.address import Address
from mynosql.sync import messages as ms
from mynosql.sync.dialling import Dialled, Purpose
from mynosql.sync.hub import Hub


class Measured:
    """Pings to one mirror."""

    def __init__(self, dialled: Dialled, count: int) -> None:
        self.dialled = dialled
        self.left = count
        self.number = 0
        """Of the Ping that is open."""
        self.sent_at = 0.0
        self.shortest_s = float("inf")
        self.load = 0


class Surveyor:
    """Measures for a peer; does nothing on a mirror, or where no other mirror is known."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._round_trips_s: dict[Address, float] = {}
        self._probed: Dialled | None = None
        self._measured: list[Measured] = []
        self._turn = 0

    # Readings

    def is_slow(self, address: Address) -> bool:
        """Another mirror was measured to answer much sooner."""
        known = self._round_trips_s
        return address in known and self._is_much_sooner(min(known.values()), known[address])

    def _is_much_sooner(self, one_s: float, other_s: float) -> bool:
        return one_s < other_s / 2 and other_s - one_s > self._hub.options.sooner_s_min

    # When

    def plan(self) -> None:
        """A mirror is followed: others are measured, soon those that never were."""
        hub = self._hub
        if hub.timers.is_set("survey") or self._probed is not None or not self._others():
            return
        is_news = any(address not in self._round_trips_s for address in self._answering())
        wait_s = hub.options.survey_first_s if is_news else hub.options.survey_s
        hub.timers.set("survey", hub.now + hub.jitter(wait_s), self._begin)

    def stop(self) -> None:
        """This node is no peer any more, or ends."""
        self._hub.timers.cancel("survey")
        self._probed = None
        self._measured.clear()

    def forget(self, address: Address) -> None:
        """It failed: what was measured does not count any more."""
        self._round_trips_s.pop(address, None)

    def _others(self) -> list[Address]:
        followed = self._hub.strategy.followed
        if self._hub.is_mirror or followed is None:
            return []
        return [address for address in self._hub.members.candidates() if address != followed.address]

    def _answering(self) -> list[Address]:
        """One that fails cannot be measured, and is no reason to measure the others sooner."""
        return [address for address in self._others() if not self._hub.strategy.is_failing(address)]

    def _begin(self) -> None:
        hub, followed = self._hub, self._hub.strategy.followed
        others = self._answering()
        if followed is None or not followed.is_ready or not others:
            self.plan()
            return
        news = [address for address in others if address not in self._round_trips_s]
        address = (news or others)[self._turn % len(news or others)]
        self._turn += 1
        self._probed = hub.dials.open(address, Purpose.SURVEY)
        hub.timers.set("survey", hub.now + hub.options.connect_s_max, self._on_no_answer)
        if self._probed.is_ready:
            self.on_ready(self._probed)

    def _on_no_answer(self) -> None:
        """It is slower than any, until it answers."""
        if self._probed is not None:
            self._round_trips_s[self._probed.address] = float("inf")
        self._end()

    # Measuring

    def on_ready(self, dialled: Dialled) -> None:
        """A mirror has welcomed us."""
        if self._round_trips_s.get(dialled.address) == float("inf"):
            self.forget(dialled.address)
        followed = self._hub.strategy.followed
        if dialled is self._probed and followed is not None and not self._measured:
            count = self._hub.options.survey_pings
            self._measured = [Measured(followed, count), Measured(dialled, count)]
            for measured in self._measured:
                self._ping(measured)

    def _ping(self, measured: Measured) -> None:
        measured.number = self._hub.request()
        measured.sent_at = self._hub.now
        measured.left -= 1
        self._hub.send(measured.dialled.link, ms.Ping(number=measured.number))

    def on_pong(self, dialled: Dialled, message: ms.Pong) -> None:
        """One answer; after the last of both the better one is known."""
        for measured in self._measured:
            if measured.dialled is dialled and measured.number == message.number:
                measured.shortest_s = min(measured.shortest_s, self._hub.now - measured.sent_at)
                measured.load = message.load
                if measured.left:
                    self._ping(measured)
                else:
                    measured.number = 0
                break
        if self._measured and all(not measured.number for measured in self._measured):
            self._judge()

    def _judge(self) -> None:
        followed, other = self._measured
        for measured in self._measured:
            self._round_trips_s[measured.dialled.address] = measured.shortest_s
        is_better = self._is_better(followed, other)
        self._end()
        if is_better:
            self._hub.strategy.prefer(other.dialled.address)

    def _is_better(self, followed: Measured, other: Measured) -> bool:
        hub = self._hub
        if other.dialled.node is not None and hub.members.is_filling(other.dialled.node):
            return False
        if self._is_much_sooner(other.shortest_s, followed.shortest_s):
            return True
        if self._is_much_sooner(followed.shortest_s, other.shortest_s):
            return False
        if 2 * followed.load <= 3 * other.load + 2 * hub.options.load_spread_min:
            return False
        # All who see the same must not leave together: so many go that both have the same afterwards.
        return hub.rng.random() < (followed.load - other.load) / (2 * followed.load)

    def on_lost(self, dialled: Dialled) -> None:
        """The measurement under way is over if it was of that one."""
        if dialled is self._probed:
            self._on_no_answer()
        elif any(measured.dialled is dialled for measured in self._measured):
            self._end()

    def _end(self) -> None:
        hub, dialled = self._hub, self._probed
        self._measured.clear()
        self._probed = None
        hub.timers.cancel("survey")
        if dialled is not None:
            hub.dials.release(dialled, Purpose.SURVEY)
        self.plan()
