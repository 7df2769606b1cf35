"""What a mirror publishes: its changes as they become durable, and heartbeats that say how far they go.

Owns the announced seq, the pace of the heartbeats, and the choice of bodies that travel inline. With nobody listening
it does nothing and sets no timer. The rules stand in docs/PROTOCOL.md, "Publishing". Pure; driven by node.Node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from mynosql.row import Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.hub import Hub
from mynosql.sync.reconciling import WHOLE

RELAYED_MAX = 4096
"""Ranges of relayed changes that are remembered until they are published; beyond that bodies are left out."""


class Relayed(NamedTuple):
    """A range of our seqs that came from another mirror."""

    first: int
    last: int
    source: ms.Card | None
    """Who sent them, when they are here just as it has them: under this index id it learns nothing from them."""


class Publisher:
    """The publishing side of a mirror."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._announced = hub.durable
        """All up to here was published, or nobody was listening."""
        self._read = hub.durable
        """All up to here was read; above _announced there was nothing left to publish (superseded rows)."""
        self._is_reading = False
        self._relayed: deque[Relayed] = deque()
        """Our seqs of changes that came from other mirrors and are not published yet."""
        self._sources: deque[Relayed] = deque(maxlen=RELAYED_MAX)
        """The same of each batch that one mirror sent, published or not: the newest ones since we were opened."""
        self._changed_at = float("-inf")
        self._interval_s = hub.options.heartbeat_s

    def reset(self) -> None:
        """A new identity or mode: what follows starts from what is durable now."""
        self._announced = self._read = self._hub.durable
        self._is_reading = False
        self._relayed.clear()
        self._sources.clear()
        self._hub.timers.cancel("heartbeat")

    @property
    def next_ms(self) -> int:
        """What a Welcome promises: the first heartbeat comes within this time."""
        return int(self._hub.options.heartbeat_s * 1000)

    def on_audience(self) -> None:
        """Somebody new listens, from some moment on: a heartbeat soon shows what it missed before."""
        hub = self._hub
        self._interval_s = hub.options.heartbeat_s
        hub.timers.set_earlier("heartbeat", hub.now + hub.options.first_heartbeat_s, self._beat)

    def on_relayed(self, result: fx.Applied | fx.Failed, mirror: ms.Card | None) -> None:
        """Changes of another mirror got these seqs here: whoever takes our bodies gets them there as well.

        mirror: the one that sent them all, None when that is not known.
        """
        if not isinstance(result, fx.Applied) or not result.last_seq or not self._hub.is_mirror:
            return
        source = mirror if result.is_copy else None
        found = Relayed(result.first_seq, result.last_seq, source)
        if not _extend(self._relayed, found) and len(self._relayed) < RELAYED_MAX:
            self._relayed.append(found)
        if source is not None and not _extend(self._sources, found):
            self._sources.append(found)

    def without_its_own(self, rows: tuple[Row, ...], puller: ms.Card) -> tuple[Row, ...]:
        """Rows of our feed but those that came from that node: it has them."""
        ranges = self._from(puller)
        return tuple(row for row in rows if _range_at(ranges, row.seq) is None) if ranges else rows

    def skip_its_own(self, after: int, puller: ms.Card) -> int:
        """From where on the feed may hold what that node does not have."""
        found = _range_at(self._from(puller), after + 1)
        return after if found is None else found.last

    def _from(self, puller: ms.Card) -> list[Relayed]:
        # One that was restored, or lost its index, has another index id, and gets all again.
        return [found for found in self._sources if found.source and found.source.index_id == puller.index_id]

    def on_durable(self) -> None:
        """The newest durable seq moved: tell those who listen."""
        hub = self._hub
        if not hub.is_mirror:
            return
        if not hub.server.has_audience and not hub.server.has_tails:
            self._announced = self._read = hub.durable
            self._relayed.clear()
            return
        self._changed_at = hub.now
        if self._interval_s > hub.options.heartbeat_s and hub.server.has_audience:
            self._interval_s = hub.options.heartbeat_s
            hub.timers.set_earlier("heartbeat", hub.now + self._interval_s, self._beat)
        self._read_on()

    def _read_on(self) -> None:
        hub = self._hub
        if self._is_reading or hub.durable <= self._read:
            return
        until = hub.durable
        relayed = self._relayed[0] if self._relayed else None
        if relayed is not None and relayed.first > self._read + 1:
            relayed = None
        if relayed is not None and self._is_known_to_all(relayed):
            self._skip(min(relayed.last, until))
            return
        self._is_reading = True
        is_all_relayed = relayed is not None and relayed.last >= until
        if relayed is not None and relayed.source is not None:
            until = min(until, relayed.last)
        body_bytes_max = 0
        if hub.server.has_mirror_audience and not is_all_relayed:
            body_bytes_max = hub.options.publish_body_bytes_max
        after = self._read
        hub.ask(
            lambda token: fx.ReadFeed(
                token=token, after=after, until=until, bytes_max=hub.options.publish_bytes,
                body_bytes_max=body_bytes_max,
            ),
            self._on_feed,
        )

    def _is_known_to_all(self, relayed: Relayed) -> bool:
        """The mirror that these changes came from is the only one that listens."""
        server = self._hub.server
        return relayed.source is not None and not server.has_peer_audience and not server.has_tails and (
            server.is_only_mirror_audience(relayed.source.node)
        )

    def _skip(self, last: int) -> None:
        """The feed goes on behind what everybody who listens has: said in one message without rows."""
        self._publish(fx.Topic.BODIES, self._announced + 1, last, ())
        self._announced = self._read = last
        self._forget_read()
        self._read_on()

    def _forget_read(self) -> None:
        while self._relayed and self._relayed[0].last <= self._read:
            self._relayed.popleft()

    def _on_feed(self, result: fx.Feed | fx.Failed) -> None:
        hub = self._hub
        self._is_reading = False
        if isinstance(result, fx.Failed):
            return  # a subscriber sees the gap at the next heartbeat and asks
        if hub.server.has_tails:
            hub.server.tell_tails(self._read + 1, result.last, tuple(map(_without_bodies, result.rows)))
        self._read = result.last
        if result.rows:
            # From the one after the last announced, though nothing of that may be left: no gap is to be seen.
            first, last = self._announced + 1, result.last
            if hub.server.has_mirror_audience:
                self._publish(fx.Topic.BODIES, first, last, self._with_own_bodies(result.rows))
            if hub.server.has_peer_audience:
                self._publish(fx.Topic.ENTRIES, first, last, tuple(map(_without_bodies, result.rows)))
            self._announced = result.last
        self._forget_read()
        self._read_on()

    def _publish(self, topic: fx.Topic, first: int, last: int, rows: tuple[Row, ...]) -> None:
        message = ms.Changes(index_id=self._hub.index_id, first=first, last=last, rows=rows)
        self._hub.emit(fx.Publish(topic=topic, message=message))

    def _with_own_bodies(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """Bodies only where the change entered the mirrors here."""
        if not self._relayed:
            return rows
        return tuple(row if _range_at(self._relayed, row.seq) is None else _without_bodies(row) for row in rows)

    def _beat(self) -> None:
        hub = self._hub
        if not hub.is_mirror or not hub.server.has_audience:
            return
        options = hub.options
        if hub.now - self._changed_at < options.active_s:
            self._interval_s = options.heartbeat_s
        else:
            self._interval_s = min(self._interval_s * 1.5, options.heartbeat_s_max)
        hub.ask(lambda token: fx.ReadSums(token=token, question=WHOLE, is_urgent=False), self._publish_heartbeat)
        hub.timers.set("heartbeat", hub.now + self._interval_s, self._beat)

    def _publish_heartbeat(self, result: fx.Sums | fx.Failed) -> None:
        hub = self._hub
        total = b""
        if isinstance(result, fx.Sums) and result.answer is not None and result.head == hub.durable:
            total = result.answer.sums[0].total.to_bytes(16, "big")
        hub.emit(fx.Publish(topic=fx.Topic.HEARTBEAT, message=ms.Heartbeat(
            index_id=hub.index_id, head=hub.durable, next_ms=int(self._interval_s * 1000), is_filling=hub.is_filling,
            total=total,
        )))


def _extend(ranges: deque[Relayed], found: Relayed) -> bool:
    """The last of them goes on with this one; False: it is a range of its own."""
    if not ranges or ranges[-1].last + 1 != found.first or ranges[-1].source != found.source:
        return False
    ranges[-1] = ranges[-1]._replace(last=found.last)
    return True


def _range_at(ranges: Sequence[Relayed], seq: int) -> Relayed | None:
    """The range that seq is in; they are in order."""
    position = bisect_right(ranges, seq, key=attrgetter("first")) - 1
    return ranges[position] if position >= 0 and seq <= ranges[position].last else None


def _without_bodies(row: Row) -> Row:
    if row.bodies.count(None) == len(row.bodies):
        return row
    return row._replace(bodies=(None,) * len(row.bodies))
