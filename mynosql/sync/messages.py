"""The messages that nodes exchange: what each carries. Frozen values with every field bounded.

`wire.encode` and `wire.decode` turn them into frames and back. A paragraph for each, with its rules, is in
docs/PROTOCOL.md. `is_gated`: the message speaks of what must be on our disk first, so the interpreter holds it back
until all that is written when it is sent is fsynced (Entries: all rows). No I/O; used by node.Node, its parts, and the
interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple

from mynosql.address import Address
from mynosql.row import Row, Version
from mynosql.sync.reconciling import Answer, Question

VERSION_LOW = 1
VERSION_HIGH = 2
"""The protocol versions that this release speaks; docs/PROTOCOL.md, "Versions"."""


# Parts of messages


class Known(NamedTuple):
    """How far somebody knows a node's history: that is what the node must have itself, or it lost some of it."""

    index_id: bytes
    seq: int
    node: int
    hlc: int
    """Highest clock of a version that this node id wrote; 0: none seen."""
    nonce: int
    """Of the opening in which the node told of that seq; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Who a node is, as it says itself in Hello and Welcome."""

    node: int
    index_id: bytes
    """16 bytes."""
    nonce: int
    """Random, of this opening of the database: two processes with one node id differ in it."""
    databases: tuple[bytes, ...]
    """The ids of the database, 16 bytes each, sorted; more than one after a merge; none: never met a mirror."""
    is_young: bool
    """Nothing was ever exchanged with another node under these ids: they may still give way to another's."""
    is_mirror: bool
    is_filling: bool
    advertised: Address | None
    """Where other nodes reach this one; None for a node that does not listen."""
    publisher_port: int
    """The port of its PUB on the same host; 0: none."""
    head: int
    """Its newest durable seq."""


class MirrorInfo(NamedTuple):
    """One mirror of the mesh, as it is passed on."""

    node: int
    advertised: Address
    publisher_port: int
    is_filling: bool
    age_s: int
    """Seconds since somebody last talked with it."""


class Status(Enum):
    """What the asked node has of one id."""

    HELD = 0
    """The row follows with the bodies that it holds, all of them inline."""
    LARGE = 1
    """The row follows, but the body of at least one leaf that it holds is too large for it: fetch that in pieces."""
    NOT_HELD = 2
    """It knows the id (the row follows) but does not hold the winner's body, or it cannot tell since it is filling."""
    ABSENT = 3
    """The id is not in its index, and it is a full mirror."""


class BodyItem(NamedTuple):
    """The answer for one id of a Fetch."""

    id_key: bytes
    status: Status
    row: Row | None
    """The complete leaf set; None when the node knows nothing of the id."""
    large: int = 0
    """Bit i set: the body of row.leaves[i] is held there, and not in the row because of its size."""


class Refusal(NamedTuple):
    """One row of a Push that was not taken."""

    position: int
    """In Push.rows."""
    code: str
    text: str


class OfferItem(NamedTuple):
    """One entry of an Offer."""

    id_hash: int
    digest: bytes
    """8 bytes over id key and leaves (revision.entry_digest)."""


class ByeCode(Enum):
    """Why a conversation ended."""

    STOPPED = "stopped"
    """The node closes its database, or does not need the conversation any more."""
    NO_SESSION = "no-session"
    """It does not know this link: say Hello again."""
    RENEWED = "renewed"
    """It has a new identity: say Hello again."""
    NOT_A_MIRROR = "not-a-mirror"
    """It became a peer."""
    STORAGE = "storage"
    """It cannot write any more: go to another mirror."""


class RefusedCode(Enum):
    """Why a Hello was refused; the text says more."""

    VERSION = "version"
    NAME = "name"
    DATABASE = "database"
    NOT_A_MIRROR = "not-a-mirror"
    SELF = "self"
    CLONE = "clone"


# Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The dialling node introduces itself; nothing else is accepted from it before Welcome."""

    is_gated: ClassVar[bool] = False
    version_low: int
    version_high: int
    database: str
    session: int
    """Names this attempt; Welcome and Refused repeat it."""
    is_merging: bool
    """Its user wants the two databases joined, whatever their ids."""
    card: Card
    known: Known | None
    """What it remembers of the node at this address."""
    is_listening: bool
    """It subscribes to what is published; a peer with a scope does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The serving node accepts the Hello. Gated, because a database id may have been minted for it."""

    is_gated: ClassVar[bool] = True
    session: int
    version: int
    card: Card
    known: Known | None
    """What it knows of the node that said Hello."""
    heartbeat_ms: int
    """The first heartbeat follows within this time."""
    mirrors: tuple[MirrorInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The serving node does not talk with this one."""

    is_gated: ClassVar[bool] = False
    session: int
    code: RefusedCode
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """Asks for the feed of `index_id` from `after` on."""

    is_gated: ClassVar[bool] = False
    request: int
    index_id: bytes
    after: int
    prefixes: tuple[str, ...]
    """Only ids that begin with one of these, and further ones of them follow as Changes over this link; empty: all."""
    with_bodies: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Answers a Pull with the stretch (after, last] of the feed."""

    is_gated: ClassVar[bool] = True
    request: int
    index_id: bytes
    after: int
    last: int
    head: int
    more: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Asks for the complete rows of these ids, bodies included."""

    is_gated: ClassVar[bool] = False
    request: int
    id_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """Answers a Fetch, or a part of it; the ids that are left come in further Bodies."""

    is_gated: ClassVar[bool] = True
    request: int
    items: tuple[BodyItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPiece:
    """Asks for a stretch of the body of one leaf. Either side may ask the other."""

    is_gated: ClassVar[bool] = False
    request: int
    id_key: bytes
    version: Version
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Answers a FetchPiece."""

    is_gated: ClassVar[bool] = True
    request: int
    is_held: bool
    """False: the node does not hold the body of that version (any more)."""
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A peer delivers: the owed rows of its feed in (first, last], or rows that the mirror wants of an Offer (0, 0)."""

    is_gated: ClassVar[bool] = True
    request: int
    index_id: bytes
    first: int
    last: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The rows of that Push are on the mirror's disk, but for those refused."""

    is_gated: ClassVar[bool] = True
    request: int
    index_id: bytes
    last: int
    seq: int
    """The mirror's own newest seq once the rows were applied: they stand at or below it. It must never know less."""
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Await:
    """Asks a mirror to tell when `count` other mirrors have its feed up to `seq` on their disks."""

    is_gated: ClassVar[bool] = False
    request: int
    index_id: bytes
    """The mirror's, of which the seq is."""
    seq: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """Answers an Await, once that is so."""

    is_gated: ClassVar[bool] = False
    request: int
    index_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A peer that meets an index for the first time names what it holds."""

    is_gated: ClassVar[bool] = False
    request: int
    items: tuple[OfferItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Answers an Offer: positions of the items that the mirror lacks or has otherwise."""

    is_gated: ClassVar[bool] = True
    request: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Asks a mirror for sums over ranges of its index, and for the entries of others."""

    is_gated: ClassVar[bool] = False
    request: int
    index_id: bytes
    """The mirror's."""
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Answers a Compare."""

    is_gated: ClassVar[bool] = True
    request: int
    index_id: bytes
    head: int
    """The sums speak of the mirror's index as of this seq."""
    answer: Answer | None
    """None: it has not counted everything yet; ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Asks for the entries with these id hashes."""

    is_gated: ClassVar[bool] = False
    request: int
    id_hashes: tuple[int, ...]
    """Unsigned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Answers a Lookup: the rows of those that the mirror has, without bodies."""

    is_gated: ClassVar[bool] = True
    request: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A mirror has the feed of `index_id` up to `seq` on its disk."""

    is_gated: ClassVar[bool] = True
    index_id: bytes
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """The mirrors that a node knows, sent when the list changes. Either side may send it."""

    is_gated: ClassVar[bool] = False
    mirrors: tuple[MirrorInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Answer with a Pong of the same number. Either side may ask the other."""

    is_gated: ClassVar[bool] = False
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Answers a Ping."""

    is_gated: ClassVar[bool] = False
    number: int
    load: int = 0
    """How many nodes follow the one that answers, or push to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """The conversation is over."""

    is_gated: ClassVar[bool] = False
    code: ByeCode
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Published, and sent to those who pull with prefixes: rows of the feed from first to last, once durable."""

    is_gated: ClassVar[bool] = True
    index_id: bytes
    first: int
    last: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Published: how far the feed goes, and when the next heartbeat comes."""

    is_gated: ClassVar[bool] = True
    index_id: bytes
    head: int
    next_ms: int
    is_filling: bool
    total: bytes = b""
    """Sum over the whole index as of head (16 bytes): a follower with another one compares; none while it changes."""


Message = (
    Hello | Welcome | Refused | Pull | Entries | Fetch | Bodies | FetchPiece | Piece | Push | Ack | Await | Confirmed
    | Offer | Want | Compare | Sums | Lookup | Found | Report | Mirrors | Ping | Pong | Bye | Changes | Heartbeat
)
