"""What a node asks of the world, and what the world answers: the whole border of the pure protocol.

A Node's inputs return a list of effects; the interpreter (replica.Replica, in tests harness.FakeReplica) performs them
in list order. An effect with a token has a result, a value below "Results", which goes back through
`Node.on_result(token, result, now)`: in the order of the effects, and before any other input. Values only: no
behaviour, no I/O. Driven by node.Node and its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mynosql.address import Address
from mynosql.errors import MyNoSQLError
from mynosql.row import Row, Version
from mynosql.sync.messages import Changes, Heartbeat, Message
from mynosql.sync.reconciling import Answer, Item, Question


class LinkKind(Enum):
    """Which side began a conversation."""

    DIAL = "dial"
    """We did: a DEALER of ours to the address in the link's name."""
    SERVED = "served"
    """They did: the link's name is the hex of the routing id on our ROUTER."""


class Link(NamedTuple):
    """Names one conversation. A dial is named by its address, so its messages outlive no HangUp."""

    kind: LinkKind
    name: str

    @classmethod
    def dial(cls, address: Address) -> Link:
        return cls(LinkKind.DIAL, address.tcp_url)

    @classmethod
    def served(cls, name: str) -> Link:
        return cls(LinkKind.SERVED, name)


class Topic(Enum):
    """The three topics of a mirror's PUB; the value is the subscription prefix, the first frame of a publication."""

    ENTRIES = b"e"
    """Changes without bodies: what peers take."""
    BODIES = b"b"
    """The same changes with small bodies inline: what mirrors take."""
    HEARTBEAT = b"h"
    """Heartbeats: what everybody takes."""


class Origin(Enum):
    """Where rows to apply come from; decides what is refused."""

    INDEX = "index"
    """The feed of a mirror (Entries, Changes): rows are merged as they are, bodies may be missing."""
    PUSH = "push"
    """A writer that this mirror answers for (Push): a ninth leaf, or a new live leaf without its body, is refused."""
    FETCH = "fetch"
    """Bodies that were asked for: merged by the same rules as INDEX."""


class Kind(Enum):
    """What an Announce tells those who wait."""

    CONNECTED = "connected"
    """A conversation became ready."""
    DISCONNECTED = "disconnected"
    """A conversation ended."""
    CAUGHT_UP = "caught-up"
    """The index is complete up to the head that was last heard of: as_of is now."""
    DELIVERED = "delivered"
    """acked_seq, delivered_seq or what others confirmed moved: waitsync may be over."""
    REJECTED = "rejected"
    """A mirror refused one of our changes, or a rejected one was settled."""
    MIRRORS = "mirrors"
    """The list of mirrors changed."""
    FILLING = "filling"
    """is_filling changed."""
    DATABASE = "database"
    """A database id was adopted or minted."""


