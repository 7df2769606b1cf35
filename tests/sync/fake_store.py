"""A store as a dict, for tests of the protocol: the same answers as the real one, frames that a power cut can drop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from mynosql.codec import digest as digest_of
from mynosql.errors import StorageFull
from mynosql.idkey import id_hash, pack_id
from mynosql.revision import child_of, entry_digest, merge_leaves
from mynosql.row import NO_DIGEST, Leaf, Row, Version
from mynosql.sync import effects as fx
from mynosql.sync.reconciling import Answer, Item, Question, Range, Sum

LEAVES_MAX_PUSHED = 8

Frame = tuple[tuple[Row, ...], dict[str, bytes]]


class FakeStore:
    """Rows by id key, notes, and the frames that made them. What is not fsynced is lost by crashed()."""

    def __init__(self, frames: Sequence[Frame] = ()) -> None:
        self.rows: dict[bytes, Row] = {}
        self.notes: dict[str, bytes] = {}
        self.frames: list[Frame] = []
        self.head = 0
        self.durable = 0
        """Frames that survive a power cut."""
        self.durable_seq = 0
        self.hlc = 0
        self.is_full = False
        self.refuses: set[bytes] = set()
        """Ids whose pushed rows are refused, whatever they hold."""
        self.lost: set[bytes] = set()
        """Ids whose entries damage has taken out of the index."""
        self.is_counting = False
        """There are no sums yet."""
        self.counted_again = 0
        self.put_count = 0
        for rows, notes in frames:
            self._put(rows, notes)
        self.sync()

    # Disk

    @property
    def written(self) -> int:
        return len(self.frames)

    def sync(self) -> None:
        self.durable = self.written
        self.durable_seq = self.head

    def crashed(self) -> FakeStore:
        """What is found after a power cut."""
        return FakeStore(self.frames[: self.durable])

    def backup(self) -> FakeStore:
        return FakeStore(copy.copy(self.frames))

    def _put(self, rows: Sequence[Row], notes: Mapping[str, bytes]) -> None:
        if self.is_full:
            raise StorageFull("no space left: free some")
        numbered = []
        for row in rows:
            if row.seq == 0:
                self.head += 1
                row = row._replace(seq=self.head)
            self.head = max(self.head, row.seq)
            numbered.append(row)
            self.rows[row.id_key] = row
        for key, value in notes.items():
            if value:
                self.notes[key] = value
            else:
                self.notes.pop(key, None)
        self.frames.append((tuple(numbered), dict(notes)))
        self.put_count += 1

    def put(self, rows: Sequence[Row], notes: Mapping[str, bytes] | None = None) -> None:
        self._put(rows, notes or {})

    # The application

    def save(self, id_key: bytes, body: bytes | None, *, node: int, now_ms: int) -> Leaf:
        """Saves over the winner (body None: deletes all leaves); returns the new leaf."""
        row = self.rows.get(id_key)
        leaves = row.leaves if row is not None else ()
        parents = leaves if body is None else leaves[:1]
        others = () if body is None else leaves[1:]
        self.hlc = max(self.hlc + 1, now_ms << 16, *(leaf.hlc + 1 for leaf in leaves), 1)
        leaf = child_of(
            parents, others, hlc=self.hlc, node=node, deleted=body is None, size=len(body or b""),
            digest=NO_DIGEST if body is None else digest_of(body),
        )
        merged = merge_leaves(others, (leaf,)) if others else (leaf,)
        bodies = {} if row is None else dict(zip(row.leaves, row.bodies, strict=True))
        bodies[leaf] = body
        self.put([Row(id_key, merged, tuple(bodies.get(found) for found in merged), 0, True)])
        return leaf

    # Effects

    def apply(self, rows: Sequence[Row], notes: Mapping[str, bytes], *, is_push: bool) -> fx.Applied:
        todo: dict[bytes, Row] = {}
        refused = []
        changed = 0
        is_copy = True
        for row in rows:
            mine = todo.get(row.id_key) or self.rows.get(row.id_key)
            fault = self._fault(row, mine, is_push)
            if fault is not None:
                refused.append(fx.RefusedRow(id_key=row.id_key, code=fault, text=f"{row.id_key!r}: {fault}"))
                continue
            new = self._merged(row, mine)
            if new is not None:
                changed += new.seq == 0
                is_copy &= new.seq != 0 or new.leaves == row.leaves
                todo[row.id_key] = new
        first = self.head + 1
        if todo or notes:
            self._put(list(todo.values()), notes)
        if not changed:
            return fx.Applied(head=self.head, refused=tuple(refused))
        return fx.Applied(
            first_seq=first, last_seq=self.head, head=self.head, refused=tuple(refused), is_copy=is_copy
        )

    def _fault(self, row: Row, mine: Row | None, is_push: bool) -> str | None:
        for leaf, body in zip(row.leaves, row.bodies, strict=True):
            if body is not None and (len(body) != leaf.size or digest_of(body) != leaf.digest):
                return "body-wrong"
        if not is_push:
            return None
        if row.id_key in self.refuses:
            return "refused-by-test"
        known = mine.leaves if mine is not None else ()
        merged = merge_leaves(known, row.leaves) if known else row.leaves
        if len(merged) > LEAVES_MAX_PUSHED and len(merged) > len(known):
            return "too-many-leaves"
        for leaf, body in zip(row.leaves, row.bodies, strict=True):
            if body is None and not leaf.deleted and leaf in merged and leaf not in known:
                return "body-missing"
        return None

    def _merged(self, row: Row, mine: Row | None) -> Row | None:
        if mine is None:
            return Row(row.id_key, row.leaves, row.bodies)
        bodies = {leaf: body for leaf, body in zip(row.leaves, row.bodies, strict=True) if body is not None}
        bodies.update({leaf: body for leaf, body in zip(mine.leaves, mine.bodies, strict=True) if body is not None})
        merged = merge_leaves(mine.leaves, row.leaves)
        held = tuple(bodies.get(leaf) for leaf in merged)
        if merged is mine.leaves:
            return None if held == mine.bodies else mine._replace(bodies=held)
        is_owed = mine.owed and any(leaf in mine.leaves and leaf not in row.leaves for leaf in merged)
        return Row(row.id_key, merged, held, 0, is_owed)

    def feed(self, effect: fx.ReadFeed) -> fx.Feed:
        rows = []
        spent = 0
        last = effect.until
        ordered = sorted((row for row in self.rows.values() if effect.after < row.seq <= effect.until),
                         key=lambda row: row.seq)
        for position, row in enumerate(ordered):
            if effect.owed_only and not row.owed:
                continue
            if effect.prefixes and not any(row.id_key.startswith(pack_id(prefix)) for prefix in effect.prefixes):
                continue
            bodies = tuple(
                body if body is not None and len(body) <= effect.body_bytes_max else None for body in row.bodies
            )
            rows.append(row._replace(bodies=bodies))
            spent += 60 + sum(len(body) for body in bodies if body is not None)
            if spent >= effect.bytes_max and position + 1 < len(ordered):
                last = row.seq
                break
        return fx.Feed(rows=tuple(rows), last=last, more=last < effect.until)

    def held(self, id_key: bytes, body_bytes_max: int) -> fx.HeldRow | None:
        row = self.rows.get(id_key)
        if row is None:
            return None
        bits = 0
        for position, (leaf, body) in enumerate(zip(row.leaves, row.bodies, strict=True)):
            if leaf.deleted or body is not None:
                bits |= 1 << position
        bodies = tuple(body if body is not None and len(body) <= body_bytes_max else None for body in row.bodies)
        return fx.HeldRow(row._replace(bodies=bodies, owed=False), bits)

    def bodies(self, effect: fx.ReadBodies) -> fx.Held:
        found = []
        spent = 0
        for id_key in effect.id_keys:
            held = self.held(id_key, effect.body_bytes_max)
            found.append(held)
            spent += 0 if held is None else sum(len(body) for body in held.row.bodies if body is not None)
            if spent >= effect.bytes_max:
                break
        return fx.Held(rows=tuple(found))

    def piece(self, effect: fx.ReadPiece) -> fx.Stretch:
        row = self.rows.get(effect.id_key)
        if row is not None:
            for leaf, body in zip(row.leaves, row.bodies, strict=True):
                if Version(leaf.hlc, leaf.node) == effect.version and body is not None:
                    return fx.Stretch(data=body[effect.offset : effect.offset + effect.length])
        return fx.Stretch(data=None)

    def missing(self, after_key: bytes, limit: int) -> fx.Missing:
        found = sorted(id_key for id_key in self.missing_bodies() if id_key > after_key)
        return fx.Missing(id_keys=tuple(found[:limit]))

    def offers(self, effect: fx.ReadOffers) -> fx.Offers:
        found = []
        for id_key in sorted(self.rows):
            row = self.rows[id_key]
            is_any_held = any(
                leaf.deleted or body is not None for leaf, body in zip(row.leaves, row.bodies, strict=True)
            )
            if id_key > effect.after_key and is_any_held and (row.seq <= effect.until_seq or not row.owed):
                found.append(fx.Offered(id_key, id_hash(id_key), entry_digest(id_key, row.leaves)[:8]))
        return fx.Offers(offers=tuple(found[: effect.limit]))

    def compare(self, effect: fx.CompareOffers) -> fx.Compared:
        bare = set(self.missing_bodies())
        ours = {
            id_hash(id_key): entry_digest(id_key, row.leaves)[:8]
            for id_key, row in self.rows.items() if id_key not in bare
        }
        return fx.Compared(wanted=tuple(
            position for position, (hashed, digest) in enumerate(effect.offers) if ours.get(hashed) != digest
        ))

    def sums(self, question: Question) -> fx.Sums:
        if self.is_counting:
            return fx.Sums(answer=None, head=self.head)
        digests = {
            Item(id_hash(id_key) % (1 << 64), entry_digest(id_key, row.leaves)): id_key
            for id_key, row in self.rows.items() if id_key not in self.lost
        }
        keys = {Item(item.id_hash, item.digest[:8]): id_key for item, id_key in digests.items()}

        def within(part: Range) -> list[Item]:
            return [item for item in digests if item.id_hash >> 64 - part.bits == part.prefix]

        sums = [
            Sum(len(within(part)), sum(int.from_bytes(item.digest, "big") for item in within(part)) % (1 << 128))
            for part in question.sums
        ]
        lists = [[Item(item.id_hash, item.digest[:8]) for item in within(part)] for part in question.lists]
        return fx.Sums(answer=Answer(sums, lists), head=self.head, keys=keys)

    def hashed(self, hashes: Sequence[int]) -> fx.Held:
        by_hash = {id_hash(id_key) % (1 << 64): row for id_key, row in self.rows.items()}
        return fx.Held(rows=tuple(
            None if (row := by_hash.get(hashed)) is None
            else fx.HeldRow(Row(row.id_key, row.leaves, (None,) * len(row.leaves), row.seq), 0)
            for hashed in hashes
        ))

    # What tests look at

    def body(self, id_key: bytes) -> bytes | None:
        row = self.rows.get(id_key)
        return None if row is None else row.bodies[0]

    def leaves(self) -> dict[bytes, tuple[Leaf, ...]]:
        return {id_key: row.leaves for id_key, row in self.rows.items()}

    def missing_bodies(self) -> list[bytes]:
        return [
            row.id_key for row in self.rows.values()
            if any(body is None and not leaf.deleted for leaf, body in zip(row.leaves, row.bodies, strict=True))
        ]
