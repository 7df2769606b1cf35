"""A conversation that this node began: link up, Hello, Welcome, and the watch over whether the other side still lives.

Owns the states of a dial (DIAL_TRANSITIONS) and hands what comes in to the part that asked for it. Never decides whom
to dial: the strategy does (choosing.Chooser for a peer, choosing.Mesh for a mirror); it is told when a dial is READY,
and when it is lost. Pure; driven by node.Node.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from mynosql.address import Address
from mynosql.errors import PeerError, PeerRefused
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.handshake import Verdict, find_loss, join_databases, judge_welcome, known_of, our_card
from mynosql.sync.hub import Hub
from mynosql.transitions import Transitions

RENEW_S_MIN = 60.0
"""Being told that we are a clone is believed this often: a lie costs a full pull each time."""


class Purpose(Enum):
    """Why an address is dialled; the dial ends when no purpose is left."""

    FOLLOW = "follow"
    PROBE = "probe"
    MESH = "mesh"
    FETCH = "fetch"
    SURVEY = "survey"


class Loss(Enum):
    """Why a conversation ended, or an attempt failed."""

    DOWN = "down"
    """The link is down; the network dials again by itself."""
    DEAD = "dead"
    """The link seems up but nobody answers: only a new connection helps."""
    BYE = "bye"
    """They ended it and will answer a Hello later."""
    REFUSED = "refused"
    """They, or we, refuse: no use to try soon."""


class DialState(Enum):
    """Where a conversation that we began stands."""

    DOWN = "down"
    GREETING = "greeting"
    """Hello is sent, and repeated until there is an answer."""
    READY = "ready"


class DialCause(Enum):
    """What changes the state of a dial."""

    LINK_UP = "link up"
    GREET = "Hello again"
    """Bye no-session or renewed, another index id than the one greeted, or our Hello is no longer true."""
    WELCOME = "Welcome"
    DOWN = "link down"
    DEAD = "no answer"
    BYE = "Bye"
    REFUSED = "Refused, broken message"
    CLOSE = "not needed any more"


DIAL_TRANSITIONS: Transitions[DialState, DialCause] = Transitions(DialState.DOWN, {
    (DialState.DOWN, DialCause.LINK_UP): DialState.GREETING,
    (DialState.GREETING, DialCause.LINK_UP): DialState.GREETING,
    (DialState.GREETING, DialCause.GREET): DialState.GREETING,
    (DialState.GREETING, DialCause.WELCOME): DialState.READY,
    (DialState.READY, DialCause.LINK_UP): DialState.GREETING,
    (DialState.READY, DialCause.GREET): DialState.GREETING,
    **{
        (DialState.DOWN, cause): DialState.DOWN
        for cause in (DialCause.DOWN, DialCause.BYE, DialCause.REFUSED, DialCause.CLOSE)
    },
    **{
        (state, cause): DialState.DOWN for state in (DialState.GREETING, DialState.READY)
        for cause in (DialCause.DOWN, DialCause.DEAD, DialCause.BYE, DialCause.REFUSED, DialCause.CLOSE)
    },
})

_CAUSES = {
    Loss.DOWN: DialCause.DOWN, Loss.DEAD: DialCause.DEAD, Loss.BYE: DialCause.BYE, Loss.REFUSED: DialCause.REFUSED,
}


class Dialled:
    """The conversation with whoever answers at one address."""

    def __init__(self, hub: Hub, address: Address) -> None:
        self._hub = hub
        self.address = address
        self.link = fx.Link.dial(address)
        self.purposes: set[Purpose] = set()
        self.state = DIAL_TRANSITIONS.start
        self.card: ms.Card | None = None
        """Who answered last."""
        self.version = 0
        """Of the protocol, as agreed with whoever answered last."""
        self._session = 0
        self._tries = 0
        self._greeting_since = 0.0
        self._has_told_loss = False
        self._heard_at = 0.0
        self._pinged_at = 0.0
        self._is_ping_open = False

    @property
    def is_ready(self) -> bool:
        return self.state is DialState.READY

    @property
    def node(self) -> int | None:
        return self.card.node if self.card is not None else None

    def _move(self, cause: DialCause) -> None:
        was_ready, self.state = self.is_ready, DIAL_TRANSITIONS.after(self.state, cause)
        if was_ready:
            self._end_roles()

    # Greeting

    def on_up(self) -> None:
        """The link is up, for the first time or again: whatever was agreed before must be agreed anew."""
        self._has_told_loss = False
        self.greet(DialCause.LINK_UP)

    def greet(self, cause: DialCause = DialCause.GREET) -> None:
        """Say Hello, and repeat it until there is an answer."""
        self._move(cause)
        self._session = self._hub.request()
        self._tries = 0
        self._greeting_since = self._hub.now
        self._say_hello()

    def _say_hello(self) -> None:
        hub = self._hub
        if hub.now - self._greeting_since >= hub.options.greeting_s_max:
            self.lose(Loss.DEAD)
            return
        self._tries += 1
        hub.send(self.link, ms.Hello(
            version_low=hub.options.version_low, version_high=hub.options.version_high, database=hub.database,
            session=self._session,
            is_merging=hub.members.is_merging(self.address), card=our_card(hub),
            known=known_of(hub, self.card) if self.card is not None else None,
            is_listening=hub.is_mirror or hub.memory.scope is None,
        ))
        wait_s = hub.backoff(self._tries, hub.options.hello_retry_s, hub.options.hello_retry_max_s)
        hub.timers.set(("dial", self.address), hub.now + wait_s, self._say_hello)

    def _on_welcome(self, message: ms.Welcome) -> None:
        hub, card = self._hub, message.card
        if self.state is not DialState.GREETING or message.session != self._session:
            return
        if card.node == hub.node:
            self._on_refused(ms.Refused(
                session=self._session, text="another process that lives answers under our node id",
                code=ms.RefusedCode.SELF if card.nonce == hub.nonce else ms.RefusedCode.CLONE,
            ))
            return
        verdict = judge_welcome(hub, message, is_merging=hub.members.is_merging(self.address))
        if verdict is not None:
            self._on_verdict(verdict)
            return
        loss = find_loss(hub, message.known)
        if loss is not None:
            hub.renew(loss)
            return
        self.card, self.version = card, message.version
        known = known_of(hub, card)
        if known is not None and known.seq > card.head:
            self._tell_loss(known)
            return
        self._has_told_loss = False
        if join_databases(hub, card):
            hub.announce(fx.Kind.DATABASE)
        self._move(DialCause.WELCOME)
        self._heard_at = hub.now
        self._is_ping_open = False
        self._watch()
        hub.announce(fx.Kind.CONNECTED)
        is_local = self.address.is_loopback
        hub.members.meet(card, at=self.address, is_local=is_local)
        hub.members.learn(message.mirrors, is_local=is_local)
        hub.strategy.on_ready(self, message)

    def _tell_loss(self, known: ms.Known) -> None:
        """We know more of their history than they have: a Hello that says so makes them take a new identity."""
        if self._has_told_loss:
            self._hub.fail(PeerError(
                f"{self.address}: it lost changes ({known.seq} known here) and does not take a new identity; "
                "rebuild that mirror's folder"
            ))
            self.lose(Loss.REFUSED)
            return
        self._has_told_loss = True
        self.greet()

    def _on_refused(self, message: ms.Refused) -> None:
        if self.state is not DialState.GREETING or message.session != self._session:
            return
        hub = self._hub
        if message.code is ms.RefusedCode.SELF:
            hub.members.set_own(self.address)
            self.lose(Loss.REFUSED)
        elif message.code is ms.RefusedCode.CLONE and hub.now - hub.renewed_at >= RENEW_S_MIN:
            hub.renew(message.text)
        else:
            self._on_verdict(Verdict(message.code, message.text))

    def _on_verdict(self, verdict: Verdict) -> None:
        hub = self._hub
        if verdict.code is ms.RefusedCode.NOT_A_MIRROR:
            hub.members.depart(self.node, self.address)
        hub.fail(PeerRefused(f"{self.address}: {verdict.text}"))
        self.lose(Loss.REFUSED)

    def on_down(self) -> None:
        """The link is down, or an attempt to bring it up failed."""
        self.lose(Loss.DOWN)

    # While it lasts

    def on_message(self, message: ms.Message) -> None:
        """One message over this link. Raises PeerError for one that has no place in the protocol here."""
        self._heard_at = self._hub.now
        self._is_ping_open = False
        if isinstance(message, ms.Welcome):
            self._on_welcome(message)
        elif isinstance(message, ms.Refused):
            self._on_refused(message)
        elif isinstance(message, ms.Bye):
            self._on_bye(message)
        elif self.is_ready:
            self._dispatch(message)

    def _dispatch(self, message: ms.Message) -> None:
        hub = self._hub
        if isinstance(message, ms.Entries):
            hub.followers.on_entries(self, message)
        elif isinstance(message, ms.Changes):
            hub.followers.on_told(self, message)
        elif isinstance(message, ms.Sums):
            hub.followers.on_sums(self, message)
        elif isinstance(message, ms.Found):
            hub.followers.on_found(self, message)
        elif isinstance(message, ms.Bodies):
            hub.fetcher.on_bodies(self, message)
        elif isinstance(message, ms.Piece):
            hub.pieces.on_piece(self.link, message)
        elif isinstance(message, ms.Ack):
            hub.outbox.on_ack(self, message)
        elif isinstance(message, ms.Confirmed):
            hub.outbox.on_confirmed(self, message)
        elif isinstance(message, ms.Want):
            hub.outbox.on_want(self, message)
        elif isinstance(message, ms.FetchPiece):
            hub.outbox.on_progress(self)
            hub.pieces.serve(message, self._send_piece)
        elif isinstance(message, ms.Mirrors):
            hub.members.learn(message.mirrors, is_local=self.address.is_loopback)
        elif isinstance(message, ms.Ping):
            hub.send(self.link, ms.Pong(number=message.number))
        elif isinstance(message, ms.Pong):
            hub.surveyor.on_pong(self, message)
        else:
            raise PeerError(f"{self.address}: {type(message).__name__} does not come from a mirror")

    def _send_piece(self, message: ms.Piece, size: int) -> None:
        """To the mirror that we push to: it asks for a few at a time."""
        self._hub.send(self.link, message)

    def _on_bye(self, message: ms.Bye) -> None:
        if message.code in (ms.ByeCode.NO_SESSION, ms.ByeCode.RENEWED):
            if self.is_ready:
                self.greet()
            return
        if message.code is ms.ByeCode.NOT_A_MIRROR:
            self._hub.members.depart(self.node, self.address)
        elif message.code is ms.ByeCode.STORAGE:
            self._hub.fail(PeerError(f"{self.address}: the mirror cannot write: {message.text}"))
        self.lose(Loss.BYE)

    # Life

    def _watch(self) -> None:
        """Ping a quiet link, give up one that does not answer; see docs/PROTOCOL.md, "Times"."""
        hub, options = self._hub, self._hub.options
        silent_at, missed_at = hub.followers.silence_of(self)
        if self._is_ping_open:
            due = self._pinged_at + options.pong_s
            if silent_at is not None:
                due = min(due, max(silent_at, self._pinged_at + options.pong_silent_s))
            if hub.now >= due:
                self.lose(Loss.DEAD)
                return
        else:
            due = self._heard_at + options.ping_s
            if missed_at is not None:
                due = min(due, max(missed_at, self._pinged_at + options.heartbeat_s))
            if hub.now >= due:
                self._is_ping_open = True
                self._pinged_at = hub.now
                hub.send(self.link, ms.Ping(number=hub.request()))
                due = hub.now + options.pong_silent_s
        hub.timers.set(("dial", self.address), due, self._watch)

    def watch_again(self) -> None:
        """The times of the next heartbeat changed."""
        if self.is_ready:
            self._watch()

    def lose(self, loss: Loss) -> None:
        """The conversation, or the attempt at one, is over."""
        hub = self._hub
        self._move(_CAUSES[loss])
        hub.timers.cancel(("dial", self.address))
        hub.strategy.on_lost(self, loss)
        hub.fetcher.on_lost(self, loss)

    def _end_roles(self) -> None:
        hub = self._hub
        hub.followers.end(self)
        hub.outbox.detach(self)
        hub.pieces.drop_link(self.link)
        hub.announce(fx.Kind.DISCONNECTED)

    def redial(self) -> None:
        """A new connection to the same address."""
        self._hub.emit(fx.HangUp(link=self.link))
        self._hub.emit(fx.Dial(address=self.address))

    def close(self) -> None:
        """The dial is over; the strategy is not told, the other side is."""
        was_ready = self.is_ready
        self._move(DialCause.CLOSE)
        if was_ready:
            self._hub.send(self.link, ms.Bye(code=ms.ByeCode.STOPPED, text="this conversation is not needed any more"))
        self._hub.timers.cancel(("dial", self.address))
        self._hub.emit(fx.HangUp(link=self.link))


class Dials:
    """All dials of a node, by address."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._by_address: dict[Address, Dialled] = {}
        self._by_link: dict[fx.Link, Dialled] = {}

    def open(self, address: Address, purpose: Purpose) -> Dialled:
        """The dial of that address, begun now if there is none, serves this purpose too."""
        dialled = self._by_address.get(address)
        if dialled is None:
            dialled = Dialled(self._hub, address)
            self._by_address[address] = self._by_link[dialled.link] = dialled
            self._hub.emit(fx.Dial(address=address))
        dialled.purposes.add(purpose)
        return dialled

    def release(self, dialled: Dialled, purpose: Purpose) -> None:
        """That purpose is over; without another the dial ends."""
        dialled.purposes.discard(purpose)
        if not dialled.purposes:
            self.close(dialled)

    def close(self, dialled: Dialled) -> None:
        if self._by_address.pop(dialled.address, None) is not None:
            del self._by_link[dialled.link]
            dialled.close()
            self._hub.fetcher.on_closed(dialled)

    def close_all(self) -> None:
        for dialled in list(self._by_address.values()):
            self.close(dialled)

    def find(self, address: Address) -> Dialled | None:
        return self._by_address.get(address)

    def find_link(self, link: fx.Link) -> Dialled | None:
        return self._by_link.get(link)

    def __iter__(self) -> Iterator[Dialled]:
        return iter(list(self._by_address.values()))

    def greet_all(self) -> None:
        """What was said in our Hellos is no longer so."""
        for dialled in self:
            if dialled.state is not DialState.DOWN:
                dialled.greet()

    def ready(self) -> list[Dialled]:
        return [dialled for dialled in self._by_address.values() if dialled.is_ready]

    def ready_links(self) -> list[fx.Link]:
        return [dialled.link for dialled in self.ready()]
