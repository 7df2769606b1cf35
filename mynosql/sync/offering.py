"""Offering what we hold to a mirror: all of it to an index met for the first time, later what came since we were there.

The mirror may be new, rebuilt or restored; or the one that we followed meanwhile is gone and told nobody what it had.
Digests of what is held and not owed are compared, page by page; what the mirror lacks is pushed as it is held. The
outbox brings what is owed. The rules stand in docs/PROTOCOL.md, "Offer". Pure; begun by pushing.Outbox when all of the
mirror's feed is here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mynosql.errors import PeerError
from mynosql.idkey import id_hash
from mynosql.revision import entry_digest
from mynosql.row import Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.dialling import Dialled
from mynosql.sync.hub import Hub
from mynosql.sync.receiving import ALL_BYTES, without_leaves


class Offering:
    """One pass over what we hold."""

    def __init__(
        self, hub: Hub, dialled: Dialled, *, after_seq: int, taken_seq: int, on_done: Callable[[int], None],
        also: tuple[bytes, ...] = (),
    ) -> None:
        """after_seq: our changes up to it need not be offered; 0: all is. taken_seq: what is owed above it is pushed.

        also: id keys that are offered whatever their seq. on_done: told up to which seq all that is held was offered.
        """
        self._hub = hub
        self._dialled = dialled
        self._on_done = on_done
        self._is_all = after_seq == 0
        self._also = also
        self._after_seq = after_seq
        self._taken_seq = taken_seq
        self._until_seq = hub.durable
        self._after_key = b""
        self._page: tuple[fx.Offered, ...] = ()
        self._wanted: tuple[bytes, ...] = ()
        """Id keys that are still to be pushed."""
        self._request = 0
        """Of the Offer or Push that waits for its answer."""
        self._pushed_count = 0
        """How many of _wanted the Push under way covers."""
        self._pushed_keys: tuple[bytes, ...] = ()
        """Id keys of its rows."""
        self._is_closed = False

    def close(self) -> None:
        """The conversation is over; the next one begins anew."""
        self._is_closed = True
        self._hub.timers.cancel("offer")

    def start(self) -> None:
        self._next_page()

    def _next_page(self) -> None:
        hub = self._hub
        self._page = ()
        if self._is_all:
            hub.ask(
                lambda token: fx.ReadOffers(
                    token=token, after_key=self._after_key, limit=hub.options.offer_count,
                    until_seq=hub.memory.delivered,
                ),
                self._on_page,
            )
        elif self._after_seq < self._until_seq:
            hub.ask(
                lambda token: fx.ReadFeed(
                    token=token, after=self._after_seq, until=self._until_seq, bytes_max=hub.options.offer_bytes,
                    body_bytes_max=0,
                ),
                self._on_feed,
            )
        elif self._also:
            also, self._also = self._also, ()
            hub.ask(
                lambda token: fx.ReadBodies(token=token, id_keys=also, body_bytes_max=0, bytes_max=ALL_BYTES),
                partial(self._on_entries, self._after_seq),
            )
        else:
            self._end()

    def _on_page(self, result: fx.Offers | fx.Failed) -> None:
        if self._is_closed:
            return
        if isinstance(result, fx.Failed):
            self.arm()
        elif result.offers:
            self._after_key = result.offers[-1].id_key
            self._page = result.offers
            self._offer()
        else:
            self._end()

    def _on_feed(self, result: fx.Feed | fx.Failed) -> None:
        """What is owed and not taken yet is left to the outbox, and of the rest only what is held is offered."""
        if self._is_closed:
            return
        if isinstance(result, fx.Failed):
            self.arm()
            return
        id_keys = tuple(row.id_key for row in result.rows if not row.owed or row.seq <= self._taken_seq)
        if not id_keys:
            self._after_seq = result.last
            self._next_page()
            return
        self._hub.ask(
            lambda token: fx.ReadBodies(token=token, id_keys=id_keys, body_bytes_max=0, bytes_max=ALL_BYTES),
            partial(self._on_entries, result.last),
        )

    def _on_entries(self, last: int, result: fx.Held | fx.Failed) -> None:
        if self._is_closed:
            return
        if isinstance(result, fx.Failed):
            self.arm()
            return
        self._after_seq = last
        self._page = tuple(
            fx.Offered(found.row.id_key, id_hash(found.row.id_key), entry_digest(*found.row[:2])[:8])
            for found in result.rows if found is not None and found.held
        )
        if self._page:
            self._offer()
        else:
            self._next_page()

    def _end(self) -> None:
        self._hub.timers.cancel("offer")
        self._on_done(self._until_seq)

    def _offer(self) -> None:
        self._wanted = ()
        self._request = self._hub.request()
        self._hub.send(self._dialled.link, ms.Offer(
            request=self._request,
            items=tuple(ms.OfferItem(offered.id_hash, offered.digest) for offered in self._page),
        ))
        self.arm()

    def on_want(self, message: ms.Want) -> None:
        if message.request != self._request:
            return
        if any(position >= len(self._page) for position in message.positions):
            raise PeerError("Want names more than was offered")
        self._wanted = tuple(self._page[position].id_key for position in message.positions)
        self._push_next()

    def _push_next(self) -> None:
        if not self._wanted:
            self._next_page()
            return
        hub = self._hub
        hub.ask(
            lambda token: fx.ReadBodies(
                token=token, id_keys=self._wanted, body_bytes_max=hub.options.inline_bytes_max,
                bytes_max=hub.options.push_bytes,
            ),
            self._on_held,
        )

    def _on_held(self, result: fx.Held | fx.Failed) -> None:
        if self._is_closed:
            return
        if isinstance(result, fx.Failed):
            self.arm()
            return
        hub = self._hub
        self._pushed_count = len(result.rows)
        rows = tuple(row for row in map(_as_held, result.rows) if row is not None)
        if not rows:
            self._on_pushed()
            return
        self._pushed_keys = tuple(row.id_key for row in rows)
        self._request = hub.request()
        hub.send(self._dialled.link, ms.Push(
            request=self._request, index_id=hub.index_id, first=0, last=0, rows=rows,
        ))
        self.arm()

    def on_ack(self, message: ms.Ack) -> bool:
        """True when this Ack was meant for us."""
        if message.request != self._request:
            return False
        self._settle_rejected(message)
        refused = [refusal for refusal in message.refused if refusal.code != "body-missing"]  # replaced meanwhile
        for refusal in refused:
            if refusal.position < len(self._pushed_keys):
                self._hub.outbox.set_aside(self._pushed_keys[refusal.position], refusal)
        if refused:
            self._hub.fail(PeerError(
                f"{self._dialled.address}: {len(refused)} of the records that it lacks were refused: {refused[0].text}"
            ))
        self._on_pushed()
        return True

    def _settle_rejected(self, message: ms.Ack) -> None:
        """What another mirror refused was taken by this one."""
        not_taken = {refusal.position for refusal in message.refused}
        taken = {key for position, key in enumerate(self._pushed_keys) if position not in not_taken}
        if self._hub.memory.rejected and self._hub.memory.settle_rejected(taken):
            self._hub.announce(fx.Kind.REJECTED)

    def _on_pushed(self) -> None:
        self._wanted = self._wanted[self._pushed_count :]
        self._push_next()

    def arm(self) -> None:
        """Without an answer this page is offered again."""
        hub = self._hub
        hub.timers.set("offer", hub.now + hub.jitter(hub.options.push_retry_s), self._again)

    def _again(self) -> None:
        if self._page:
            self._offer()
        else:
            self._next_page()


def _as_held(found: fx.HeldRow | None) -> Row | None:
    """The row with the leaves whose bodies we hold; None: nothing to give."""
    if found is None:
        return None
    row, held = found
    gone = [leaf for position, leaf in enumerate(row.leaves) if not held >> position & 1]
    return without_leaves(row, gone) if gone else row
