"""PouchDB as a rival between nodes: LevelDB in Node.js at both ends, express-pouchdb at the one that others reach.

The work is done by pouch_rival.js; here it is given the readings as JSON. PouchDB never asks LevelDB for an fsync, so
what it acknowledges is in the page cache. Its batches are of 1,000 and not of 100 as by default, which favours it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.bench.installed import HINT, find_node, pouch_folder
from tests.bench.nodes import SAVE_INTERVAL_S, WARM_UP_SAVES, percentiles
from tests.bench.sync_target import Result, SyncTarget
from tests.bench.workload import readings
from tests.faults.processes import Child
from tests.faults.proxy import Proxy

DEADLINE_S = 300.0
SCRIPT = Path(__file__).with_suffix(".js")


class Pouch(SyncTarget):
    """One process serves a database, others replicate from it and to it over HTTP."""

    def find_skip_reason(self) -> str | None:
        if find_node() is None or not (pouch_folder() / "node_modules" / "express-pouchdb").is_dir():
            return f"PouchDB is not installed: {HINT}"
        return None

    def first_sync(self, folder: Path, count: int) -> Result:
        with _Node("server", folder / "source", file=_write_readings(folder, count)) as source:
            return {"sync_records_per_s": count / _pull(folder, source.port(), count)}

    def wire(self, folder: Path, count: int) -> Result:
        with (
            _Node("server", folder / "source", file=_write_readings(folder, count)) as source,
            Proxy("127.0.0.1", source.port(), port_count=1) as proxy,
        ):
            _pull(folder, proxy.port, count)
            return {"sync_tcp_bytes": proxy.bytes_total / count}

    def push(self, folder: Path, count: int) -> Result:
        file = _write_readings(folder, count)
        with (
            _Node("server", folder / "server") as server,
            _Node("push", folder / "writer", file=file, url=_url(server.port())) as writer,
        ):
            return {"push_records_per_s": count / writer.read_until("seconds", DEADLINE_S)["seconds"]}

    def live(self, folder: Path, saves: int) -> Result:
        """The serving process puts readings into its database; the follower reads each as its own copy tells of it."""
        file = _write_readings(folder, saves + WARM_UP_SAVES)
        with (
            _Node("server", folder / "source") as source,
            _Node("follow", folder / "copy", url=_url(source.port()), saves=saves + WARM_UP_SAVES) as follower,
        ):
            follower.read_until("ready", DEADLINE_S)
            source.send({"file": file, "interval_ms": SAVE_INTERVAL_S * 1e3})
            latencies_ms = follower.read_until("latencies_ms", DEADLINE_S)["latencies_ms"]
        return percentiles(latencies_ms[WARM_UP_SAVES:])


class _Node(Child):
    """A process of Node.js at one job of pouch_rival.js."""

    def __init__(self, job: str, folder: Path, **details: Any) -> None:
        node = find_node()
        assert node is not None, "Node.js has gone since the run began"
        super().__init__([node, SCRIPT], environment={"POUCH_FOLDER": str(pouch_folder())})
        self.send({"job": job, "folder": str(folder), **details})

    def port(self) -> int:
        """Of the server, once its database is filled."""
        port: int = self.read_until("port", DEADLINE_S)["port"]
        return port


def _pull(folder: Path, port: int, count: int) -> float:
    """Seconds that an empty copy takes."""
    with _Node("pull", folder / "copy", url=_url(port)) as copy:
        answer = copy.read_until("seconds", DEADLINE_S)
    assert answer["records"] == count, f"the copy has {answer['records']} records: expected {count}"
    seconds: float = answer["seconds"]
    return seconds


def _write_readings(folder: Path, count: int) -> str:
    file = folder / "readings.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for key, body in readings(count):
            lines.write(json.dumps({"_id": key, **body}) + "\n")
    return str(file)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/db/bench"
