"""A node of the mesh as a pure function of what happens to it: every input returns the effects that follow.

Joins the parts (dials, served conversations, followers, outbox, fetcher, filler, publisher) and owns mode, identity and
the order in which an input is worked off. No socket, file, clock, thread, randomness or logging: production and
simulator run this very code. Driven by replica.Replica, which performs the effects. Start reading here; the protocol is
told in docs/PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mynosql.address import Address
from mynosql.errors import PeerError
from mynosql.row import Version
from mynosql.scope import Scope
from mynosql.sync import effects as fx
from mynosql.sync import messages as ms
from mynosql.sync.choosing import Chooser, Mesh
from mynosql.sync.dialling import RENEW_S_MIN, Dials, Loss
from mynosql.sync.fetching import Fetcher, Wanted
from mynosql.sync.filling import Filler
from mynosql.sync.following import Followers
from mynosql.sync.hub import Hub, NodeConfig
from mynosql.sync.membership import Membership
from mynosql.sync.memory import Memory, Opening, Rejected
from mynosql.sync.options import SyncOptions
from mynosql.sync.pieces import Pieces
from mynosql.sync.publishing import Publisher
from mynosql.sync.pushing import Outbox
from mynosql.sync.serving import Server
from mynosql.sync.surveying import Surveyor

if TYPE_CHECKING:
    import random

__all__ = ["Node", "NodeConfig", "NodeStatus", "SyncOptions", "Wanted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The place of a node in the mesh, at this moment."""

    mirror: Address | None
    """The mirror that a peer follows."""
    connected: int
    """Conversations that are ready, begun here or there."""
    mirrors: tuple[Address, ...]
    """All addresses known: given ones first."""
    is_filling: bool
    behind: int
    """Changes that were announced and are not here yet."""
    rejected: int
    """Changes of ours that a mirror refused."""


