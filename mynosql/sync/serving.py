"""Conversations that others began with this mirror: who they are, and the answers to what they ask.

Owns the served sessions. Nothing but Hello is accepted before Welcome, and nothing from another user than the one who
said Hello. What is pushed goes to receiving.Receiver. The rules stand in docs/PROTOCOL.md, "Handshake" and "Serving".
Pure; driven by node.Node.
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import NamedTuple

from mynosql.errors import PeerError
from mynosql.row import Row
from mynosql.scope import Scope, is_within
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.confirming import Awaits
from mynosql.sync.credit import Credit, size_of
from mynosql.sync.handshake import (
    choose_version,
    find_loss,
    join_databases,
    judge_hello,
    known_of,
    mint_database,
    our_card,
)
from mynosql.sync.hub import Hub
from mynosql.sync.receiving import Receiver
from mynosql.transitions import Transitions


class ServedState(Enum):
    """Where a conversation that another node began stands."""

    UNKNOWN = "unknown"
    HELD = "held"
    """Its node id is served over another link, with another nonce: that one has to answer for itself first."""
    SERVED = "served"


class ServedCause(Enum):
    """What changes the state of a served link."""

    REFUSED = "Hello that is refused"
    DOUBT = "Hello of a node id that is served already"
    WELCOME = "Hello that is welcomed"
    OLDER_LIVES = "the older conversation answers (Refused clone)"
    REPLACED = "a newer Hello waits in its place"
    END = "Bye, 30 s of quiet, broken message"


SERVED_TRANSITIONS: Transitions[ServedState, ServedCause] = Transitions(ServedState.UNKNOWN, {
    **{(state, ServedCause.REFUSED): ServedState.UNKNOWN for state in ServedState},
    **{(state, ServedCause.DOUBT): ServedState.HELD for state in ServedState},
    **{(state, ServedCause.WELCOME): ServedState.SERVED for state in ServedState},
    (ServedState.HELD, ServedCause.OLDER_LIVES): ServedState.UNKNOWN,
    (ServedState.HELD, ServedCause.REPLACED): ServedState.UNKNOWN,
    (ServedState.HELD, ServedCause.END): ServedState.UNKNOWN,
    (ServedState.SERVED, ServedCause.END): ServedState.UNKNOWN,
})


class Tail(NamedTuple):
    """How far a peer with a scope was told of our feed over its link."""

    prefixes: Scope
    sent: int
    """It knows what is within its scope up to here."""
    seen: int
    """Nothing between the two is within its scope."""

    def take(self, first: int, last: int, *, is_told: bool) -> tuple[int, Tail]:
        """After which seq a message about first to last begins, and what is known then; is_told: there is one."""
        after = self.sent if self.seen >= first - 1 else first - 1  # a gap, which the peer will ask for
        return after, self._replace(sent=last if is_told else after, seen=last)


class Served:
    """One conversation that another node began."""

    def __init__(
        self, hub: Hub, link: fx.Link, card: ms.Card, user_id: str, *, is_listening: bool, version: int
    ) -> None:
        self._hub = hub
        self.link = link
        self.version = version
        """Of the protocol, for this conversation."""
        self.card = card
        self.user_id = user_id
        self.heard_at = hub.now
        self.is_listening = is_listening
        """It subscribes to what is published here."""
        self.is_following = False
        """It has pulled or pushed: it is not here only to measure us, or to fetch what another lacks."""
        self.tail: Tail | None = None
        """It is told over this link what changes within its scope."""
        self.receiver = Receiver(hub, link, card)
        self.credit = Credit(hub, link)

    def close(self) -> None:
        self.credit.close()
        self.receiver.close()
        self._hub.pieces.drop_link(self.link)
        self._hub.server.awaits.drop(self.link)

    def on_message(self, message: ms.Message) -> None:
        """One message after the Hello. Raises PeerError for one that has no place here."""
        hub = self._hub
        if not self.is_following and isinstance(message, ms.Pull | ms.Push):
            self.is_following = True
            hub.server.load += 1
        if isinstance(message, ms.Pull):
            self._on_pull(message)
        elif isinstance(message, ms.Fetch):
            self.credit.ask(partial(self._read_bodies, message.request, message.id_keys))
        elif isinstance(message, ms.FetchPiece):
            self.credit.ask(partial(hub.pieces.serve, message, self.credit.send))
        elif isinstance(message, ms.Push):
            self.receiver.on_push(message)
        elif isinstance(message, ms.Piece):
            hub.pieces.on_piece(self.link, message)
        elif isinstance(message, ms.Offer):
            self.credit.ask(partial(self._on_offer, message))
        elif isinstance(message, ms.Compare):
            self.credit.ask(partial(self._on_compare, message))
        elif isinstance(message, ms.Lookup):
            self.credit.ask(partial(self._on_lookup, message))
        elif isinstance(message, ms.Report):
            self._on_report(message)
        elif isinstance(message, ms.Await):
            hub.server.awaits.take(self.link, message)
        elif isinstance(message, ms.Mirrors):
            if self.card.is_mirror:
                hub.members.learn(message.mirrors, is_local=hub.server.is_local)
        elif isinstance(message, ms.Ping):
            hub.send(self.link, ms.Pong(number=message.number, load=hub.server.load))
        elif isinstance(message, ms.Pong):
            self.credit.on_pong(message)
        else:
            raise PeerError(f"{self.link.name}: {type(message).__name__} does not come from a node that we serve")

    # Feed

    def _on_pull(self, message: ms.Pull) -> None:
        hub = self._hub
        if message.index_id != hub.index_id:
            hub.server.say_bye(self, ms.ByeCode.RENEWED, "the index has another id by now")
            return
        if message.after > hub.durable:
            hub.renew(f"another node knows {message.after} changes of this one, which has {hub.durable}")
            return
        hub.memory.set_synced()
        self.credit.ask(partial(self._read_feed, message))

    def _read_feed(self, message: ms.Pull) -> None:
        hub = self._hub
        until = hub.durable
        after = min(hub.publisher.skip_its_own(message.after, self.card), until)
        hub.ask(
            lambda token: fx.ReadFeed(
                token=token, after=after, until=until, bytes_max=hub.options.pull_bytes,
                body_bytes_max=hub.options.inline_bytes_max if message.with_bodies else 0, prefixes=message.prefixes,
            ),
            partial(self._on_feed, message, until),
        )

    def _on_feed(self, asked: ms.Pull, until: int, result: fx.Feed | fx.Failed) -> None:
        if isinstance(result, fx.Failed):
            self._hub.server.say_bye(self, ms.ByeCode.STORAGE, str(result.error))
            return
        rows = self._hub.publisher.without_its_own(result.rows, self.card)
        self.credit.send(ms.Entries(
            request=asked.request, index_id=asked.index_id, after=asked.after, last=result.last, head=until,
            more=result.more, rows=rows,
        ), size_of(rows))
        if asked.prefixes:
            self.tail = None if result.more else Tail(asked.prefixes, sent=result.last, seen=result.last)
            self._hub.server.tailing[self.link] = self

    # Comparing

    def _on_compare(self, message: ms.Compare) -> None:
        hub = self._hub
        if message.index_id != hub.index_id:
            hub.server.say_bye(self, ms.ByeCode.RENEWED, "the index has another id by now")
            return
        hub.ask(
            lambda token: fx.ReadSums(token=token, question=message.question, is_urgent=True),
            partial(self._on_sums, message.request),
        )

    def _on_sums(self, request: int, result: fx.Sums | fx.Failed) -> None:
        if isinstance(result, fx.Failed):
            self._hub.server.say_bye(self, ms.ByeCode.STORAGE, str(result.error))
            return
        lists = () if result.answer is None else result.answer.lists
        self.credit.send(
            ms.Sums(request=request, index_id=self._hub.index_id, head=result.head, answer=result.answer),
            16 * sum(map(len, lists)),
        )

    def _on_lookup(self, message: ms.Lookup) -> None:
        self._hub.ask(
            lambda token: fx.ReadHashes(token=token, id_hashes=message.id_hashes),
            partial(self._on_found, message.request),
        )

    def _on_found(self, request: int, result: fx.Held | fx.Failed) -> None:
        if isinstance(result, fx.Failed):
            self._hub.server.say_bye(self, ms.ByeCode.STORAGE, str(result.error))
            return
        rows = tuple(found.row for found in result.rows if found is not None)
        self.credit.send(ms.Found(request=request, rows=rows), size_of(rows))

    # Bodies

    def _read_bodies(self, request: int, id_keys: tuple[bytes, ...]) -> None:
        hub = self._hub
        if not id_keys:
            return
        hub.ask(
            lambda token: fx.ReadBodies(
                token=token, id_keys=id_keys, body_bytes_max=hub.options.inline_bytes_max,
                bytes_max=hub.options.fetch_bytes,
            ),
            partial(self._on_bodies, request, id_keys),
        )

    def _on_bodies(self, request: int, id_keys: tuple[bytes, ...], result: fx.Held | fx.Failed) -> None:
        if isinstance(result, fx.Failed):
            self._hub.server.say_bye(self, ms.ByeCode.STORAGE, str(result.error))
            return
        items = tuple(map(self._item, id_keys, result.rows))
        rows = tuple(item.row for item in items if item.row is not None)
        self.credit.send(ms.Bodies(request=request, items=items), size_of(rows))
        self.credit.ask(partial(self._read_bodies, request, id_keys[len(items) :]))

    def _item(self, id_key: bytes, found: fx.HeldRow | None) -> ms.BodyItem:
        if found is None:
            status = ms.Status.NOT_HELD if self._hub.is_filling else ms.Status.ABSENT
            return ms.BodyItem(id_key, status, None)
        row = found.row
        large = 0
        for position, leaf in enumerate(row.leaves):
            if not leaf.deleted and row.bodies[position] is None and found.held >> position & 1:
                large |= 1 << position
        if not found.held & 1:
            return ms.BodyItem(id_key, ms.Status.NOT_HELD, row, large)
        return ms.BodyItem(id_key, ms.Status.LARGE if large else ms.Status.HELD, row, large)

    # Offers and reports

    def _on_offer(self, message: ms.Offer) -> None:
        self._hub.ask(
            lambda token: fx.CompareOffers(token=token, offers=message.items),
            partial(self._on_compared, message.request),
        )

    def _on_compared(self, request: int, result: fx.Compared | fx.Failed) -> None:
        if isinstance(result, fx.Failed):
            self._hub.server.say_bye(self, ms.ByeCode.STORAGE, str(result.error))
            return
        self._hub.send(self.link, ms.Want(request=request, positions=result.wanted))

    def _on_report(self, message: ms.Report) -> None:
        hub = self._hub
        if not self.card.is_mirror or message.index_id != hub.index_id:
            return
        if message.seq > hub.durable:
            raise PeerError(f"{self.link.name}: reports change {message.seq}, the newest is {hub.durable}")
        if message.seq > hub.memory.confirmed.get(self.card.node, 0):
            hub.memory.set_confirmed(self.card.node, message.seq)
            delivered = hub.memory.confirmed_by(hub.acks)
            if delivered > hub.memory.delivered:
                hub.memory.set_delivered(delivered, is_kept=True)
            hub.server.awaits.on_report()
            hub.announce(fx.Kind.DELIVERED)


class Server:
    """All conversations that others began with this node."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sessions: dict[fx.Link, Served] = {}
        self._states: dict[fx.Link, ServedState] = {}
        """Of the links that are not UNKNOWN."""
        self.awaits = Awaits(hub)
        self._held: dict[int, tuple[fx.Link, ms.Hello, str]] = {}
        """Hellos that wait for the older conversation of the same node id to prove that it lives, by node id."""
        self.tailing: dict[fx.Link, Served] = {}
        """Those who are told over their link what changes within their scope."""
        self.load = 0
        """Nodes that follow this one, or push to it."""
        self._mirror_count = 0
        self._listening_count = 0
        self._listening_peer_count = 0

    # Audience

    @property
    def has_audience(self) -> bool:
        """Somebody subscribes to what is published here."""
        return self._listening_count > 0

    @property
    def has_tails(self) -> bool:
        """Somebody is told over its link what changes within its scope."""
        return bool(self.tailing)

    def tell_tails(self, first: int, last: int, rows: tuple[Row, ...]) -> None:
        """The rows of our feed from first to last, as far as they are within each scope, and nothing where none is."""
        within: dict[Scope, tuple[Row, ...]] = {}
        for session in self.tailing.values():
            tail = session.tail
            if tail is None or tail.seen >= last:
                continue
            if session.credit.is_used_up:
                session.tail = None  # it does not read; once it does, its next Pull begins a new one
                continue
            found = within.get(tail.prefixes)
            if found is None:
                found = within[tail.prefixes] = tuple(row for row in rows if is_within(tail.prefixes, row.id_key))
            after, session.tail = tail.take(first, last, is_told=bool(found))
            if found:
                session.credit.send(ms.Changes(
                    index_id=self._hub.index_id, first=after + 1, last=last, rows=found,
                ), size_of(found))

    @property
    def has_mirror_audience(self) -> bool:
        return self._mirror_count > 0

    def is_only_mirror_audience(self, node: int) -> bool:
        """No other mirror than that node takes what is published here."""
        return self._mirror_count > 0 and all(
            served.card.node == node for served in self._sessions.values() if served.card.is_mirror
        )

    @property
    def has_peer_audience(self) -> bool:
        return self._listening_peer_count > 0

    @property
    def count(self) -> int:
        return len(self._sessions)

    @property
    def is_local(self) -> bool:
        """Those who reach us may be told loopback addresses, and tell them."""
        return self._hub.advertised is None or self._hub.advertised.is_loopback

    def end_older_pushes(self, link: fx.Link, node: int) -> None:
        """That node pushes over this link: another one is dead, only we have not noticed. Parts of bodies are kept."""
        for session in self._sessions.values():
            if session.card.node == node and session.link != link:
                session.receiver.abandon()

    def nodes(self) -> set[int]:
        """Whom we serve."""
        return {session.card.node for session in self._sessions.values()}

    def peer_links(self) -> list[fx.Link]:
        """Of those that are no mirrors."""
        return [link for link, session in self._sessions.items() if not session.card.is_mirror]

    def find(self, link: fx.Link) -> Served | None:
        return self._sessions.get(link)

    def links(self) -> list[fx.Link]:
        return list(self._sessions)

    # Messages

    def on_message(self, link: fx.Link, message: ms.Message, user_id: str) -> None:
        """One message over a served link. Raises PeerError for one that has no place in the protocol."""
        if isinstance(message, ms.Hello):
            self._on_hello(link, message, user_id)
            return
        session = self._sessions.get(link)
        if session is None:
            if not isinstance(message, ms.Bye | ms.Pong):
                self._hub.send(link, ms.Bye(code=ms.ByeCode.NO_SESSION, text="say Hello first"))
            return
        if user_id != session.user_id:
            raise PeerError(f"{link.name}: a message of another user than the one who said Hello")
        session.heard_at = self._hub.now
        if isinstance(message, ms.Bye):
            self.drop(link)
            return
        if isinstance(message, ms.Pong):
            self._on_life(session)
        session.on_message(message)

    def _move(self, link: fx.Link, cause: ServedCause) -> None:
        state = SERVED_TRANSITIONS.after(self._states.pop(link, SERVED_TRANSITIONS.start), cause)
        if state is not ServedState.UNKNOWN:
            self._states[link] = state
        if state is not ServedState.SERVED:
            self._close(link)

    def _on_hello(self, link: fx.Link, hello: ms.Hello, user_id: str) -> None:
        hub = self._hub
        verdict = judge_hello(hub, hello)
        if verdict is not None:
            self._move(link, ServedCause.REFUSED)
            self._release(link)
            hub.send(link, ms.Refused(session=hello.session, code=verdict.code, text=verdict.text))
            return
        loss = find_loss(hub, hello.known)
        if loss is not None:
            hub.renew(loss)
            return
        older = self._older_of(link, hello.card)
        if older is None:
            self._welcome(link, hello, user_id)
            return
        # Its process was restarted, or it was copied and both live: the older one has to answer for itself.
        node = hello.card.node
        hub.send(older.link, ms.Ping(number=hub.request()))
        self._release(link, but_of=node)
        held = self._held.get(node)
        if held is not None and held[0] != link:
            self._move(held[0], ServedCause.REPLACED)
        self._held[node] = (link, hello, user_id)
        self._move(link, ServedCause.DOUBT)
        wait_s = hub.options.clone_wait_s
        hub.timers.set_earlier(("clone", node), hub.now + wait_s, partial(self._on_no_life, older))

    def _release(self, link: fx.Link, but_of: int | None = None) -> None:
        """No Hello of that link waits any more, but for one that names this node."""
        for node in [node for node, held in self._held.items() if held[0] == link and node != but_of]:
            del self._held[node]
            self._hub.timers.cancel(("clone", node))

    def _older_of(self, link: fx.Link, card: ms.Card) -> Served | None:
        for session in self._sessions.values():
            if session.card.node == card.node and session.card.nonce != card.nonce and session.link != link:
                return session
        return None

    def _on_life(self, session: Served) -> None:
        held = self._held.get(session.card.node)
        if held is not None and held[1].card.nonce != session.card.nonce:
            del self._held[session.card.node]
            self._hub.timers.cancel(("clone", session.card.node))
            self._move(held[0], ServedCause.OLDER_LIVES)
            self._hub.send(held[0], ms.Refused(
                session=held[1].session, code=ms.RefusedCode.CLONE,
                text="another process that lives uses the same node id: a folder was copied",
            ))

    def _on_no_life(self, older: Served) -> None:
        held = self._held.pop(older.card.node, None)
        self.drop(older.link)
        if held is not None:
            self._on_hello(*held)

    def _welcome(self, link: fx.Link, hello: ms.Hello, user_id: str) -> None:
        hub = self._hub
        is_other = join_databases(hub, hello.card)
        if not hub.memory.databases:
            mint_database(hub)
            is_other = True
        if is_other:
            hub.announce(fx.Kind.DATABASE)
        self._close(link)
        self._release(link)
        self._move(link, ServedCause.WELCOME)
        session = Served(
            hub, link, hello.card, user_id, is_listening=hello.is_listening, version=choose_version(hub, hello)
        )
        self._sessions[link] = session
        self._count(session, 1)
        hub.timers.set(("served", link), hub.now + hub.options.served_idle_s, partial(self._check_idle, session))
        hub.send(link, ms.Welcome(
            session=hello.session, version=session.version, card=our_card(hub), known=known_of(hub, hello.card),
            heartbeat_ms=hub.publisher.next_ms, mirrors=hub.members.infos(),
        ))
        hub.announce(fx.Kind.CONNECTED)
        if session.is_listening:
            hub.publisher.on_audience()
        if hello.card.is_mirror:
            hub.members.meet(hello.card, at=None, is_local=self.is_local)
        else:
            hub.filler.on_peer()

    def _count(self, session: Served, step: int) -> None:
        is_mirror, is_listening = session.card.is_mirror, session.is_listening
        self._mirror_count += step * is_mirror
        self._listening_count += step * is_listening
        self._listening_peer_count += step * (is_listening and not is_mirror)

    # Ends

    def _check_idle(self, session: Served) -> None:
        hub = self._hub
        due = session.heard_at + hub.options.served_idle_s
        if hub.now >= due:
            self.drop(session.link)
            hub.emit(fx.HangUp(link=session.link))
            return
        hub.timers.set(("served", session.link), due, partial(self._check_idle, session))

    def say_bye(self, session: Served, code: ms.ByeCode, text: str) -> None:
        """The other side is told that the conversation is over, and why."""
        self._hub.send(session.link, ms.Bye(code=code, text=text))
        self.drop(session.link)

    def say_bye_to_all(self, code: ms.ByeCode, text: str) -> None:
        for session in list(self._sessions.values()):
            self.say_bye(session, code, text)

    def drop(self, link: fx.Link) -> None:
        """That conversation is over, if there is one."""
        if link in self._states:
            self._move(link, ServedCause.END)
            self._release(link)

    def _close(self, link: fx.Link) -> None:
        session = self._sessions.pop(link, None)
        if session is not None:
            self._count(session, -1)
            self.load -= session.is_following
            self.tailing.pop(link, None)
            self._hub.timers.cancel(("served", link))
            session.close()
            self._hub.announce(fx.Kind.DISCONNECTED)
