"""NATS JetStream key-value as a rival between nodes: a bucket on one server, mirrored by a second one, its leaf node.

Each server is a process with its own JetStream domain and file storage. The client is nats-py, pipelining what it
publishes; keys and values are those of the other products. By default an acknowledged message is in the server's page
cache and is fsynced within two minutes; `sync_interval: always` fsyncs before the acknowledgement, as ours does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mynosql.net.ports import find_free_pair
from tests.bench.nodes import SAVE_INTERVAL_S, WARM_UP_SAVES, percentiles
from tests.bench.sync_target import Result, SyncTarget
from tests.bench.workload import readings
from tests.faults.processes import PythonChild, emit, receive
from tests.faults.proxy import Proxy

BUCKET = "bench"
STREAM = f"KV_{BUCKET}"
SUBJECT = f"$KV.{BUCKET}."
DEADLINE_S = 180.0
POLL_INTERVAL_S = 0.001
PIPELINED_MAX = 4_000
"""Messages on their way at once: nats-py's own default; more of them was not faster."""


class Nats(SyncTarget):
    """sync_interval as it is by default, two minutes."""

    sync_interval = "2m"

    def find_skip_reason(self) -> str | None:
        if importlib.util.find_spec("nats") is None or _find_program() is None:
            return "nats-server and its client are not installed: pip install -e '.[bench]'"
        return None

    def first_sync(self, folder: Path, count: int) -> Result:
        seconds = asyncio.run(self._mirror_all(folder, count))
        return {"sync_records_per_s": count / seconds}

    def wire(self, folder: Path, count: int) -> Result:
        with Proxy("127.0.0.1", (leaf_port := find_free_pair()), port_count=1) as proxy:
            asyncio.run(self._mirror_all(folder, count, leaf_port=leaf_port, remote_port=proxy.port))
            return {"sync_tcp_bytes": proxy.bytes_total / count}

    def push(self, folder: Path, count: int) -> Result:
        items = _pack(count)

        async def publish() -> float:
            async with _client(server) as client:
                await _make_bucket(client)
                start = time.perf_counter()
                await _put_all(client, items)
                return time.perf_counter() - start

        with _server(folder / "server", sync_interval=self.sync_interval) as server:
            return {"push_records_per_s": count / asyncio.run(publish())}

    def live(self, folder: Path, saves: int) -> Result:
        """A client puts readings at one server and waits for each acknowledgement; another watches the second server's
        copy of the bucket."""
        latencies_ms = asyncio.run(self._put_and_watch(folder, saves + WARM_UP_SAVES))
        return percentiles(latencies_ms[WARM_UP_SAVES:])

    async def _mirror_all(
        self, folder: Path, count: int, leaf_port: int | None = None, remote_port: int | None = None
    ) -> float:
        """Seconds from asking the empty server for a mirror until it has stored every message."""
        source_interval = Nats.sync_interval  # filling the source is not measured
        with _pair(folder, self.sync_interval, source_interval, leaf_port, remote_port) as (source, copy):
            async with _client(source) as at_source, _client(copy) as at_copy:
                await _make_bucket(at_source)
                await _put_all(at_source, _pack(count))
                await _wait_for_link(at_copy)
                start = time.perf_counter()
                await _make_mirror(at_copy)
                await _wait_for_messages(at_copy, count)
                return time.perf_counter() - start

    async def _put_and_watch(self, folder: Path, saves: int) -> list[float]:
        import msgpack

        with _pair(folder, self.sync_interval, self.sync_interval) as (source, copy):
            async with _client(source) as at_source, _client(copy) as at_copy:
                await _make_bucket(at_source)
                await _wait_for_link(at_copy)
                await _make_mirror(at_copy)
                stream = at_source.jetstream()
                await stream.publish(SUBJECT + "first", b"")
                await _wait_for_messages(at_copy, 1)
                with PythonChild("from tests.bench import nats_rival\nnats_rival.watching_process()") as watcher:
                    watcher.send({"port": copy.port, "saves": saves})
                    await asyncio.to_thread(watcher.read_until, "ready", DEADLINE_S)
                    for key, body in readings(saves):
                        await asyncio.sleep(SAVE_INTERVAL_S)
                        value = msgpack.packb({**body, "saved_ns": time.monotonic_ns()})
                        await stream.publish(SUBJECT + key, value)
                    answer = await asyncio.to_thread(watcher.read_until, "latencies_ms", DEADLINE_S)
        latencies_ms: list[float] = answer["latencies_ms"]
        return latencies_ms


class DurableNats(Nats):
    sync_interval = "always"


def watching_process() -> None:
    """In a child: take each reading as the server hands it over."""
    job = receive()

    async def watch() -> list[float]:
        import msgpack

        latencies_ms: list[float] = []
        async with _client(_Server(port=job["port"])) as client:
            bucket = await client.jetstream().key_value(BUCKET)
            watcher = await bucket.watchall()
            while True:  # what was there before; None says that this was all of it
                if await watcher.updates(timeout=DEADLINE_S) is None:
                    break
            emit({"ready": True})
            while len(latencies_ms) < job["saves"]:
                entry = await watcher.updates(timeout=DEADLINE_S)
                record = msgpack.unpackb(entry.value)
                latencies_ms.append((time.monotonic_ns() - record["saved_ns"]) / 1e6)
        return latencies_ms

    emit({"latencies_ms": asyncio.run(watch())})
    receive()


