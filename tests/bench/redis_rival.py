"""Redis as the rival between nodes: full resync of an empty replica, and set → get on a connected one.

Two redis-server processes of our own on loopback: without persistence, which favours Redis, since our mirror writes
what it received to disk; and with an append-only file that is fsynced before each acknowledgement. Its reader asks in a
tight loop instead of being told, which favours it too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.nodes import SAVE_INTERVAL_S, WARM_UP_SAVES, percentiles
from tests.bench.sync_target import Result, SyncTarget
from tests.bench.workload import readings
from tests.faults.processes import PythonChild, emit, receive
from tests.faults.proxy import Proxy

DEADLINE_S = 60.0
POLL_INTERVAL_S = 0.001
PIPELINED = 1_000
"""Commands sent before their answers are read."""


class Redis(SyncTarget):
    """No persistence: what a replica or an acknowledgement promises is in memory."""

    append_only = "no"

    def find_skip_reason(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "redis-server is not installed: run tests/bench/install_rivals.sh"
        if importlib.util.find_spec("redis") is None:
            return "its client is not installed: pip install -e '.[bench]'"
        return None

    def first_sync(self, folder: Path, count: int) -> Result:
        """Until the link is up and all keys are there."""
        with self._pair(folder) as (master, replica):
            _set_all(master, _pack(count))
            start = time.perf_counter()
            _replicate(replica, _port(master), count)
            return {"sync_records_per_s": count / (time.perf_counter() - start)}

    def wire(self, folder: Path, count: int) -> Result:
        with self._pair(folder) as (master, replica), Proxy("127.0.0.1", _port(master), port_count=1) as proxy:
            _set_all(master, _pack(count))
            _replicate(replica, proxy.port, count)
            return {"sync_tcp_bytes": proxy.bytes_total / count}

    def push(self, folder: Path, count: int) -> Result:
        """This process sets readings in pipelines."""
        items = _pack(count)
        with _server(folder / "master", self.append_only) as master:
            start = time.perf_counter()
            _set_all(master, items)
            return {"push_records_per_s": count / (time.perf_counter() - start)}

    def live(self, folder: Path, saves: int) -> Result:
        """This process sets readings on the master, another one gets each from the replica as soon as it is there."""
        import msgpack

        pairs = readings(saves + WARM_UP_SAVES)
        with self._pair(folder) as (master, replica):
            replica.replicaof("127.0.0.1", _port(master))
            # A replica may say that the link is up a second before the master begins to stream: wait for a first key.
            master.set("first", b"")
            _wait(lambda: _is_link_up(replica) and replica.exists("first"))
            with PythonChild("from tests.bench import redis_rival\nredis_rival.reading_process()") as reader:
                reader.send({"port": _port(replica), "saves": len(pairs)})
                reader.read_until("ready", DEADLINE_S)
                for key, body in pairs:
                    time.sleep(SAVE_INTERVAL_S)
                    master.set(key, msgpack.packb({**body, "saved_ns": time.monotonic_ns()}))
                latencies_ms = reader.read_until("latencies_ms", DEADLINE_S)["latencies_ms"]
        return percentiles(latencies_ms[WARM_UP_SAVES:])

    @contextlib.contextmanager
    def _pair(self, folder: Path) -> Iterator[tuple[Any, Any]]:
        with (
            _server(folder / "master", self.append_only) as master,
            _server(folder / "replica", self.append_only) as replica,
        ):
            yield master, replica


class DurableRedis(Redis):
    """An append-only file, fsynced before each acknowledgement."""

    append_only = "yes"


def reading_process() -> None:
    """In a child: get each key in turn until it is there."""
    import msgpack
    import redis

    job = receive()
    client = redis.Redis(port=job["port"])
    client.ping()
    latencies_ms: list[float] = []
    emit({"ready": True})
    for key, _ in readings(job["saves"]):
        while (value := client.get(key)) is None:
            pass
        record = msgpack.unpackb(value)
        latencies_ms.append((time.monotonic_ns() - record["saved_ns"]) / 1e6)
    emit({"latencies_ms": latencies_ms})
    receive()


@contextlib.contextmanager
def _server(folder: Path, append_only: str) -> Iterator[Any]:
    """A redis-server on a free port of loopback and a client of it; ended and reaped afterwards."""
    import redis

    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "--bind": "127.0.0.1", "--port": str(port), "--dir": str(folder), "--save": "",
        "--appendonly": append_only, "--appendfsync": "always",
        # Start the resync at once; by default a diskless one waits 5 s for more replicas.
        "--repl-diskless-sync": "yes", "--repl-diskless-sync-delay": "0",
    }  # fmt: skip
    command = ["redis-server", *(word for pair in settings.items() for word in pair)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        _wait(lambda: _answers(client))
        yield client
    finally:
        client.close()
        process.kill()  # nothing of it is kept
        process.wait()


def _pack(count: int) -> list[tuple[str, bytes]]:
    import msgpack

    return [(key, msgpack.packb(body)) for key, body in readings(count)]


def _set_all(master: Any, items: list[tuple[str, bytes]]) -> None:
    """Every reading is acknowledged when this returns."""
    for start in range(0, len(items), PIPELINED):
        with master.pipeline(transaction=False) as pipeline:
            for key, value in items[start : start + PIPELINED]:
                pipeline.set(key, value)
            pipeline.execute()


def _replicate(replica: Any, port: int, count: int) -> None:
    """The replica holds everything when this returns; with an append-only file, that file does."""
    replica.replicaof("127.0.0.1", port)
    _wait(lambda: replica.dbsize() == count and _is_link_up(replica) and _is_written(replica))


def _answers(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def _is_link_up(replica: Any) -> bool:
    return bool(replica.info("replication")["master_link_status"] == "up")


def _is_written(replica: Any) -> bool:
    """A replica writes what a resync brought into its append-only file afterwards, in the background."""
    state = replica.info("persistence")
    return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]


def _port(client: Any) -> int:
    port: int = client.connection_pool.connection_kwargs["port"]
    return port


def _wait(condition: Any) -> None:
    ends_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_at, "redis did not get there within the deadline"
        time.sleep(POLL_INTERVAL_S)
