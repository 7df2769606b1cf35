"""What the protocol asks of the store without changing it: feeds, bodies, pieces, sums, and what to offer to another.

One function per asked of sync/effects.py. No clock, no state. Driven by replica.Replica.
"""

from __future__ import annotations

from mynosql.idkey import id_hash
from mynosql.revision import entry_digest
from mynosql.row import Entry, Row
from mynosql.scope import is_within
from mynosql.store.store import Store
from mynosql.sync import effects as fx
from mynosql.sync.reconciling import Answer, Item, Sum

SCOPED_SLICES_MAX = 4
"""Slices of the feed that are looked through for one Pull with prefixes before an answer without rows leaves."""

Lookup = (
    fx.ReadFeed | fx.ReadBodies | fx.ReadPiece | fx.ReadMissing | fx.ReadOffers | fx.CompareOffers | fx.ReadSums
    | fx.ReadHashes
)


def look_up(store: Store, asked: Lookup) -> fx.Result:
    """The answer. Raises StorageCorrupt, StorageError."""
    if isinstance(asked, fx.ReadFeed):
        return _read_feed(store, asked)
    if isinstance(asked, fx.ReadBodies):
        return _read_bodies(store, asked)
    if isinstance(asked, fx.ReadPiece):
        return _read_piece(store, asked)
    if isinstance(asked, fx.ReadMissing):
        entries = store.missing(asked.after_key, asked.limit)
        return fx.Missing(id_keys=tuple(entry.id_key for entry in entries))
    if isinstance(asked, fx.ReadOffers):
        return _read_offers(store, asked)
    if isinstance(asked, fx.ReadSums):
        return _read_sums(store, asked)
    if isinstance(asked, fx.ReadHashes):
        found = store.find_hashes([_signed(id_hash) for id_hash in asked.id_hashes])
        return fx.Held(rows=tuple(map(_bare, map(found.get, map(_signed, asked.id_hashes)))))
    return _compare_offers(store, asked)


def _read_feed(store: Store, asked: fx.ReadFeed) -> fx.Feed:
    """With prefixes a few slices are looked through, not all at once: nobody else is served meanwhile."""
    after, slices = asked.after, SCOPED_SLICES_MAX if asked.prefixes else 1
    while True:
        piece = store.feed(
            after, until_seq=asked.until, bytes_max=asked.bytes_max, bodies=asked.body_bytes_max > 0,
            body_bytes_max=asked.body_bytes_max, owed_only=asked.owed_only,
        )
        rows = piece.rows
        if asked.prefixes:
            rows = tuple(row for row in rows if is_within(asked.prefixes, row.id_key))
        after, slices = piece.last_seq, slices - 1
        if rows or not piece.more or not slices:
            return fx.Feed(rows=rows, last=piece.last_seq, more=piece.more)


def _read_bodies(store: Store, asked: fx.ReadBodies) -> fx.Held:
    rows: list[fx.HeldRow | None] = []
    spent = 0
    for id_key in asked.id_keys:
        entry = store.find(id_key)
        if entry is None:
            rows.append(None)
            continue
        bodies: list[bytes | None] = []
        for position, leaf in enumerate(entry.leaves):
            is_wanted = not leaf.deleted and leaf.size <= asked.body_bytes_max and entry.held >> position & 1
            body = store.read_body(id_key, position) if is_wanted else None
            spent += len(body or b"")
            bodies.append(body)
        rows.append(fx.HeldRow(Row(id_key, entry.leaves, tuple(bodies), entry.seq), entry.held))
        if spent >= asked.bytes_max:
            break
    return fx.Held(rows=tuple(rows))


def _read_piece(store: Store, asked: fx.ReadPiece) -> fx.Stretch:
    entry = store.find(asked.id_key)
    if entry is not None:
        for position, leaf in enumerate(entry.leaves):
            if leaf.hlc == asked.version.hlc and leaf.node == asked.version.node and entry.held >> position & 1:
                data = store.read_piece(asked.id_key, position, asked.offset, asked.length)
                return fx.Stretch(data=data)
    return fx.Stretch(data=None)


def _read_offers(store: Store, asked: fx.ReadOffers) -> fx.Offers:
    """Reads page by page until `limit` entries are worth offering: fewer means that these were the last."""
    offers: list[fx.Offered] = []
    low = asked.after_key + b"\0" if asked.after_key else b""
    while len(offers) < asked.limit:
        entries = store.entries(low, None, live_only=False, limit=asked.limit)
        for entry in entries:
            low = entry.id_key + b"\0"
            if entry.held and (entry.seq <= asked.until_seq or not entry.owed):
                digest = entry_digest(entry.id_key, entry.leaves)[:8]
                offers.append(fx.Offered(entry.id_key, id_hash(entry.id_key), digest))
                if len(offers) == asked.limit:
                    break
        if len(entries) < asked.limit:
            break
    return fx.Offers(offers=tuple(offers))


def _compare_offers(store: Store, asked: fx.CompareOffers) -> fx.Compared:
    found = store.find_hashes([offered for offered, _ in asked.offers])
    wanted = []
    for position, (offered, digest) in enumerate(asked.offers):
        entry = found.get(offered)
        is_whole = entry is not None and entry.held == (1 << len(entry.leaves)) - 1
        if entry is None or not is_whole or entry_digest(entry.id_key, entry.leaves)[:8] != digest:
            wanted.append(position)
    return fx.Compared(wanted=tuple(wanted))


def _read_sums(store: Store, asked: fx.ReadSums) -> fx.Sums:
    """Without an answer: nothing is counted yet; whoever is urgent has had it asked for."""
    sums, lists = asked.question
    if not store.has_sums(is_urgent=asked.is_urgent):
        return fx.Sums(answer=None, head=store.head_seq)
    keys: dict[Item, bytes] = {}
    listed = []
    for part in lists:
        found = {Item(_unsigned(key.id_hash), key.digest[:8]): key.id_key for key in store.items_of(*part)}
        keys.update(found)
        listed.append(list(found))
    answer = Answer([Sum(*store.sum_of(*part)) for part in sums], listed)
    return fx.Sums(answer=answer, head=store.head_seq, keys=keys)


def _bare(entry: Entry | None) -> fx.HeldRow | None:
    if entry is None:
        return None
    return fx.HeldRow(Row(entry.id_key, entry.leaves, (None,) * len(entry.leaves), entry.seq), entry.held)


def _unsigned(id_hash: int) -> int:
    return id_hash & (1 << 64) - 1


def _signed(id_hash: int) -> int:
    return id_hash - (1 << 64) if id_hash >> 63 else id_hash
