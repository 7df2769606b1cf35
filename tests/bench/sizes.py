"""How much is measured: the full run of the table, or anything smaller from the command line."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The defaults are the full run; only that one is written to docs/BENCHMARKS.md."""

    rounds: int = 5
    """Fresh processes per measure; the table shows their median."""
    readings: int = 100_000
    """Readings saved, read and synced."""
    games: int = 10_000
    """Game saves of 2 KB."""
    resources: int = 200
    """Resources of 200 KB; 0: none."""
    million: int = 1_000_000
    """Readings of the large size, saved one by one in one process; 0: none."""
    records_open: int = 1_000_000
    """Records in the folder whose opening is timed; filled once per product."""
    live_saves: int = 1_000
    """Saves whose way to another node is timed."""
    frame_blocks: int = 10
    """First syncs beside which a game loop runs, and as many without."""
    steady_s: float = 60.0
    """How long one thread saves without a pause."""
    logged: int = 100
    """Readings of the logger, ten a second, twice."""
    idle_s: float = 20.0
    """How long an idle node is watched."""

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name in ("resources", "million", "records_open") else 1e-9
            if getattr(self, field.name) < least:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}: expected more than nothing")

    @property
    def hot_set(self) -> int:
        return max(1, self.readings // 5)

    @property
    def updates(self) -> int:
        return max(1, self.readings // 5)

    @property
    def is_full(self) -> bool:
        return self == Sizes()

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hot_set": self.hot_set, "updates": self.updates}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option a field: --rounds, --readings…"""
    for field in fields(Sizes):
        option = "--" + field.name.replace("_", "-")
        kind = type(field.default)
        parser.add_argument(option, type=kind, default=field.default, metavar="N", help=f"default {field.default:,}")


def from_arguments(arguments: argparse.Namespace) -> Sizes:
    return Sizes(**{field.name: getattr(arguments, field.name) for field in fields(Sizes)})
