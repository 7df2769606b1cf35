"""The outbox of a peer: what it wrote goes to the mirror that it follows, in batches with credit, until acknowledged.

Owns the seq up to which everything owed is delivered; rows lie in the store, never here. Also starts the offers to an
index that is met for the first time (offering.Offering). The rules stand in docs/PROTOCOL.md, "Push". Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice

from mynosql.errors import PeerError
from mynosql.row import Leaves, Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.comparing import Difference
from mynosql.sync.confirming import Confirming
from mynosql.sync.dialling import Dialled
from mynosql.sync.hub import Hub
from mynosql.sync.memory import Cursor, Rejected, Taken
from mynosql.sync.offering import Offering
from mynosql.sync.receiving import ALL_BYTES, bare_leaves, held_leaves, without_leaves
from mynosql.sync.wire import PUSH_ROWS_MAX

FOUND_MAX = 1024
"""Ids that are remembered to be offered because another mirror had them; of more the oldest are left to the mirrors."""
ECHOES_MAX = 16_384
"""Rows that were pushed and are expected back: of more, the older half is applied again when it comes."""
ROW_BYTES = 100
"""What a row counts for besides its bodies."""


@dataclass(slots=True)
class Batch:
    """One Push under way."""

    request: int
    last: int
    spent_bytes: int
    keys: tuple[tuple[bytes, int], ...]
    """Id key and seq of each row."""
    is_acked: bool = False
    seq: int = 0
    """Once acknowledged: the mirror's seq that its rows stand at or below."""


