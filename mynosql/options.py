"""The options of opendb: one frozen class, each field with its unit, its default and why. Checked when made."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mynosql.errors import OptionInvalid
from mynosql.scope import check_scope

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\- ]{0,99}")
"""A database's name is also its folder's name, on every system."""

DURABILITIES = ("batch", "each")
ACKS_MAX = 16
"""Mirrors that may be asked to hold a record: more than anybody runs, and a bound for what travels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How one database is opened on this node."""

    name: str
    mode: str | None = None
    """"Peer" or "Mirror", any letter case; None: as it was, "Peer" for a new database."""
    listen: str | None = None
    """host:port for other nodes; port 0 picks one; None: remembered, and only a mirror listens by itself."""
    peers: tuple[str, ...] = ()
    """Addresses of other nodes, as for addpeer."""
    secret: str | None = None
    """The cluster secret made by `mynosql keygen`; None: $MYNOSQL_SECRET, else none."""
    insecure: bool = False
    """Allow other hosts without a secret: anyone who reaches the port reads and writes."""
    advertise: str | None = None
    """The address that other nodes are told, where the one listened on is not reachable (NAT, containers)."""
    durability: str = "batch"
    """batch: a save survives a crash of the process as it returns, a power cut after fsync_interval_s.
    each: a save returns once it is fsynced."""
    fsync_interval_s: float = 0.1
    """The longest time a save waits for its fsync under "batch" while no other node listens; more spares SD cards."""
    acks: int | None = None
    """How many other mirrors must have a change on disk before it counts as delivered, 1 to 16; until then it is
    pending here. Remembered; None: as it was, 1 for a new database."""
    scope: tuple[str, ...] | None = None
    """Id prefixes that a peer's index is limited to, as for setindexscope; None: as it was, everything at first."""
    memtable_bytes_max: int = 4 << 20
    """Saves collected in memory and in the journal before they are sealed into compressed blocks."""
    cache_bytes_max: int = 12 << 20
    """Memory for records read before."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME_PATTERN.fullmatch(self.name) or self.name.endswith((" ", ".")):
            raise OptionInvalid(
                f"database name {self.name!r}: expected 1 to 100 letters, digits, '_', '-', '.' or inner spaces, "
                "the first a letter or digit, since it names a folder"
            )
        check_mode(self.mode)
        if self.durability not in DURABILITIES:
            raise OptionInvalid(f"durability {self.durability!r}: expected 'batch' or 'each'")
        if not 0 <= self.fsync_interval_s <= 3600:
            raise OptionInvalid(f"fsync_interval_s {self.fsync_interval_s!r}: expected seconds from 0 to 3600")
        if self.acks is not None and (type(self.acks) is not int or not 1 <= self.acks <= ACKS_MAX):
            raise OptionInvalid(f"acks {self.acks!r}: expected a number of mirrors from 1 to {ACKS_MAX}")
        check_scope(self.scope)
        if self.memtable_bytes_max < 1 << 16 or self.cache_bytes_max < 0:
            raise OptionInvalid("memtable_bytes_max must be at least 65536 and cache_bytes_max not negative")


def check_mode(mode: str | None) -> bool | None:
    """True for a mirror, False for a peer, None for none given; raises OptionInvalid for anything else."""
    if mode is None:
        return None
    text = mode.lower() if isinstance(mode, str) else mode
    if text not in ("peer", "mirror"):
        raise OptionInvalid(f"mode {mode!r}: expected 'Peer' or 'Mirror'")
    return text == "mirror"
