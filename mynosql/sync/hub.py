"""What the parts of one node share: who we are, the time of this input, the effects so far, timers, open questions.

Owns no rule of the protocol. Parts reach each other through it (hub.fetcher …), set once by node.Node. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mynosql.address import Address
from mynosql.errors import MyNoSQLError
from mynosql.sync import effects as fx
from mynosql.sync.memory import Memory
from mynosql.sync.messages import Message
from mynosql.sync.options import SyncOptions
from mynosql.sync.timers import Timers

if TYPE_CHECKING:
    import random

    from mynosql.sync.choosing import Strategy
    from mynosql.sync.dialling import Dials
    from mynosql.sync.fetching import Fetcher
    from mynosql.sync.filling import Filler
    from mynosql.sync.following import Followers
    from mynosql.sync.membership import Membership
    from mynosql.sync.pieces import Pieces
    from mynosql.sync.publishing import Publisher
    from mynosql.sync.pushing import Outbox
    from mynosql.sync.serving import Server
    from mynosql.sync.surveying import Surveyor


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who this node is at opening."""

    database: str
    node: int
    index_id: bytes
    nonce: int
    """Random, of this opening."""
    is_mirror: bool
    acks: int = 1
    """How many other mirrors must have a change on disk before it counts as delivered."""


class Hub:
    """Shared by the parts of one node."""

    dials: Dials
    server: Server
    members: Membership
    followers: Followers
    outbox: Outbox
    fetcher: Fetcher
    filler: Filler
    pieces: Pieces
    publisher: Publisher
    memory: Memory
    strategy: Strategy
    surveyor: Surveyor

    def __init__(
        self, config: NodeConfig, *, head: int, hlc: int | None, rng: random.Random, options: SyncOptions
    ) -> None:
        self.database = config.database
        self.node = config.node
        self.index_id = config.index_id
        self.nonce = config.nonce
        self.is_mirror = config.is_mirror
        self.acks = config.acks
        self.is_filling = False
        self.advertised: Address | None = None
        self.publisher_port = 0
        self.durable = head
        """Our newest seq that survives a power cut: the only one that others are told."""
        self.own_hlc = hlc
        """Highest clock of a version that we wrote; None: not known just now."""
        self.rng = rng
        self.options = options
        self.now = 0.0
        self.timers = Timers()
        self.is_running = False
        self.is_renewing = False
        self.renewed_at = float("-inf")
        self.has_news = False
        """The list of addresses changed: the strategy looks at it when this input is done, not in the middle."""
        self._out: list[fx.Effect] = []
        self._asked: dict[int, Callable[[Any], None]] = {}
        self._next_token = 1
        self._next_request = rng.getrandbits(48) << 8

    # Effects

    def emit(self, effect: fx.Effect) -> None:
        self._out.append(effect)

    def take(self) -> list[fx.Effect]:
        """All effects since the last call."""
        out, self._out = self._out, []
        return out

    def send(self, link: fx.Link, message: Message) -> None:
        if not self.is_renewing:
            self._out.append(fx.Send(link=link, message=message))

    def fail(self, error: MyNoSQLError) -> None:
        """Background trouble that a person should see."""
        self._out.append(fx.Fail(error=error))

    def announce(self, kind: fx.Kind) -> None:
        self._out.append(fx.Announce(kind=kind))

    def set_note(self, key: str, value: bytes) -> None:
        self._out.append(fx.SetNote(key=key, value=value))

    def renew(self, reason: str) -> None:
        """Somebody else goes by our name, or knows more of us than we do: nothing leaves until we have another."""
        if not self.is_renewing:
            self.is_renewing = True
            self._out.append(fx.Renew(reason=reason))

    # Questions to the store

    def ask(self, effect: Callable[[int], fx.Effect], then: Callable[[Any], None]) -> None:
        """Emit the effect made for a fresh token; then(result) follows, before any other input."""
        token = self._next_token
        self._next_token += 1
        self._asked[token] = then
        self._out.append(effect(token))

    def answer(self, token: int, result: fx.Result) -> None:
        then = self._asked.pop(token, None)
        if then is not None:
            then(result)

    # Small help

    def request(self) -> int:
        """A number for a message that wants an answer; never the same twice."""
        self._next_request += 1
        return self._next_request

    def jitter(self, seconds: float) -> float:
        """About that long, so that nodes do not act in step."""
        return seconds * self.rng.uniform(0.75, 1.25)

    def backoff(self, tries: int, first_s: float, most_s: float) -> float:
        """How long to wait after that many failures (1: the first)."""
        return self.jitter(min(most_s, first_s * 2.0 ** min(tries - 1, 16)))
