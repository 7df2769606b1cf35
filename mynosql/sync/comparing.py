"""Finding what differs from a mirror by ranges of the id hash, instead of pulling all of its feed.

Owns one comparison over one conversation: the questions to it and to our own store, and the entries that it has and we
have not. What becomes of them is for following.Follower to say. The rules stand in docs/PROTOCOL.md, "Comparing"; the
descent is reconciling.Comparison. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mynosql.errors import PeerError
from mynosql.row import Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.dialling import Dialled
from mynosql.sync.hub import Hub
from mynosql.sync.reconciling import WHOLE, Comparison, Item
from mynosql.sync.wire import HASHES_MAX

VERSION = 2
"""The first protocol version with Compare."""


class Difference(NamedTuple):
    """What a comparison found."""

    head: int
    """All of the mirror's changes up to here are in `rows`, or were here."""
    rows: tuple[Row, ...]
    """Entries of the mirror that we have not, or have with other leaves."""
    only_here: tuple[bytes, ...]
    """Id keys of ours that it has not, or has with other leaves."""
    until: int
    """only_here speaks of our changes up to this seq."""


class Pair(NamedTuple):
    """The sums over two whole indexes."""

    theirs: int
    ours: int


class Doubts:
    """Notices that both nodes have all changes of each other and their sums differ, twice the same."""

    def __init__(self, hub: Hub, card: ms.Card, compare: Callable[[], None]) -> None:
        self._hub = hub
        self._card = card
        self._compare = compare
        self._odd: Pair | None = None

    def check(self, total: bytes) -> None:
        """The mirror's sum, of an index of which all is here."""
        hub = self._hub
        known = hub.memory.confirmed.get(self._card.node, 0) if hub.is_mirror else hub.memory.acked
        if total and known >= hub.durable:
            hub.ask(
                lambda token: fx.ReadSums(token=token, question=WHOLE, is_urgent=False),
                lambda result: self._on_ours(int.from_bytes(total, "big"), result),
            )

    def _on_ours(self, theirs: int, result: fx.Sums | fx.Failed) -> None:
        if isinstance(result, fx.Failed) or result.answer is None or result.head != self._hub.durable:
            return
        pair = Pair(theirs, result.answer.sums[0].total)
        if pair.theirs == pair.ours:
            self._odd = None
        elif self._odd != pair:
            self._odd = pair
        elif self._is_worth(pair):
            self._hub.followers.doubted[self._card.index_id] = self._hub.now, pair
            self._compare()

    def _is_worth(self, pair: Pair) -> bool:
        """These sums were not compared before, and no others just now."""
        last = self._hub.followers.doubted.get(self._card.index_id)
        return last is None or (last[1] != pair and self._hub.now >= last[0] + self._hub.options.compare_rest_s)


class Comparing:
    """Our side of one comparison with the mirror of a dial."""

    def __init__(
        self, hub: Hub, dialled: Dialled, index_id: bytes, on_done: Callable[[Difference | None], None]
    ) -> None:
        """on_done: told what differs; None: too much, or no answer came: the feed is to be pulled."""
        self._hub = hub
        self._dialled = dialled
        self._index_id = index_id
        self._on_done = on_done
        self._comparison = Comparison(differences_max=hub.options.compare_differences_max)
        self._began = hub.now
        self._head: int | None = None
        self._until = 0
        self._keys: dict[Item, bytes] = {}
        self._hashes: list[int] = []
        """Id hashes of entries that are still to be fetched."""
        self._rows: list[Row] = []
        self._request = 0
        self._is_closed = False

    def start(self) -> None:
        self._until = self._hub.durable
        self._ask()

    def close(self) -> None:
        """The conversation is over."""
        self._is_closed = True
        self._hub.timers.cancel(("compare", self._dialled.address))

    def _end(self, found: Difference | None) -> None:
        self.close()
        self._on_done(found)

    def _send(self, message: ms.Compare | ms.Lookup) -> None:
        self._request = message.request
        self._hub.send(self._dialled.link, message)
        self._arm(self._hub.options.pull_retry_s, self._give_up)

    def _arm(self, wait_s: float, call: Callable[[], None]) -> None:
        self._hub.timers.set(("compare", self._dialled.address), self._hub.now + self._hub.jitter(wait_s), call)

    def _give_up(self) -> None:
        self._end(None)

    # Sums

    def _ask(self) -> None:
        self._send(ms.Compare(
            request=self._hub.request(), index_id=self._index_id, question=self._comparison.question
        ))

    def on_sums(self, message: ms.Sums) -> None:
        if message.request != self._request or message.index_id != self._index_id:
            return
        self._request = 0
        if message.answer is None:
            self._wait()
            return
        theirs = message.answer
        if self._head is None:
            self._head = message.head
        question = self._comparison.question

        def compare(ours: fx.Sums | fx.Failed) -> None:
            if self._is_closed:
                return
            if isinstance(ours, fx.Failed):
                self._end(None)
            elif ours.answer is None:
                self._wait()
            else:
                self._keys.update(ours.keys)
                try:
                    self._comparison.take(ours.answer, theirs)
                except ValueError as error:
                    raise PeerError(f"{self._dialled.address}: {error}") from error
                self._go_on()

        self._hub.ask(lambda token: fx.ReadSums(token=token, question=question, is_urgent=True), compare)

    def _wait(self) -> None:
        """One of us is still counting."""
        options = self._hub.options
        if self._hub.now - self._began >= options.compare_wait_s:
            self._end(None)
        else:
            self._arm(options.compare_retry_s, self._ask)

    def _go_on(self) -> None:
        comparison = self._comparison
        if not comparison.is_done:
            self._ask()
        elif comparison.is_given_up:
            self._end(None)
        else:
            if comparison.equal_lists and not comparison.only_here and not comparison.only_there:
                self._hub.emit(fx.CountAgain())
            self._hashes = sorted({item.id_hash for item in comparison.only_there})
            self._look_up()

    # Entries

    def _look_up(self) -> None:
        if self._hashes:
            self._send(ms.Lookup(request=self._hub.request(), id_hashes=tuple(self._hashes[:HASHES_MAX])))
            return
        only_here = tuple(self._keys[item] for item in self._comparison.only_here if item in self._keys)
        self._end(Difference(self._head or 0, tuple(self._rows), only_here, self._until))

    def on_found(self, message: ms.Found) -> None:
        if message.request != self._request:
            return
        self._request = 0
        self._rows += message.rows
        self._hashes = self._hashes[HASHES_MAX:]
        self._look_up()
