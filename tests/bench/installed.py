"""What tests/bench/install_rivals.sh has installed, in a folder of its own, because the `bench` extra cannot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HINT = "run tests/bench/install_rivals.sh"


def rivals_folder() -> Path:
    """$MYNOSQL_BENCH_RIVALS, else mynosql-bench in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MYNOSQL_BENCH_RIVALS") or Path(cache) / "mynosql-bench")


def find_node() -> str | None:
    """The program of Node.js: one of our own where the system has none."""
    own = rivals_folder() / "node" / "bin"
    return shutil.which("node", path=str(own)) or shutil.which("node")


def pouch_folder() -> Path:
    """Where npm has put PouchDB: below it is node_modules."""
    return rivals_folder() / "pouchdb"


def predecessor_python() -> Path:
    """The interpreter of the environment that has MyNoSQL 0.0.6, whose name and import are ours too."""
    return rivals_folder() / "mynosql-0.0.6" / "bin" / "python"