# Effects on the network


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Connect a DEALER to that address and keep it connected; on_link_up and on_link_down tell how it goes.

    A Dial after a HangUp of the same address, also in one list, is a new connection.
    """

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """End a conversation: close the DEALER of a dial, forget what waits for a served link. No on_link_down follows."""

    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Connect a SUB to `publisher` and take these topics; what comes goes to on_published under `address`."""

    address: Address
    """The dial that it belongs to: its name, whatever the publisher's address is."""
    publisher: Address
    topics: tuple[Topic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """Close the SUB of that dial, if there is one."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send one message. When message.is_gated, only once all that is written to the store now is fsynced."""

    link: Link
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Publish one message under one topic. Gated as Send."""

    topic: Topic
    message: Changes | Heartbeat


# Effects on the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Merge rows into the store by the ordinary rules and write the notes, in one journal frame. Result: Applied.

    With an error (StorageFull, StorageFailed) neither rows nor notes are written and the result is Failed.
    """

    token: int
    rows: tuple[Row, ...]
    origin: Origin
    notes: Mapping[str, bytes] = field(default_factory=dict)
    """Small durable values that stand or fall with the rows (cursors)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFeed:
    """Read our own feed from `after` on. Result: Feed."""

    token: int
    after: int
    until: int
    """No row above this seq, and Feed.last is not above it."""
    bytes_max: int
    """About how much to read: rows and bodies together; at least one row."""
    body_bytes_max: int
    """Carry held bodies up to this size; 0: none at all."""
    owed_only: bool = False
    prefixes: tuple[str, ...] = ()
    """Only ids that begin with one of these; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBodies:
    """Read these ids as held: entry and bodies of all leaves. Result: Held."""

    token: int
    id_keys: tuple[bytes, ...]
    body_bytes_max: int
    """Leave bodies above this size out (their bit in HeldRow.held says that they are here); 0: no body at all."""
    bytes_max: int
    """Stop after the row that reaches this: the result may be shorter than id_keys, never empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPiece:
    """Read a stretch of the body of one leaf. Result: Stretch (data None: this store does not hold that body)."""

    token: int
    id_key: bytes
    version: Version
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMissing:
    """List live ids of which a live leaf's body is not held, in id-key order. Result: Missing."""

    token: int
    after_key: bytes
    """Only ids behind this one; b"": from the first."""
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOffers:
    """List ids in id-key order with a digest of their leaves, to offer them to a node. Result: Offers.

    Only entries with seq <= until_seq or not owed (the outbox brings the others), of which a tombstone or at least
    one body is held.
    """

    token: int
    after_key: bytes
    limit: int
    until_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOffers:
    """Tell which of the offered entries this store lacks, or a body of, or has with other leaves. Result: Compared."""

    token: int
    offers: tuple[tuple[int, bytes], ...]
    """(idkey.id_hash, revision.entry_digest) of each entry offered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSums:
    """Sums of some ranges of the id hash and the entries of others. Result: Sums."""

    token: int
    question: Question
    is_urgent: bool
    """Somebody waits: what is still to be counted is counted now, in the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadHashes:
    """Read the entries with these id hashes (unsigned), without bodies. Result: Held, one for each hash."""

    token: int
    id_hashes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountAgain:
    """Our sums are found to be wrong: they are counted anew in the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNote:
    """Write one small durable value; b"" deletes it. May be grouped with later writes, never reordered with them."""

    key: str
    value: bytes


# Effects on those who wait


class Outcome(Enum):
    """How a fetch ended."""

    FOUND = "found"
    """FetchDone.row is the row as the mirror gave it, at least as new as asked; it has been applied."""
    ABSENT = "absent"
    """A full mirror says that the id does not exist."""
    NOT_HELD = "not-held"
    """The id exists, but no mirror that answered holds its body."""
    UNAVAILABLE = "unavailable"
    """No mirror is live."""
    TIMEOUT = "timeout"
    """The deadline passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchDone:
    """The fetch with this number is over."""

    request: int
    outcome: Outcome
    row: Row | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Mint node id and index id anew, durably, then call Node.on_renewed. Nothing is sent before that."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Show this error in syncstatus().last_error; nothing stops because of it."""

    error: MyNoSQLError


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Wake those who wait for this."""

    kind: Kind


Effect = (
    Dial | HangUp | Subscribe | Unsubscribe | Send | Publish | Apply | ReadFeed | ReadBodies | ReadPiece | ReadMissing
    | ReadOffers | CompareOffers | ReadSums | ReadHashes | CountAgain | SetNote | FetchDone | Renew | Fail | Announce
)


# Results


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A row that was not taken, with the reason."""

    id_key: bytes
    code: str
    """"body-wrong", "body-missing", "too-many-leaves" …: see docs/PROTOCOL.md, "Ack"."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of an Apply."""

    first_seq: int = 0
    """Our own seqs that the rows got: first_seq..last_seq, both 0 when nothing changed."""
    last_seq: int = 0
    head: int = 0
    """Our newest seq now: all that the rows say stands at or below it, also what was here before."""
    refused: tuple[RefusedRow, ...] = ()
    is_copy: bool = False
    """Each of these seqs has the leaves just as they came: their sender learns nothing from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A stretch of our feed."""

    rows: tuple[Row, ...]
    last: int
    """The point reached, also when nothing matched."""
    more: bool
    """False: `last` is the `until` that was asked for."""


class HeldRow(NamedTuple):
    """One id as this store has it."""

    row: Row
    held: int
    """Bit i set: the body of row.leaves[i] is in this store, in the row or not (deleted leaves count as held)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The rows of ReadBodies in order, as far as bytes_max went; None for an id (hash) that is not in the index."""

    rows: tuple[HeldRow | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A piece of a body; data None: that body is not held."""

    data: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Ids whose bodies are missing; fewer than the limit: these were the last."""

    id_keys: tuple[bytes, ...]


class Offered(NamedTuple):
    """One entry to offer."""

    id_key: bytes
    id_hash: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """Entries to offer; fewer than the limit: these were the last."""

    offers: tuple[Offered, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Positions in CompareOffers.offers of the entries that we want."""

    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """The answer to a Question, as of our seq `head`; None: not everything is counted yet."""

    answer: Answer | None
    head: int
    keys: Mapping[Item, bytes] = field(default_factory=dict)
    """Id keys of the entries listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The effect could not be performed; nothing of it was done."""

    error: MyNoSQLError


Result = Applied | Feed | Held | Stretch | Missing | Offers | Compared | Sums | Failed
