"""What the benchmarks ask of a product that keeps copies in step. A new rival is one class, one entry in SYNC_TARGETS.

Every step is given an empty folder, starts its own processes on loopback and leaves none behind.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.bench.target import OURS

Result = dict[str, float]


class SyncTarget:
    """A step that a product cannot do stays as it is here, and the table has no figure of it."""

    def find_skip_reason(self) -> str | None:
        """Why this product cannot take part on this machine; None if it can."""
        return None

    def first_sync(self, folder: Path, count: int) -> Result:
        """An empty copy joins one that holds `count` readings: "sync_records_per_s" until it has all of them."""
        return {}

    def wire(self, folder: Path, count: int) -> Result:
        """The same through a proxy that counts the bytes of TCP, both ways: "sync_tcp_bytes" a record."""
        return {}

    def push(self, folder: Path, count: int) -> Result:
        """A writer hands `count` readings to another process: "push_records_per_s" until all are acknowledged."""
        return {}

    def live(self, folder: Path, saves: int) -> Result:
        """From a save on one node to its record read on another: "live_p50_ms", "live_p99_ms"."""
        return {}


SYNC_TARGETS = {
    OURS: "tests.bench.nodes:OurNodes",
    "redis": "tests.bench.redis_rival:Redis",
    "redis-always": "tests.bench.redis_rival:DurableRedis",
    "nats": "tests.bench.nats_rival:Nats",
    "nats-always": "tests.bench.nats_rival:DurableNats",
    "pouchdb": "tests.bench.pouch_rival:Pouch",
    "mynosql-0.0.6": "tests.bench.predecessor_rival:PredecessorNodes",
}
"""Name in the table and on the command line → class."""


def make_sync_target(name: str) -> SyncTarget:
    module_name, _, class_name = SYNC_TARGETS[name].partition(":")
    target: SyncTarget = getattr(importlib.import_module(module_name), class_name)()
    return target


def find_skip_reason(name: str) -> str | None:
    """Why this product cannot take part on this machine; None if it can."""
    return make_sync_target(name).find_skip_reason()