@dataclass(frozen=True)
class _Server:
    port: int


@contextlib.contextmanager
def _pair(
    folder: Path, sync_interval: str, source_interval: str, leaf_port: int | None = None, remote_port: int | None = None
) -> Iterator[tuple[_Server, _Server]]:
    """A server and an empty one that is its leaf; remote_port: where the leaf finds it, if not at its own port."""
    hub_port = leaf_port or find_free_pair()
    hub = f"leafnodes {{ listen: 127.0.0.1:{hub_port} }}"
    leaf = f'leafnodes {{ remotes = [ {{ url: "nats-leaf://127.0.0.1:{remote_port or hub_port}" }} ] }}'
    with (
        _server(folder / "source", sync_interval=source_interval, more=hub) as source,
        _server(folder / "copy", sync_interval=sync_interval, more=leaf) as copy,
    ):
        yield source, copy


@contextlib.contextmanager
def _server(folder: Path, *, sync_interval: str, more: str = "") -> Iterator[_Server]:
    """A nats-server on a free port of loopback, its JetStream domain named as its folder; ended and reaped."""
    folder.mkdir(parents=True)
    port = find_free_pair()
    settings = folder / "nats.conf"
    settings.write_text(
        f"listen: 127.0.0.1:{port}\nserver_name: {folder.name}\n"
        f'jetstream {{ store_dir: "{folder}", domain: {folder.name}, sync_interval: {sync_interval} }}\n{more}\n',
        encoding="utf-8",
    )
    program = _find_program()
    assert program is not None, "nats-server has gone since the run began"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", settings], stdout=log, stderr=log)
    try:
        yield _Server(port=port)
    finally:
        process.kill()  # nothing of it is kept
        process.wait()


@contextlib.asynccontextmanager
async def _client(server: _Server) -> AsyncIterator[Any]:
    import nats

    # A server that is still starting is asked again every 50 ms.
    client = await nats.connect(
        f"nats://127.0.0.1:{server.port}", reconnect_time_wait=0.05, max_reconnect_attempts=200, error_cb=_ignore
    )
    try:
        yield client
    finally:
        await client.close()


async def _ignore(error: Exception) -> None:
    """Refused connections while a server starts; what goes wrong later ends in a deadline."""


async def _make_bucket(client: Any) -> None:
    """A key-value bucket with one value a key, on disk."""
    await _until_made(lambda: client.jetstream().create_key_value(bucket=BUCKET, history=1))


async def _make_mirror(client: Any) -> None:
    """At the leaf: a copy of the source's bucket, which reads like the bucket itself."""
    from nats.js.api import ExternalStream, StreamConfig, StreamSource

    source = StreamSource(name=STREAM, external=ExternalStream(api="$JS.source.API", deliver=""))
    config = StreamConfig(
        name=STREAM, mirror=source, max_msgs_per_subject=1, allow_rollup_hdrs=True, deny_delete=True, allow_direct=True
    )
    await _until_made(lambda: client.jetstream().add_stream(config))


async def _wait_for_link(at_copy: Any) -> None:
    """A mirror that is made before the leaf is linked would try again only after half a minute."""
    await _until_made(at_copy.jetstream(domain="source").account_info)


async def _until_made(make: Any) -> None:
    """JetStream answers a moment after the server does."""
    import nats.errors
    import nats.js.errors

    ends_at = time.monotonic() + DEADLINE_S
    while True:
        try:
            await make()
            return
        except (nats.errors.NoRespondersError, nats.js.errors.ServiceUnavailableError):
            assert time.monotonic() < ends_at, "JetStream did not start within the deadline"
            await asyncio.sleep(POLL_INTERVAL_S)


async def _put_all(client: Any, items: list[tuple[str, bytes]]) -> None:
    """Every reading is acknowledged when this returns."""
    stream = client.jetstream(publish_async_max_pending=PIPELINED_MAX)
    futures = [await stream.publish_async(SUBJECT + key, value) for key, value in items]
    await asyncio.gather(*futures)


async def _wait_for_messages(client: Any, count: int) -> None:
    ends_at = time.monotonic() + DEADLINE_S
    while (await client.jetstream().stream_info(STREAM)).state.messages < count:
        assert time.monotonic() < ends_at, f"the mirror did not get {count} messages within the deadline"
        await asyncio.sleep(POLL_INTERVAL_S)


def _pack(count: int) -> list[tuple[str, bytes]]:
    import msgpack

    return [(key, msgpack.packb(body)) for key, body in readings(count)]


def _find_program() -> str | None:
    """nats-server as pip puts it beside this interpreter, else the system's."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
