"""The values that cross borders: one revision as a leaf, one id's leaves, and a row that carries them with bodies.

A Row is what a journal frame, a block and a network batch consist of; an Entry is what the index answers for one id.
NamedTuples, not dataclasses: a save makes two of them, and a frozen dataclass costs five times as much to create.
No I/O, no clock. The rules that join leaves are in revision.py, the bytes in batch.py.
"""

from __future__ import annotations

from typing import NamedTuple

DIGEST_BYTES = 8
NO_DIGEST = bytes(DIGEST_BYTES)


class Version(NamedTuple):
    """Names one revision: hybrid logical clock (48 bits of ms, 16 of counter) and 64-bit node id."""

    hlc: int
    node: int


class Ancestry(NamedTuple):
    """The past of a revision that more than one node has written (DESIGN: vector, except, floor)."""

    vector: tuple[Version, ...]
    """Highest hlc per node in the past, the revision itself included; sorted by node."""
    excepted: tuple[Version, ...] = ()
    """Versions under the vector that are not in the past; sorted."""
    floor: int = 0
    """Highest hlc of the vector entries that were dropped at the cap."""


class Leaf(NamedTuple):
    """A revision with no descendant."""

    generation: int
    hlc: int
    node: int
    deleted: bool
    size: int
    """Bytes of the packed body; 0 when deleted."""
    digest: bytes
    """First 8 bytes of BLAKE2b-256 over the packed body; NO_DIGEST when deleted."""
    ancestry: Ancestry | None = None
    """None while one node alone has written the record: vector {node: hlc}, nothing excepted."""


Leaves = tuple[Leaf, ...]
"""The whole leaf set of one id, winner first, losers in winner order. Never empty."""


class StaleBody(NamedTuple):
    """A body held of a superseded revision: what a peer can still show offline."""

    leaf: Leaf
    body: bytes


class Row(NamedTuple):
    """One id's current state as it is written or sent."""

    id_key: bytes
    leaves: Leaves
    bodies: tuple[bytes | None, ...]
    """Aligned with leaves: the packed body, or None where it is not carried or the leaf is deleted."""
    seq: int = 0
    """Place in the sender's (on disk: our own) feed; 0: not yet numbered."""
    owed: bool = False
    """This node still has to deliver it (meant on disk only; never read from another node)."""
    stray: bool = False
    """Written for its body only: the change itself stands elsewhere in the feed under the same seq."""
    stale: StaleBody | None = None


class Entry(NamedTuple):
    """What the index knows of one id."""

    id_key: bytes
    leaves: Leaves
    held: int
    """Bit i set: the body of leaves[i] is in this store (deleted leaves count as held)."""
    seq: int
    owed: bool
    stale: Leaf | None
    """The superseded revision whose body is held, if any."""

    @property
    def winner(self) -> Leaf:
        return self.leaves[0]

    @property
    def is_live(self) -> bool:
        return not self.leaves[0].deleted

    @property
    def is_fresh(self) -> bool:
        """The winner's body is held."""
        return bool(self.held & 1)
