"""Who may talk with whom: the checks of Hello and Welcome, each a function from what both sides said to a verdict.

The rules stand in docs/PROTOCOL.md, "Handshake". Pure; used by serving.Server and dialling.Dialled.
"""

from __future__ import annotations

from typing import NamedTuple

from mynosql.sync.hub import Hub
from mynosql.sync.memory import DATABASE_ID_BYTES, DATABASES_MAX, Cursor
from mynosql.sync.messages import Card, Hello, Known, RefusedCode, Welcome


class Verdict(NamedTuple):
    """Why the other side is refused."""

    code: RefusedCode
    text: str


def our_card(hub: Hub) -> Card:
    """Who we are, now."""
    return Card(
        node=hub.node, index_id=hub.index_id, nonce=hub.nonce, databases=hub.memory.databases,
        is_young=is_young(hub), is_mirror=hub.is_mirror, is_filling=hub.is_filling, advertised=hub.advertised,
        publisher_port=hub.publisher_port, head=hub.durable,
    )


def is_young(hub: Hub) -> bool:
    """Our database ids may still give way: nothing was exchanged under them, or there is nothing to exchange."""
    return not hub.memory.is_synced or hub.durable == 0


def known_of(hub: Hub, card: Card) -> Known | None:
    """What we know of that node's history; None: nothing."""
    memory = hub.memory
    every = (memory.cursors, memory.pushed, memory.witnessed)
    found = [cursors[card.index_id] for cursors in every if card.index_id in cursors]
    hlc = memory.hlc_of(card.node)
    if not found and not hlc:
        return None
    newest = max(found, default=Cursor(0))
    return Known(card.index_id, newest.seq, card.node, hlc, newest.nonce)


def find_loss(hub: Hub, known: Known | None) -> str | None:
    """What somebody knows of us and we do not have (our folder was restored or copied); None: nothing."""
    if known is None:
        return None
    if known.index_id == hub.index_id:
        try:
            limit = hub.memory.limit_of(known.nonce) if known.nonce else None
        except KeyError:
            return "another node heard of this one in an opening that this folder knows nothing of"
        if known.seq > (hub.durable if limit is None else limit):
            return f"another node knows {known.seq} changes of this one, which had {limit or hub.durable}"
    if known.node == hub.node and hub.own_hlc is not None and known.hlc > hub.own_hlc:
        return "another node knows newer revisions of this one than it has"
    return None


def judge_hello(hub: Hub, hello: Hello) -> Verdict | None:
    """Why this Hello is refused; None: it is welcome."""
    card = hello.card
    if card.node == hub.node and card.nonce == hub.nonce:
        return Verdict(RefusedCode.SELF, "this is the node that you are")
    low, high = hub.options.version_low, hub.options.version_high
    if hello.version_low > high or hello.version_high < low:
        return Verdict(
            RefusedCode.VERSION,
            f"protocol versions {hello.version_low} to {hello.version_high} asked for, {low} to {high} "
            "spoken here: update the older side",
        )
    if not hub.is_mirror:
        return Verdict(RefusedCode.NOT_A_MIRROR, "this node is a peer, and only mirrors serve others: use a mirror's")
    if hello.database != hub.database:
        return Verdict(
            RefusedCode.NAME,
            f"database {hello.database[:60]!r} asked for, {hub.database!r} served here: check name and address",
        )
    if not _agree(hub, card, is_merging=hello.is_merging):
        return Verdict(RefusedCode.DATABASE, _differ_text(hub, card))
    if card.node == hub.node:
        return Verdict(RefusedCode.CLONE, "another process that lives uses the same node id")
    return None


def judge_welcome(hub: Hub, welcome: Welcome, *, is_merging: bool) -> Verdict | None:
    """Why we do not go on with the node that welcomed us; None: we do."""
    card = welcome.card
    low, high = hub.options.version_low, hub.options.version_high
    if not low <= welcome.version <= high:
        return Verdict(
            RefusedCode.VERSION, f"protocol version {welcome.version} chosen there, {low} to {high} spoken here",
        )
    if not card.is_mirror:
        return Verdict(RefusedCode.NOT_A_MIRROR, "the node there is a peer; use a mirror's address")
    if not _agree(hub, card, is_merging=is_merging):
        return Verdict(RefusedCode.DATABASE, _differ_text(hub, card))
    return None


def choose_version(hub: Hub, hello: Hello) -> int:
    """The highest version that both speak; judge_hello has found that there is one."""
    return min(hello.version_high, hub.options.version_high)


def join_databases(hub: Hub, card: Card) -> bool:
    """Our database ids now include theirs, as far as there is room; True when that changed them."""
    joined = tuple(sorted(set(hub.memory.databases) | set(card.databases)))[:DATABASES_MAX]
    if joined == hub.memory.databases:
        return False
    hub.memory.set_databases(joined)
    return True


def mint_database(hub: Hub) -> None:
    """A mirror that serves somebody for the first time gives the database its id."""
    hub.memory.set_databases((hub.rng.getrandbits(8 * DATABASE_ID_BYTES).to_bytes(DATABASE_ID_BYTES, "big"),))


def _agree(hub: Hub, card: Card, *, is_merging: bool) -> bool:
    ours, theirs = hub.memory.databases, card.databases
    if not ours or not theirs or not set(ours).isdisjoint(theirs):
        return True
    return is_merging or is_young(hub) or card.is_young


def _differ_text(hub: Hub, card: Card) -> str:
    ours, theirs = hub.memory.databases[0].hex(), card.databases[0].hex()
    return (
        f"another database of the same name: id {theirs[:12]} there, {ours[:12]} here; they were created apart. "
        "Give one another name, or join them with addpeer(url, merge=True)"
    )