class Node:
    """One node. Inputs carry `now` in seconds of any monotonic clock, and return effects; readings have none."""

    def __init__(
        self, config: NodeConfig, *, notes: Mapping[str, bytes], head: int, hlc: int | None = None,
        rng: random.Random, options: SyncOptions | None = None,
    ) -> None:
        """notes: all of the store's; head: its newest durable seq; hlc: highest clock of a version that we wrote.

        hlc None: not known, then only seqs tell whether this node lost some of its history.
        """
        hub = self._hub = Hub(config, head=head, hlc=hlc, rng=rng, options=options or SyncOptions())
        hub.memory = Memory(notes, hub.set_note)
        hub.members = Membership(hub, notes)
        hub.dials = Dials(hub)
        hub.server = Server(hub)
        hub.followers = Followers(hub)
        hub.outbox = Outbox(hub)
        hub.pieces = Pieces(hub)
        hub.fetcher = Fetcher(hub)
        hub.filler = Filler(hub)
        hub.publisher = Publisher(hub)
        hub.surveyor = Surveyor(hub)
        hub.strategy = Mesh(hub) if hub.is_mirror else Chooser(hub)
        hub.is_filling = hub.is_mirror and not hub.memory.is_filled

    # Life

    def start(self, now: float, *, advertised: Address | None, publisher_port: int) -> list[fx.Effect]:
        """Conversations begin with the mirrors that are remembered.

        advertised: where others reach us; None: nowhere. publisher_port: of our PUB on the same host; 0: none.
        """
        hub = self._begin(now)
        hub.is_running = True
        hub.advertised, hub.publisher_port = advertised, publisher_port
        hub.members.on_start()
        hub.memory.narrow_cursors()
        hub.outbox.on_start()
        hub.memory.add_opening(Opening(hub.nonce, hub.durable))
        if hub.is_mirror:
            hub.filler.start()
        hub.strategy.start()
        return self._end()

    def stop(self, now: float) -> list[fx.Effect]:
        """All others are told; nothing happens afterwards whatever comes."""
        hub = self._begin(now)
        hub.server.say_bye_to_all(ms.ByeCode.STOPPED, "the database is being closed")
        hub.is_running = False
        hub.strategy.stop()
        hub.dials.close_all()
        hub.fetcher.stop()
        hub.timers.clear()
        return self._end()

    def set_endpoint(self, advertised: Address | None, publisher_port: int, now: float) -> list[fx.Effect]:
        """Others are told this address from the next Hello or Welcome on."""
        hub = self._begin(now)
        hub.advertised, hub.publisher_port = advertised, publisher_port
        return self._end()

    def set_mode(self, is_mirror: bool, now: float) -> list[fx.Effect]:
        """A new mirror fills until it holds every body; a former one owes what no other mirror confirmed."""
        hub = self._begin(now)
        if is_mirror == hub.is_mirror:
            return self._end()
        memory = hub.memory
        if not is_mirror:
            hub.server.say_bye_to_all(ms.ByeCode.NOT_A_MIRROR, "this node became a peer")
            for link in hub.dials.ready_links():
                hub.send(link, ms.Bye(code=ms.ByeCode.NOT_A_MIRROR, text="this node became a peer"))
        hub.fetcher.hold()
        hub.strategy.stop()
        hub.dials.close_all()
        hub.is_mirror = is_mirror
        hub.publisher.reset()
        if is_mirror:
            memory.owe_rejected()  # mirrors take all
            memory.set_scope(None)
            memory.set_filling(True)
            hub.strategy = Mesh(hub)
            hub.filler.start()
        else:
            hub.filler.stop()
            memory.set_delivered(max(memory.delivered, memory.confirmed_by(hub.acks)), is_kept=True)
            memory.set_owed_all_until(hub.durable)
            hub.strategy = Chooser(hub)
        if hub.is_running:
            hub.strategy.start()
        hub.fetcher.go_on()
        hub.announce(fx.Kind.FILLING)
        return self._end()

    def set_scope(self, scope: Scope | None, now: float) -> list[fx.Effect]:
        """The index of this peer takes in ids with these prefixes only (None: all) from here on; remembered."""
        hub = self._begin(now)
        if not hub.is_mirror and scope != hub.memory.scope:
            hub.memory.set_scope(scope)
            if hub.is_running and not hub.is_renewing:
                hub.dials.greet_all()
        return self._end()

    def on_renewed(self, node: int, index_id: bytes, now: float) -> list[fx.Effect]:
        """We are somebody new: every conversation starts again, and nobody has confirmed anything of this index."""
        hub = self._begin(now)
        hub.node, hub.index_id = node, index_id
        hub.own_hlc = 0
        hub.is_renewing = False
        hub.renewed_at = now
        hub.memory.forget_confirmed()
        hub.memory.add_opening(Opening(hub.nonce, hub.durable), is_first=True)
        hub.publisher.reset()
        hub.server.say_bye_to_all(ms.ByeCode.RENEWED, "this node has a new identity")
        hub.fetcher.hold()
        hub.strategy.stop()
        hub.dials.close_all()
        hub.strategy.start()
        hub.fetcher.go_on()
        return self._end()

    def on_damage(self, id_keys: Iterable[bytes], now: float, *, has_lost_rows: bool) -> list[fx.Effect]:
        """Bodies of these ids are held no more: a mirror fetches them again, a peer when they are read.

        has_lost_rows: some ids are not known any more, so each feed is begun anew.
        """
        hub = self._begin(now)
        if has_lost_rows:
            hub.outbox.on_damage()
            for index_id in list(hub.memory.cursors):
                hub.memory.restart_cursor(index_id)
            if hub.is_running and not hub.is_renewing:
                hub.dials.greet_all()
        if hub.is_mirror and hub.is_running:
            hub.filler.want(id_keys)
        return self._end()

    def on_foreign(self, now: float) -> list[fx.Effect]:
        """A version under our node id came that we never had: this folder was rolled back, or a copy of it lives."""
        hub = self._begin(now)
        if hub.is_running and now - hub.renewed_at >= RENEW_S_MIN:
            hub.renew("others have revisions by this node that it does not have")
        return self._end()

    def add_address(self, address: Address, now: float, *, merge: bool = False) -> list[fx.Effect]:
        """The node at that address is dialled from here on, and remembered."""
        hub = self._begin(now)
        hub.members.give(address, is_merging=merge)
        hub.strategy.on_given(address)
        hub.has_news = True
        return self._end()

    def remove_address(self, address: Address, now: float) -> list[fx.Effect]:
        """The address is forgotten and not learned again."""
        hub = self._begin(now)
        hub.members.take_back(address)
        hub.has_news = True
        return self._end()

    def settle_rejected(self, id_key: bytes, now: float) -> list[fx.Effect]:
        """That record counts as refused no more: it was saved again, or is to be tried again."""
        hub = self._begin(now)
        if hub.memory.settle_rejected({id_key}):
            hub.announce(fx.Kind.REJECTED)
        return self._end()

    # What comes in

    def on_message(self, link: fx.Link, message: ms.Message, now: float, *, user_id: str) -> list[fx.Effect]:
        """One message over one link. user_id: whom the socket proved the sender to be; messages cannot say that."""
        hub = self._begin(now)
        if hub.is_running and not hub.is_renewing:
            try:
                if link.kind is fx.LinkKind.DIAL:
                    dialled = hub.dials.find_link(link)
                    if dialled is not None:
                        dialled.on_message(message)
                else:
                    hub.server.on_message(link, message, user_id)
            except PeerError as error:
                self._drop(link, error)
        return self._end()

    def on_published(self, address: Address, message: ms.Message, now: float) -> list[fx.Effect]:
        """One message of the publisher that was subscribed to under that address."""
        hub = self._begin(now)
        if hub.is_running and not hub.is_renewing:
            try:
                hub.followers.on_published(address, message)
            except PeerError as error:
                self._drop(fx.Link.dial(address), error)
        return self._end()

    def on_garbage(self, link: fx.Link | None, error: PeerError, now: float) -> list[fx.Effect]:
        """Bytes that are no message came over a link (None: nobody knows which): it is dropped, the error shown."""
        self._begin(now)
        self._drop(link, error)
        return self._end()

    def _drop(self, link: fx.Link | None, error: PeerError) -> None:
        hub = self._hub
        hub.fail(error)
        if link is None:
            return
        if link.kind is fx.LinkKind.DIAL:
            dialled = hub.dials.find_link(link)
            if dialled is not None:
                dialled.lose(Loss.REFUSED)
        else:
            hub.server.drop(link)
            hub.emit(fx.HangUp(link=link))

    def on_link_up(self, link: fx.Link, now: float) -> list[fx.Effect]:
        hub = self._begin(now)
        dialled = hub.dials.find_link(link)
        if dialled is not None and hub.is_running:
            dialled.on_up()
        return self._end()

    def on_link_down(self, link: fx.Link, now: float) -> list[fx.Effect]:
        """A link is down, or an attempt to dial failed."""
        hub = self._begin(now)
        dialled = hub.dials.find_link(link)
        if dialled is not None:
            dialled.on_down()
        elif link.kind is fx.LinkKind.SERVED:
            hub.server.drop(link)
        return self._end()

    def on_durable(self, seq: int, now: float, *, hlc: int | None = None) -> list[fx.Effect]:
        """Our changes up to seq survive a power cut. hlc: highest clock of a version that we wrote, if known."""
        hub = self._begin(now)
        hub.durable = max(hub.durable, seq)
        hub.own_hlc = hlc
        if hub.is_running and not hub.is_renewing:
            hub.publisher.on_durable()
            hub.outbox.on_durable()
        return self._end()

    def on_result(self, token: int, result: fx.Result, now: float) -> list[fx.Effect]:
        """The result of the effect with that token; in the order of the effects, before any other input."""
        hub = self._begin(now)
        try:
            hub.answer(token, result)
        except PeerError as error:
            hub.fail(error)
        return self._end()

    def step(self, now: float) -> list[fx.Effect]:
        """What is due is done."""
        hub = self._begin(now)
        while (call := hub.timers.take_due(now)) is not None:
            call()
        return self._end()

    # Reads of the application

    def fetch(
        self, request: int, id_key: bytes, deadline: float, now: float, *, confirm: bool = False,
        version: Version | None = None, all_leaves: bool = False,
    ) -> list[fx.Effect]:
        """A mirror is asked for that record, with the bodies of all its leaves; FetchDone follows."""
        return self.fetch_many([Wanted(
            request=request, id_key=id_key, deadline=deadline, confirm=confirm, version=version, all_leaves=all_leaves
        )], now)

    def fetch_many(self, wanted: Sequence[Wanted], now: float) -> list[fx.Effect]:
        """As fetch, for several records in as few messages as possible."""
        self._begin(now).fetcher.fetch(wanted)
        return self._end()

    def cancel_fetch(self, request: int) -> None:
        """Nobody waits for that fetch any more; no FetchDone follows."""
        self._hub.fetcher.cancel(request)

    # Readings

    def next_due(self, now: float) -> float | None:
        """When step() has something to do; None: not until something happens."""
        return self._hub.timers.next_due

    @property
    def is_mirror(self) -> bool:
        return self._hub.is_mirror

    @property
    def scope(self) -> Scope | None:
        """What the index takes in; None: everything."""
        return self._hub.memory.scope

    @property
    def is_filling(self) -> bool:
        return self._hub.is_filling

    @property
    def connected(self) -> int:
        """Conversations that are ready, begun here or there."""
        return len(self._hub.dials.ready()) + self._hub.server.count

    @property
    def has_live_mirror(self) -> bool:
        """A fetch may succeed."""
        return self._hub.fetcher.is_hopeful

    @property
    def delivered_seq(self) -> int:
        """All that we owed up to here is on the disks of as many mirrors as are asked for (others, for a mirror)."""
        return self._hub.memory.delivered

    @property
    def acked_seq(self) -> int:
        """All that we owed up to here is on the disk of one mirror at least. Of a mirror see confirmed_by."""
        return self._hub.memory.acked

    @property
    def sent_seq(self) -> int:
        """All that we owed up to here was given to the link of a mirror, whatever becomes of it."""
        return self._hub.outbox.sent_seq

    @property
    def confirmed_seq(self) -> int:
        """The most of our feed that another mirror has on its disk."""
        return self._hub.memory.confirmed_by(1)

    @property
    def acks(self) -> int:
        """How many other mirrors must have a change before it counts as delivered."""
        return self._hub.acks

    def confirmed_by(self, count: int) -> int:
        """How much of our feed that many other mirrors have on their disks."""
        return self._hub.memory.confirmed_by(count)

    @property
    def rejected(self) -> Mapping[int, Rejected]:
        """Changes of ours that a mirror refused, by seq."""
        return self._hub.memory.rejected

    def is_owed(self, seq: int, owed: bool) -> bool:
        """No mirror (no other, for a mirror) has confirmed the change with that seq. owed: its row's flag."""
        return self._hub.outbox.is_owed(seq, owed)

    def addresses(self) -> list[Address]:
        """The addresses that the user gave, then those learned."""
        return self._hub.members.addresses()

    def status(self) -> NodeStatus:
        hub = self._hub
        followed = hub.strategy.followed
        return NodeStatus(
            mirror=followed.address if followed is not None else None, connected=self.connected,
            mirrors=tuple(hub.members.addresses()), is_filling=hub.is_filling, behind=hub.followers.behind,
            rejected=len(hub.memory.rejected),
        )

    # Every input

    def _begin(self, now: float) -> Hub:
        self._hub.now = now
        return self._hub

    def _end(self) -> list[fx.Effect]:
        hub = self._hub
        while hub.has_news:
            hub.has_news = False
            if hub.is_running:
                hub.strategy.on_list()
        return hub.take()
