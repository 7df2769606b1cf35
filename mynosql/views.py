"""What the face answers with: frozen values that a program may keep, compare and print. No behaviour of their own."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["fresh", "stale", "remote", "pending", "deleted", "absent", "unknown"]
Level = Literal["sent", "mirror", "mirrors"]
"""What waitsync waits for; its docstring says what each means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocInfo:
    """What this node knows of one id, offline too."""

    id: Hashable
    state: State
    """fresh: held, the newest revision known. stale: held, but a newer revision is known. remote: exists, not held.
    pending: written here, too few mirrors (OpenOptions.acks) have confirmed it yet. deleted.
    absent: a complete index does not name it. unknown: this index cannot tell (never complete, or outside of its
    scope; rev and held_rev then say what is held here)."""
    rev: str | None = None
    """The winning revision known here, the tombstone's for a deleted record; None for absent and unknown."""
    held_rev: str | None = None
    """The revision whose body is held here; None when none is."""
    size: int = 0
    """Bytes of the packed winning body."""
    conflicts: int = 0
    """Concurrent revisions that lost and wait for resolvedoc."""
    as_of: float | None = None
    """Unix time in seconds at which the index was last known complete; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """One leaf of a record that more than one node edited apart."""

    rev: str
    deleted: bool
    held: bool
    """False: the body is not here and no mirror could be asked; rec is None."""
    rec: dict[Any, Any] | None
    node: str
    """The node that wrote it, 16 hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A change written here that a mirror refused: it stays here as it was saved, and no mirror has it."""

    id: Hashable
    rev: str
    """The newest revision of it that was written here."""
    code: str
    """too-many-leaves: its record has eight concurrent revisions already; resolve them. body-wrong: the body does not
    match its digest, this disk or the way to the mirror is damaged. body-missing: the body was not delivered."""
    reason: str
    """The mirror's words, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row of this node's feed: the newest state of one id."""

    id: Hashable
    rev: str
    deleted: bool
    token: str
    """Give it to changes(since=…) to go on after this change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncStatus:
    """The state of this node and of its place in the mesh, at the moment of the call."""

    mode: str
    """"Peer" or "Mirror"."""
    node: str
    """This node's id, 16 hex digits."""
    endpoint: str | None
    """Where other nodes reach this one; None when it does not listen."""
    mirror: str | None
    """The address of the mirror that this peer follows; None for a mirror, or when none is reached."""
    connected: int
    """Live conversations with other nodes."""
    mirrors: tuple[str, ...]
    """Addresses of all mirrors known."""
    filling: bool
    """A mirror that does not hold every body yet."""
    records: int
    """Live records the index knows."""
    held: int
    """Records of which the newest known revision is held here."""
    stale: int
    """Records of which only an older revision is held here."""
    missing: int
    """Live records of which the newest known revision is not held here."""
    pending: int
    """Changes written here that too few mirrors (OpenOptions.acks) have confirmed."""
    conflicts: int
    """Records with concurrent revisions."""
    rejected: int
    """Changes written here that a mirror refused and that are set aside: rejecteddocs() names them."""
    behind: int
    """Changes that the followed mirrors have announced and that are not here yet."""
    as_of: float | None
    """Unix time in seconds at which the index was last known complete; None: never."""
    bytes_sent: int
    bytes_received: int
    """Payload bytes handed to and taken from the mesh since opening."""
    last_error: str | None
    """The newest background failure, None when there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that checkdb found wrong."""

    file: str
    offset: int | None
    what: str
    records: int
    """How many records it concerns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """The result of repair."""

    ok: bool
    """Nothing is known to be lost."""
    folder: str
    """The new database."""
    records: int
    """Live records that it holds."""
    lost: tuple[Hashable, ...]
    """Ids of records of which a revision is known and its content cannot be read."""
    problems: tuple[Problem, ...]
    """The damage, with the number of records that it hit where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The result of checkdb."""

    ok: bool
    problems: tuple[Problem, ...]
    records: int
    blocks: int
