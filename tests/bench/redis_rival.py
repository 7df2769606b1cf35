"""Redis as the rival between nodes: full resync of an empty replica, and set → get on a connected one.

Two redis-server processes of our own on loopback, without persistence. Both choices favour Redis: it keeps what it
received in memory only, while our mirror writes it to disk; and its reader asks in a tight loop instead of being told.
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

from tests.bench.nodes import SAVE_INTERVAL_S, WARM_UP_SAVES, Result, percentiles
from tests.bench.workload import readings
from tests.faults.processes import PythonChild, emit, receive

NAME = "redis"
DEADLINE_S = 60.0
POLL_INTERVAL_S = 0.001


def find_skip_reason() -> str | None:
    """Why Redis cannot take part on this machine; None if it can."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed: run tests/bench/install_rivals.sh"
    if importlib.util.find_spec("redis") is None:
        return "its client is not installed: pip install -e '.[bench]'"
    return None


def measure_first_sync(folder: Path, count: int) -> Result:
    """An empty replica joins a master that holds `count` readings; until the link is up and all keys are there."""
    import msgpack

    with _server(folder / "master") as master, _server(folder / "replica") as replica:
        with master.pipeline(transaction=False) as pipeline:
            for key, body in readings(count):
                pipeline.set(key, msgpack.packb(body))
            pipeline.execute()
        start = time.perf_counter()
        replica.replicaof("127.0.0.1", _port(master))
        _wait(lambda: replica.dbsize() == count and _is_link_up(replica))
        seconds = time.perf_counter() - start
        received = replica.info("stats")["total_net_repl_input_bytes"]
    return {"sync_records_per_s": count / seconds, "sync_wire_bytes": received / count}


def measure_live(folder: Path, saves: int) -> Result:
    """This process sets readings on the master, another one gets each from the replica as soon as it is there."""
    import msgpack

    pairs = readings(saves + WARM_UP_SAVES)
    with _server(folder / "master") as master, _server(folder / "replica") as replica:
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
def _server(folder: Path) -> Iterator[Any]:
    """A redis-server on a free port of loopback and a client of it; ended and reaped afterwards."""
    import redis

    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "--bind": "127.0.0.1", "--port": str(port), "--dir": str(folder), "--save": "", "--appendonly": "no",
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


def _answers(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def _is_link_up(replica: Any) -> bool:
    return bool(replica.info("replication")["master_link_status"] == "up")


def _port(client: Any) -> int:
    port: int = client.connection_pool.connection_kwargs["port"]
    return port


def _wait(condition: Any) -> None:
    ends_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_at, "redis did not get there within the deadline"
        time.sleep(POLL_INTERVAL_S)
