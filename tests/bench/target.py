"""What the benchmarks ask of a database, ours or a rival. A new rival is one class and one entry in TARGETS."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.bench import installed
from tests.bench.workload import Body


class Target(Protocol):
    """One embedded database in one folder of its own. Every call leaves the data as safe as the product's own calls do.

    Imports of the product belong into __init__ and not into the module: only the process of that target pays for them.
    """

    def open(self, folder: Path) -> None:
        """Open or create the database in an existing folder."""

    def close(self) -> None:
        """Close it; what its disk use is measured on."""

    def prepare(self, key: str, body: Body) -> Any:
        """What `save` is given for this record: the form in which a caller of this product would hold it. Not timed."""

    def save(self, item: Any) -> None:
        """Insert one new record and commit it."""

    def save_batch(self, items: Sequence[Any]) -> None:
        """Insert new records and commit them together."""

    def read(self, key: str) -> Body:
        """The record as a fresh dict that the caller may change."""

    def update(self, key: str, record: Body) -> None:
        """Write back what `read` returned, changed, and commit it."""

    def delete(self, key: str) -> None:
        """Take it out and commit that."""


OURS = "mynosql"
BASELINE = "sqlite3"
PREDECESSOR = "mynosql-0.0.6"

TARGETS = {
    OURS: "tests.bench.ours:OurDatabase",
    BASELINE: "tests.bench.rivals:SqliteTable",
    "diskcache": "tests.bench.rivals:DiskCache",
    "rocksdict": "tests.bench.rivals:RocksDict",
    "rocksdict-zstd": "tests.bench.rivals:RocksZstd",
    "lmdb": "tests.bench.rivals:Lmdb",
    "sqlitedict": "tests.bench.rivals:SqliteDict",
    "zodb": "tests.bench.rivals:Zodb",
    "tinydb": "tests.bench.rivals:TinyDb",
    PREDECESSOR: "tests.bench.rivals:Predecessor",
}
"""Name in the table and on the command line → class."""
MODULES = {"rocksdict-zstd": "rocksdict", "zodb": "ZODB"}
"""Name → the module that must be importable, where it is another."""


def python_of(name: str) -> str | Path:
    """The interpreter that this target runs in."""
    return installed.predecessor_python() if name == PREDECESSOR else sys.executable


def make_target(name: str) -> Target:
    module_name, _, class_name = TARGETS[name].partition(":")
    target: Target = getattr(importlib.import_module(module_name), class_name)()
    return target


def find_skip_reason(name: str) -> str | None:
    """Why this target cannot take part on this machine; None if it can."""
    if name == PREDECESSOR:
        return None if installed.predecessor_python().exists() else f"{name} is not installed: {installed.HINT}"
    if importlib.util.find_spec(MODULES.get(name, name)) is None:
        return f"{name} is not installed: pip install -e '.[bench]'"
    return None
