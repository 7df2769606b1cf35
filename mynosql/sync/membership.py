"""The mirrors that a node knows, given by its user or learned from others: in which order to try them, what to pass on.

User-given addresses come first and stay whatever happens; learned ones are found by node id, so that a mirror that
moves is one mirror. Remembered in the notes "addresses" and "mirrors". The rules stand in docs/PROTOCOL.md, "The list
of mirrors". Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgpack

from mynosql.address import Address, parse_address
from mynosql.sync import effects as fx
from mynosql.sync.hub import Hub
from mynosql.sync.messages import Card, MirrorInfo, Mirrors

MIRRORS_MAX = 256
"""Mirrors that are remembered and passed on."""
BANNED_MAX = 256
"""Addresses that the user took back; of more the oldest are forgotten."""
AGE_UNKNOWN_S = (1 << 31) - 1


@dataclass(slots=True)
class Learned:
    """A mirror that somebody told us of, or that came to us."""

    address: Address
    publisher_port: int
    is_filling: bool
    met_at: float
    """When somebody last talked with it, in our time (may lie before our start)."""


@dataclass(slots=True)
class Given:
    """What the user said of an address, and who answered there."""

    is_merging: bool
    node: int | None = None


class Membership:
    """The list of mirrors of one node."""

    def __init__(self, hub: Hub, notes: Mapping[str, bytes]) -> None:
        self._hub = hub
        self.given: dict[Address, Given] = {}
        """In the user's order."""
        self.learned: dict[int, Learned] = {}
        self._filling: dict[int, bool] = {}
        self._banned: dict[Address, None] = {}
        """What the user took back, oldest first."""
        self._departed: dict[int, float] = {}
        self._own: set[Address] = set()
        self._order: dict[int, float] = {}
        self._read(notes)

    def _read(self, notes: Mapping[str, bytes]) -> None:
        try:
            for url, is_merging, answered in msgpack.unpackb(notes.get("addresses") or b"\x90"):
                self.given[parse_address(url)] = Given(bool(is_merging), answered)
            for node, url, port, is_filling, age_s in msgpack.unpackb(notes.get("mirrors") or b"\x90"):
                self.learned[int(node)] = Learned(parse_address(url), int(port), bool(is_filling), -float(age_s))
            for url in msgpack.unpackb(notes.get("banned") or b"\x90"):
                self._banned[parse_address(url)] = None
        except (ValueError, TypeError, msgpack.UnpackException):
            return

    def on_start(self) -> None:
        """Ages that were remembered count from now on."""
        for learned in self.learned.values():
            learned.met_at += self._hub.now
        self._expire()
        self._plan_expiry()

    # What the user says

    def give(self, address: Address, *, is_merging: bool) -> None:
        """The address is remembered, behind those given before; given again, only is_merging may change."""
        if address in self._banned:
            del self._banned[address]
            self._write_banned()
        given = self.given.get(address)
        if given is None:
            self.given[address] = Given(is_merging)
        elif given.is_merging == is_merging:
            return
        else:
            given.is_merging = is_merging
        self._write_given()

    def is_merging(self, address: Address) -> bool:
        given = self.given.get(address)
        return given is not None and given.is_merging

    def take_back(self, address: Address) -> None:
        """The address is forgotten, given or learned, and not learned again until it is given again."""
        if self.given.pop(address, None) is not None:
            self._write_given()
        self._banned.pop(address, None)
        self._banned[address] = None
        while len(self._banned) > BANNED_MAX:
            del self._banned[next(iter(self._banned))]
        self._write_banned()
        nodes = [node for node, learned in self.learned.items() if learned.address == address]
        for node in nodes:
            del self.learned[node]
        if nodes:
            self._write_learned()
            self._plan_expiry()

    def _write_banned(self) -> None:
        value = msgpack.packb([address.tcp_url for address in self._banned])
        self._hub.set_note("banned", value if self._banned else b"")

    def _write_given(self) -> None:
        value = msgpack.packb([
            [address.tcp_url, given.is_merging, given.node] for address, given in self.given.items()
        ])
        self._hub.set_note("addresses", value if self.given else b"")

    # What others say

    def learn(self, infos: Iterable[MirrorInfo], *, is_local: bool) -> None:
        """Mirrors that another node passed on. is_local: its loopback is ours, so loopback addresses mean something."""
        hub = self._hub
        is_news = False
        for info in infos:
            age_s = min(info.age_s, hub.options.expire_s)
            if info.node == hub.node or age_s >= hub.options.expire_s or not self._is_usable(info, is_local):
                continue
            known = self.learned.get(info.node)
            met_at = hub.now - age_s
            if known is None:
                if len(self.learned) >= MIRRORS_MAX:
                    continue
                self.learned[info.node] = Learned(info.advertised, info.publisher_port, info.is_filling, met_at)
                is_news = True
            elif met_at > known.met_at + 1.0:  # fresher by more than what rounding makes
                is_news |= known.address != info.advertised
                known.address, known.publisher_port = info.advertised, info.publisher_port
                known.is_filling, known.met_at = info.is_filling, met_at
                hub.has_news |= self._filling.get(info.node) is not info.is_filling
                self._filling[info.node] = info.is_filling
        if is_news:
            self._on_news()

    def meet(self, card: Card, *, at: Address | None, is_local: bool) -> None:
        """We talk with that mirror ourselves: nothing that others say of it is newer. at: the address we dialled."""
        hub = self._hub
        given = self.given.get(at) if at is not None else None
        if given is not None and given.node != card.node:
            given.node = card.node
            self._write_given()
        self._departed.pop(card.node, None)
        self._filling[card.node] = card.is_filling
        if card.advertised is None or card.node == hub.node:
            return
        if card.advertised in self._banned or (card.advertised.is_loopback and not is_local):
            return
        known = self.learned.get(card.node)
        is_news = known is None or known.address != card.advertised or known.is_filling != card.is_filling
        self.learned[card.node] = Learned(card.advertised, card.publisher_port, card.is_filling, hub.now)
        if is_news:
            self._on_news()

    def touch(self, node: int, *, is_filling: bool) -> None:
        """That mirror was heard of just now."""
        self._filling[node] = is_filling
        known = self.learned.get(node)
        if known is not None:
            known.met_at = self._hub.now
            if known.is_filling != is_filling:
                known.is_filling = is_filling
                self._on_news()

    def depart(self, node: int | None, address: Address) -> None:
        """The node at that address is no mirror (any more): forget it, and do not believe others for a while."""
        nodes = {node} if node is not None else set()
        nodes |= {known for known, learned in self.learned.items() if learned.address == address}
        for gone in nodes:
            self._departed[gone] = self._hub.now + self._hub.options.departed_s
            if self.learned.pop(gone, None) is not None:
                self._on_news()

    def is_own(self, address: Address) -> bool:
        return address in self._own

    def set_own(self, address: Address) -> None:
        """We ourselves answered there."""
        self._own.add(address)

    def _is_usable(self, info: MirrorInfo, is_local: bool) -> bool:
        now = self._hub.now
        if self._departed.get(info.node, now) > now or info.advertised in self._banned:
            return False
        return is_local or not info.advertised.is_loopback

    def _expire(self) -> None:
        oldest = self._hub.now - self._hub.options.expire_s
        for node in [node for node, learned in self.learned.items() if learned.met_at < oldest]:
            del self.learned[node]

    def _plan_expiry(self) -> None:
        """Ages are looked at now and then, also where nothing else happens."""
        hub = self._hub
        if self.learned:
            hub.timers.set_earlier("expire", hub.now + hub.options.expire_s / 30, self._look_at_ages)
        else:
            hub.timers.cancel("expire")

    def _look_at_ages(self) -> None:
        before = len(self.learned)
        self._expire()
        if len(self.learned) < before:
            self._on_news()
        self._plan_expiry()

    def _on_news(self) -> None:
        hub = self._hub
        self._plan_expiry()
        hub.has_news = True
        self._write_learned()
        hub.announce(fx.Kind.MIRRORS)
        hub.timers.set_earlier("gossip", hub.now + hub.options.gossip_delay_s, self._pass_on)

    def _write_learned(self) -> None:
        self._expire()
        now = self._hub.now
        value = msgpack.packb([
            [node, known.address.tcp_url, known.publisher_port, known.is_filling, max(int(now - known.met_at), 0)]
            for node, known in self.learned.items()
        ])
        self._hub.set_note("mirrors", value if self.learned else b"")

    # What we tell others

    def infos(self) -> tuple[MirrorInfo, ...]:
        """The mirrors that we know, but for ourselves."""
        now = self._hub.now
        return tuple(
            MirrorInfo(node, known.address, known.publisher_port, known.is_filling, max(int(now - known.met_at), 0))
            for node, known in self.learned.items()
        )[:MIRRORS_MAX]

    def _pass_on(self) -> None:
        hub = self._hub
        if not hub.is_mirror or not self.learned:
            return
        message = Mirrors(mirrors=self.infos())
        served = hub.server.nodes()
        dialled = [dialled.link for dialled in hub.dials.ready() if dialled.node not in served]
        for link in (*hub.server.links(), *dialled):
            hub.send(link, message)

    # In which order to try them

    def candidates(self) -> list[Address]:
        """All addresses worth dialling, best first: full before filling, given in their order, then learned ones.

        Learned ones stand in an order of each node's own, which spreads the load. A learned address of a node that
        answered at a given one before is left out: the user knows better how to reach it (a proxy, NAT).
        """
        given = [address for address in self.given if address not in self._own]
        nodes = {known.node for known in self.given.values()}
        learned = [
            (self._order.setdefault(node, self._hub.rng.random()), known.address)
            for node, known in self.learned.items()
            if node not in nodes and known.address not in self.given and known.address not in self._own
        ]
        addresses = given + [address for _, address in sorted(learned, key=lambda found: found[0])]
        return sorted(addresses, key=self.is_filling_at)

    def node_at(self, address: Address) -> int | None:
        """Who answered, or is said to answer, at that address; None: nobody yet."""
        given = self.given.get(address)
        if given is not None:
            return given.node
        return next((node for node, learned in self.learned.items() if learned.address == address), None)

    def is_filling(self, node: int) -> bool:
        """That mirror said that it does not hold all bodies yet."""
        learned = self.learned.get(node)
        return self._filling.get(node, learned is not None and learned.is_filling)

    def is_filling_at(self, address: Address) -> bool:
        """The mirror at that address said that it does not hold all bodies yet."""
        node = self.node_at(address)
        return node is not None and self.is_filling(node)

    def addresses(self) -> list[Address]:
        """What the user gave, then what was learned, each once."""
        return list(dict.fromkeys([*self.given, *(known.address for known in self.learned.values())]))