class Outbox:
    """What this node still owes to the mirrors."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._dialled: Dialled | None = None
        self._sent = 0
        """All owed rows up to here are taken by the mirror or in flight."""
        self._acked = Taken(0, 0)
        """What the mirror has taken."""
        self._confirming = Confirming(hub, self._on_delivered)
        self._is_skipping = False
        """A row that is owed had nothing to send: the store counts it as pending until it hears of the new seq."""
        self._flight: deque[Batch] = deque()
        self._reading = 0
        """Which reading is under way; 0: none. A result for another one is of an older conversation."""
        self._readings = 0
        self._tries = 0
        self._offering: Offering | None = None
        self._found: dict[bytes, None] = {}
        """Ids that another mirror had when this one did not, oldest first."""
        self._compared: tuple[bytes, Difference] | None = None
        """What was found to differ from the index with that id: no more than that has to be offered to it."""
        self._is_offered = False
        """The mirror has been offered all that we hold: from here on it has whatever it took."""
        self._echoes: dict[bytes, Leaves] = {}
        """By id key what was pushed last, until it comes back as a change of the mirror."""

    def on_start(self) -> None:
        """Fewer mirrors may be asked for than at the last opening: what one has taken counts from now on."""
        memory = self._hub.memory
        if self._hub.acks == 1 and memory.acked > memory.delivered:
            memory.set_delivered(memory.acked, is_kept=True)

    # Whom it goes to

    def attach(self, dialled: Dialled) -> None:
        """That mirror takes the outbox from here on; what was not acknowledged is sent again."""
        self._dialled = dialled
        self._tries = 0
        self._is_offered = False
        self._compared = None
        self._begin()
        self._confirming.attach(dialled)

    def detach(self, dialled: Dialled) -> None:
        """That mirror takes no more."""
        if self._dialled is dialled:
            self._note_offered()
            self._dialled = None
            self._flight.clear()
            self._reading = 0
            self._hub.timers.cancel("push")
            self._confirming.detach()
            if self._offering is not None:
                self._offering.close()
                self._offering = None

    def _begin(self) -> None:
        memory = self._hub.memory
        taken = memory.taken.get(self._index_id, Taken(0, 0))
        self._acked = Taken(max(memory.delivered, taken.seq), taken.theirs)
        self._sent = self._acked.seq
        self._flight.clear()
        self._reading = 0
        self._read_on()

    @property
    def _index_id(self) -> bytes:
        """Of the mirror that takes the outbox."""
        card = self._dialled.card if self._dialled is not None else None
        return b"" if card is None else card.index_id

    @property
    def sent_seq(self) -> int:
        """All owed rows up to here were given to the link of a mirror."""
        return self._hub.memory.acked if self._dialled is None else max(self._sent, self._hub.memory.acked)

    def is_owed(self, seq: int, owed: bool) -> bool:
        """Fewer mirrors (others, for a mirror) than are asked for have confirmed the change with that seq."""
        memory = self._hub.memory
        return seq > memory.delivered and (owed or seq <= memory.owed_all_until)

    # Sending

    def on_durable(self) -> None:
        """There may be more to deliver."""
        self._read_on()

    def _read_on(self) -> None:
        hub, memory = self._hub, self._hub.memory
        credit = hub.options.push_credit_bytes - sum(batch.spent_bytes for batch in self._flight if not batch.is_acked)
        if self._dialled is None or self._reading or credit <= 0 or hub.durable <= self._sent:
            return
        is_all_owed = self._sent < memory.owed_all_until
        until = min(hub.durable, memory.owed_all_until) if is_all_owed else hub.durable
        self._readings += 1
        self._reading = self._readings
        after = self._sent
        hub.ask(
            lambda token: fx.ReadFeed(
                token=token, after=after, until=until, bytes_max=hub.options.push_bytes,
                body_bytes_max=hub.options.inline_bytes_max, owed_only=not is_all_owed,
            ),
            partial(self._on_feed, self._reading),
        )

    def _on_feed(self, reading: int, result: fx.Feed | fx.Failed) -> None:
        if reading != self._reading:
            return
        if isinstance(result, fx.Failed):
            self._reading = 0
            self._arm()
            return
        large = tuple(row.id_key for row in result.rows if self._has_large(row))
        if not large:
            self._on_held(reading, result, {}, fx.Held(rows=()))
            return
        self._hub.ask(
            lambda token: fx.ReadBodies(token=token, id_keys=large, body_bytes_max=0, bytes_max=ALL_BYTES),
            partial(self._on_held, reading, result, dict(zip(large, range(len(large)), strict=True))),
        )

    def _has_large(self, row: Row) -> bool:
        """A body of it was too large to be read along, if it is here at all."""
        inline_bytes_max = self._hub.options.inline_bytes_max
        return any(leaf.size > inline_bytes_max for leaf in bare_leaves(row))

    def _on_held(
        self, reading: int, result: fx.Feed, positions: dict[bytes, int], found: fx.Held | fx.Failed
    ) -> None:
        if reading != self._reading:
            return
        self._reading = 0
        if isinstance(found, fx.Failed):
            self._arm()
            return
        rows = []
        for row in result.rows:
            position = positions.get(row.id_key)
            sendable = _sendable(row, None if position is None else found.rows[position])
            if sendable is not None:
                rows.append(sendable)
            else:
                self._is_skipping = True
        starts = range(0, len(rows), PUSH_ROWS_MAX)
        for start in starts:
            chunk = tuple(rows[start : start + PUSH_ROWS_MAX])
            is_end = start == starts[-1]
            self._push(chunk, result.last if is_end else chunk[-1].seq)
        self._sent = result.last
        self._settle()
        self._read_on()

    def _push(self, rows: tuple[Row, ...], last: int) -> None:
        hub = self._hub
        assert self._dialled is not None
        spent = sum(ROW_BYTES + sum(len(body) for body in row.bodies if body is not None) for row in rows)
        batch = Batch(hub.request(), last, spent, tuple((row.id_key, row.seq) for row in rows))
        hub.send(self._dialled.link, ms.Push(
            request=batch.request, index_id=hub.index_id, first=self._sent + 1, last=last, rows=rows,
        ))
        self._sent = last
        self._echoes.update((row.id_key, row.leaves) for row in rows)
        if len(self._echoes) > ECHOES_MAX:
            self._echoes = dict(islice(self._echoes.items(), len(self._echoes) - ECHOES_MAX // 2, None))
        self._flight.append(batch)
        if len(self._flight) == 1:
            self._arm()

    def is_echo(self, row: Row) -> bool:
        """A change comes back as it was pushed: nothing in it is new here."""
        return bool(self._echoes) and self._echoes.pop(row.id_key, None) == row.leaves

    def on_damage(self) -> None:
        """Rows were lost here: whatever comes back may be one of them."""
        self._echoes.clear()

    # Acknowledgements

    def on_ack(self, dialled: Dialled, message: ms.Ack) -> None:
        """An Ack that answers nothing under way is of what was given up, and ignored."""
        if dialled is not self._dialled or message.index_id != self._hub.index_id:
            return
        if self._offering is not None and self._offering.on_ack(message):
            return
        batch = next((batch for batch in self._flight if batch.request == message.request), None)
        if batch is None or batch.is_acked:
            return
        if not self._has_room(batch, message):
            return
        batch.is_acked = True
        batch.seq = message.seq
        self._tries = 0
        self._note_refused(batch, message)
        acked = self._acked
        while self._flight and self._flight[0].is_acked:
            first = self._flight.popleft()
            acked = Taken(first.last, max(acked.theirs, first.seq))
        if acked.seq > self._acked.seq:
            self._take(acked, is_kept=True)
            self._witness(dialled, acked.theirs)
        self._arm()
        self._settle()
        self._read_on()

    def _take(self, acked: Taken, *, is_kept: bool) -> None:
        """The mirror has that much; with more than one mirror asked for, it is asked when others have it too."""
        hub, memory = self._hub, self._hub.memory
        self._acked = acked
        if hub.acks == 1 or (not is_kept and not memory.taken.get(self._index_id)):
            memory.set_delivered(max(memory.delivered, acked.seq), is_kept=is_kept)
        else:
            memory.set_taken(self._index_id, acked, is_kept=is_kept)
            self._confirming.ask()
        hub.announce(fx.Kind.DELIVERED)

    def on_confirmed(self, dialled: Dialled, message: ms.Confirmed) -> None:
        self._confirming.on_confirmed(dialled, message)

    def _on_delivered(self, seq: int) -> None:
        """As many mirrors as are asked for have what we owe up to here."""
        if seq > self._hub.memory.delivered:
            self._hub.memory.set_delivered(seq, is_kept=True)
            self._hub.announce(fx.Kind.DELIVERED)

    def _witness(self, dialled: Dialled, seq: int) -> None:
        """What the mirror acknowledged it must still have when we meet again, whether we have pulled it back or not."""
        card = dialled.card
        if card is not None and seq > self._hub.memory.cursors.get(card.index_id, Cursor(0)).seq:
            self._hub.memory.set_witnessed(card.index_id, Cursor(seq, 0, card.node, card.nonce))

    def _has_room(self, batch: Batch, message: ms.Ack) -> bool:
        """Too many refused changes are a reason to rest, not to forget any: the Push is tried again later."""
        hub = self._hub
        if not message.refused:
            return True
        known = {rejected.id_key for rejected in hub.memory.rejected.values()}
        news = {key for key, _ in batch.keys} - known
        if len(known) + min(len(news), len(message.refused)) <= hub.options.rejected_max:
            return True
        hub.fail(PeerError(
            f"{len(known)} changes of ours are refused, and more are not remembered: nothing is pushed until some of "
            "them are resolved; see rejecteddocs"
        ))
        return False

    def _note_refused(self, batch: Batch, message: ms.Ack) -> None:
        """A refused change goes aside with its reason, and blocks nothing behind it."""
        hub, memory = self._hub, self._hub.memory
        refused: set[bytes] = set()
        for refusal in message.refused:
            if refusal.position >= len(batch.keys):
                raise PeerError(f"Ack refuses row {refusal.position} of a Push of {len(batch.keys)}")
            id_key, seq = batch.keys[refusal.position]
            refused.add(id_key)
            self.set_aside(id_key, refusal, seq)
        if memory.rejected and memory.settle_rejected({key for key, _ in batch.keys} - refused):
            hub.announce(fx.Kind.REJECTED)

    def set_aside(self, id_key: bytes, refusal: ms.Refusal, seq: int | None = None) -> None:
        """That record was refused, as the change with that seq, or as it was held (None)."""
        hub = self._hub
        if seq is None and len(hub.memory.rejected) >= hub.options.rejected_max:
            return
        hub.ask(
            lambda token: fx.ReadBodies(token=token, id_keys=(id_key,), body_bytes_max=0, bytes_max=1),
            partial(self._on_refused, seq, Rejected(id_key, refusal.code, refusal.text)),
        )

    def _on_refused(self, seq: int | None, rejected: Rejected, result: fx.Held | fx.Failed) -> None:
        """Unless the record changed meanwhile: then its newer state is on its way, or was taken."""
        hub = self._hub
        found = result.rows[0] if isinstance(result, fx.Held) else None
        if found is None or (seq is not None and found.row.seq != seq):
            return
        hub.memory.settle_rejected({rejected.id_key})
        hub.memory.set_rejected(found.row.seq, rejected)
        hub.fail(PeerError(f"a mirror refused a change of ours ({rejected.code}): {rejected.text}"))
        hub.announce(fx.Kind.REJECTED)

    def _settle(self) -> None:
        """With nothing in flight, all that was read is taken: nothing of it was owed, or it is acknowledged."""
        if not self._flight and self._sent > self._acked.seq:
            self._take(self._acked._replace(seq=self._sent), is_kept=self._is_skipping)
            self._is_skipping = False

    def on_progress(self, dialled: Dialled) -> None:
        """The mirror is fetching a large body of a Push: it works on the answer."""
        if dialled is self._dialled:
            if self._flight:
                self._arm()
            if self._offering is not None:
                self._offering.arm()

    def _arm(self) -> None:
        hub = self._hub
        if self._flight:
            wait_s = hub.backoff(self._tries + 1, hub.options.push_retry_s, 4 * hub.options.push_retry_s)
            hub.timers.set("push", hub.now + wait_s, self._again)
        else:
            hub.timers.cancel("push")

    def _again(self) -> None:
        self._tries += 1
        self._begin()

    # Offers

    def on_caught_up(self, dialled: Dialled, index_id: bytes) -> None:
        """We have all of theirs: it is offered what we hold, or what came here since it was."""
        hub = self._hub
        if dialled is not self._dialled or self._offering is not None or self._is_offered:
            return
        after_seq = hub.memory.offered.get(index_id, 0)
        also: tuple[bytes, ...] = ()
        if self._compared is not None and self._compared[0] == index_id:
            found = self._compared[1]
            after_seq, also = max(after_seq, found.until), found.only_here
        self._offering = Offering(
            hub, dialled, after_seq=after_seq if after_seq <= hub.durable else 0, taken_seq=self._acked.seq,
            on_done=self._on_offered, also=also,
        )
        self._offering.start()

    def on_compared(self, dialled: Dialled, index_id: bytes, found: Difference) -> None:
        """We know what that mirror lacks: it is offered, now or when it is caught up."""
        if dialled is not self._dialled:
            return
        rejected = {rejected.id_key for rejected in self._hub.memory.rejected.values()}
        found = found._replace(only_here=tuple(id_key for id_key in found.only_here if id_key not in rejected))
        self._compared = index_id, found
        if self._is_offered:
            self.on_elsewhere(found.only_here)

    def _on_offered(self, seq: int) -> None:
        self._offering = self._compared = None
        self._is_offered = True
        self._hub.memory.set_offered(self._index_id, min(seq, self._acked.seq))
        self._offer_found()

    def on_elsewhere(self, id_keys: Iterable[bytes]) -> None:
        """These came from another mirror because this one did not have them: it is offered them too."""
        self._note_offered()
        self._found.update(dict.fromkeys(id_keys))
        while len(self._found) > FOUND_MAX:
            del self._found[next(iter(self._found))]
        self._offer_found()

    def _offer_found(self) -> None:
        hub = self._hub
        if self._found and self._dialled is not None and self._offering is None and self._is_offered:
            found = tuple(self._found)
            self._offering = Offering(
                hub, self._dialled, after_seq=hub.durable, taken_seq=self._acked.seq, also=found,
                on_done=partial(self._on_found_offered, found),
            )
            self._offering.start()

    def _on_found_offered(self, found: tuple[bytes, ...], _: int) -> None:
        self._offering = None
        for id_key in found:
            self._found.pop(id_key, None)
        self._offer_found()

    def _note_offered(self) -> None:
        """While this mirror is followed, all that is new came from it or was pushed to it, but for what was found."""
        if self._is_offered and not self._found and (
            self._acked.seq > self._hub.memory.offered.get(self._index_id, 0)
        ):
            self._hub.memory.set_offered(self._index_id, self._acked.seq)

    def on_want(self, dialled: Dialled, message: ms.Want) -> None:
        if dialled is self._dialled and self._offering is not None:
            self._offering.on_want(message)


def _sendable(row: Row, held: fx.HeldRow | None) -> Row | None:
    """Without the leaves whose body is not here: they came from nodes that have it. The mirror fetches large ones.

    held: what is here of a row with large bodies, which were not read along.
    """
    bare = set(bare_leaves(row))
    if held is not None:
        bare -= held_leaves(held)
    return without_leaves(row, bare) if bare else row
