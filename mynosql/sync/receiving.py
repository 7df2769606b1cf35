"""Taking what a peer pushes to this mirror: rows applied, large bodies brought over, then one Ack when all is on disk.

Each Push is worked off by itself, so that a small record never waits behind a large body of an earlier Push. The rules
stand in docs/PROTOCOL.md, "Push". Pure; one Receiver per served conversation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from functools import partial

from mynosql.errors import PeerError
from mynosql.row import Leaf, Row
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.hub import Hub
from mynosql.sync.memory import Cursor, highest_hlc_of
from mynosql.sync.pieces import Transfer

ALL_BYTES = 1 << 60
"""No bound: entries without bodies of at most one Push are read."""


class Incoming:
    """One Push being worked off."""

    def __init__(self, push: ms.Push) -> None:
        self.push = push
        self.positions = {row.id_key: position for position, row in enumerate(push.rows)}
        self.refused: dict[int, ms.Refusal] = {}
        self.large: deque[Row] = deque()
        """Rows of which a body is still to come, in pieces."""
        self.transfer: Transfer | None = None
        self.seq = 0
        """Our newest seq when the last of its rows was applied."""

    def refuse(self, id_key: bytes, code: str, text: str) -> None:
        position = self.positions.get(id_key)
        if position is not None:
            self.refused[position] = ms.Refusal(position, code, text)


class Receiver:
    """What one node pushes to us."""

    def __init__(self, hub: Hub, link: fx.Link, card: ms.Card) -> None:
        self._hub = hub
        self._link = link
        self._card = card
        self._incoming: dict[int, Incoming] = {}
        self._is_closed = False
        self._has_begun = False

    def close(self) -> None:
        """What is not acknowledged will be sent again, to us or to another mirror."""
        self._is_closed = True
        self.abandon()

    def abandon(self) -> None:
        """The node pushes over another link now, and there it sends again what is not acknowledged."""
        for incoming in self._incoming.values():
            if incoming.transfer is not None:
                self._hub.pieces.cancel(incoming.transfer)
        self._incoming.clear()

    def on_push(self, push: ms.Push) -> None:
        hub = self._hub
        if push.index_id != self._card.index_id:
            raise PeerError(f"{self._link.name}: pushes for another index than the one it greeted with")
        if not self._has_begun:
            self._has_begun = True
            hub.server.end_older_pushes(self._link, self._card.node)
        if push.request in self._incoming:
            return
        if len(self._incoming) >= hub.options.push_queue_max:
            raise PeerError(f"{self._link.name}: more than {hub.options.push_queue_max} pushes without an answer")
        incoming = Incoming(push)
        self._incoming[push.request] = incoming
        whole = tuple(row for row in push.rows if not bare_leaves(row))
        bare = tuple(row for row in push.rows if bare_leaves(row))
        hub.ask(
            lambda token: fx.Apply(token=token, rows=whole, origin=fx.Origin.PUSH, notes=self._notes(push)),
            partial(self._on_whole, incoming, bare),
        )

    def _notes(self, push: ms.Push) -> dict[str, bytes]:
        """How much of that node's history we have seen: it must never have less itself."""
        memory = self._hub.memory
        known = memory.pushed.get(push.index_id, Cursor(0, 0, self._card.node))
        hlc = max(known.hlc, highest_hlc_of(push.rows, self._card.node))
        cursor = Cursor(max(known.seq, push.last), hlc, self._card.node, self._card.nonce)
        if cursor[:2] == known[:2]:
            return {}
        memory.pushed[push.index_id] = cursor
        return memory.pushed_note(push.index_id, cursor)

    def _on_whole(self, incoming: Incoming, bare: tuple[Row, ...], result: fx.Applied | fx.Failed) -> None:
        if not self._take_result(incoming, result):
            return
        if not bare:
            self._acknowledge(incoming)
            return
        # A push that is sent again brings rows whose bodies came the first time: look before asking for them.
        self._hub.ask(
            lambda token: fx.ReadBodies(
                token=token, id_keys=tuple(row.id_key for row in bare), body_bytes_max=0, bytes_max=ALL_BYTES,
            ),
            partial(self._on_held, incoming, bare),
        )

    def _on_held(self, incoming: Incoming, bare: tuple[Row, ...], result: fx.Held | fx.Failed) -> None:
        if self._is_closed:
            return
        found = result.rows if isinstance(result, fx.Held) else (None,) * len(bare)
        for row, held in zip(bare, found, strict=True):
            rest = row if held is None else without_leaves(row, held_leaves(held))
            if rest is not None:
                incoming.large.append(rest)
        self._bring_next(incoming)

    def _bring_next(self, incoming: Incoming) -> None:
        """Bring the next missing body; a row that is whole is applied; at the end the Push is acknowledged."""
        while incoming.large:
            row = incoming.large[0]
            missing = bare_leaves(row)
            if missing:
                incoming.transfer = Transfer(row.id_key, missing[0], partial(self._on_body, incoming, missing[0]))
                self._hub.pieces.begin(incoming.transfer, self._link)
                return
            incoming.large.popleft()
            self._hub.ask(
                lambda token, row=row: fx.Apply(token=token, rows=(row,), origin=fx.Origin.PUSH),  # type: ignore[misc]
                partial(self._on_large, incoming),
            )
            return
        self._acknowledge(incoming)

    def _on_large(self, incoming: Incoming, result: fx.Applied | fx.Failed) -> None:
        if self._take_result(incoming, result):
            self._bring_next(incoming)

    def _on_body(self, incoming: Incoming, leaf: Leaf, body: bytes | None) -> None:
        if self._is_closed:
            return
        transfer, incoming.transfer = incoming.transfer, None
        if body is None and transfer is not None and not transfer.is_gone:
            # Only late: without an Ack the writer sends the whole Push again.
            self._incoming.pop(incoming.push.request, None)
            return
        row = incoming.large.popleft()
        if body is not None:
            bodies = tuple(body if found == leaf else held for found, held in zip(row.leaves, row.bodies, strict=True))
            incoming.large.appendleft(row._replace(bodies=bodies))
        else:
            rest = without_leaves(row, {leaf})
            if rest is not None:
                incoming.large.appendleft(rest)
            else:
                incoming.refuse(row.id_key, "body-missing", "its writer did not deliver the body")
        self._bring_next(incoming)

    def _take_result(self, incoming: Incoming, result: fx.Applied | fx.Failed) -> bool:
        if self._is_closed:
            return False
        if isinstance(result, fx.Failed):
            session = self._hub.server.find(self._link)
            if session is not None:
                self._hub.server.say_bye(session, ms.ByeCode.STORAGE, str(result.error))
            return False
        incoming.seq = max(incoming.seq, result.head)
        for refused in result.refused:
            incoming.refuse(refused.id_key, refused.code, refused.text)
        return True

    def _acknowledge(self, incoming: Incoming) -> None:
        push = incoming.push
        self._incoming.pop(push.request, None)
        self._hub.memory.set_synced()
        self._hub.send(self._link, ms.Ack(
            request=push.request, index_id=push.index_id, last=push.last, seq=incoming.seq,
            refused=tuple(incoming.refused[position] for position in sorted(incoming.refused)),
        ))


def bare_leaves(row: Row) -> list[Leaf]:
    """The live leaves of a row that come without a body."""
    bodies = row.bodies
    if len(bodies) == 1:
        return [] if bodies[0] is not None or row.leaves[0].deleted else [row.leaves[0]]
    return [leaf for leaf, body in zip(row.leaves, bodies, strict=True) if body is None and not leaf.deleted]


def without_leaves(row: Row, gone: Collection[Leaf]) -> Row | None:
    """The row with the other leaves only; None when none is left.

    A part of a leaf set is a state that the record was in: merging it brings these leaves and nothing wrong.
    """
    kept = [position for position, leaf in enumerate(row.leaves) if leaf not in gone]
    if not kept:
        return None
    return row._replace(
        leaves=tuple(row.leaves[position] for position in kept), bodies=tuple(row.bodies[position] for position in kept)
    )


def held_leaves(held: fx.HeldRow) -> set[Leaf]:
    """The leaves whose bodies are in the store."""
    return {leaf for position, leaf in enumerate(held.row.leaves) if held.held >> position & 1}
