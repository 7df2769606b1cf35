"""The measures between two mynosql nodes: first sync, live, idle. Each node is a process of its own, on loopback.

The functions named *_node run in a child and talk to their parent in JSON lines; OurNodes starts them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

from mynosql.net.ports import find_free_pair
from tests.bench.sync_target import Result, SyncTarget
from tests.bench.workload import SEED, readings
from tests.faults.processes import PythonChild, emit, receive
from tests.faults.proxy import Proxy

BATCH_RECORDS = 1_000
CHECKED_RECORDS_MAX = 1_000
DEADLINE_S = 180.0
POLL_INTERVAL_S = 0.001
WARM_UP_SAVES = 50
SAVE_INTERVAL_S = 0.004
SETTLE_S = 3.0

LISTEN = "127.0.0.1:0"

MIRROR = {"mode": "mirror", "listen": LISTEN}


class OurNodes(SyncTarget):
    """Mirrors and peers with their default options."""

    def __init__(self, secret: str | None = None) -> None:
        """None: without encryption, as it is between nodes of one machine."""
        self._secret = secret

    def first_sync(self, folder: Path, count: int) -> Result:
        """An empty mirror joins one that holds `count` readings, sealed on disk.

        The clock starts before the empty mirror is opened and stops when its own status says that it holds every
        record; "confirmed": when the source's waitsync says that the other has them on its disk.
        """
        with start("source_node") as source, start("joining_node") as joining:
            job = {"readings": count, "secret": self._secret}
            source.send({"folder": str(folder / "source"), **job})
            endpoint = source.read_until("endpoint", DEADLINE_S)["endpoint"]
            joining.send({"folder": str(folder / "joining"), "peer": endpoint, **job})
            started_ns = joining.read_until("started_ns", DEADLINE_S)["started_ns"]
            source.send("confirm")
            joined = joining.read_until("full_ns", DEADLINE_S)
            confirmed_ns = source.read_until("confirmed_ns", DEADLINE_S)["confirmed_ns"]
            return {
                "sync_records_per_s": count / (joined["full_ns"] - started_ns) * 1e9,
                "sync_confirmed_records_per_s": count / (confirmed_ns - started_ns) * 1e9,
                "sync_wire_bytes": joined["bytes_received"] / count,
            }

    def wire(self, folder: Path, count: int) -> Result:
        """The same first sync through a TCP proxy that counts: a check on the nodes' own counting."""
        port = find_free_pair()
        with (
            Proxy("127.0.0.1", port) as proxy,
            start("source_node") as source,
            start("joining_node") as joining,
        ):
            advertise = f"127.0.0.1:{proxy.port}"
            listen = {"listen": f"127.0.0.1:{port}", "advertise": advertise}
            source.send({"folder": str(folder / "source"), "readings": count, **listen})
            source.read_until("endpoint", DEADLINE_S)
            joining.send({"folder": str(folder / "joining"), "readings": count, "peer": f"http://{advertise}"})
            joining.read_until("full_ns", DEADLINE_S)
            return {"sync_tcp_bytes": proxy.bytes_total / count}

    def push(self, folder: Path, count: int) -> Result:
        """A peer saved `count` readings while it knew no mirror; then it is told of one.

        From before addpeer to after waitsync, which needs the mirror's word that all of them are fsynced.
        """
        with start("idle_node") as mirror, start("pushing_node") as pushing:
            mirror.send({"folder": str(folder / "mirror"), "options": MIRROR})
            endpoint = mirror.read_until("endpoint", DEADLINE_S)["endpoint"]
            pushing.send({"folder": str(folder / "peer"), "readings": count, "peer": endpoint})
            seconds = pushing.read_until("seconds", DEADLINE_S)["seconds"]
            return {"push_records_per_s": count / seconds}

    def live(self, folder: Path, saves: int) -> Result:
        """One mirror saves readings every few milliseconds; the other reads each as soon as it is told of the change.

        From before savedoc to after readdoc, by the one monotonic clock that both processes share.
        """
        return measure_live(folder, saves, MIRROR, lambda endpoint: {**MIRROR, "peers": [endpoint]})


def measure_live(
    folder: Path, saves: int, saving: dict[str, Any], reading: Callable[[str | None], dict[str, Any]]
) -> Result:
    """saving: options of the node that saves; reading: those of the other, given the endpoint of the first."""
    with start("saving_node") as saver, start("reading_node") as reader:
        saver.send({"folder": str(folder / "saving"), "saves": saves + WARM_UP_SAVES, "options": saving})
        options = reading(saver.read_until("endpoint", DEADLINE_S)["endpoint"])
        reader.send({"folder": str(folder / "reading"), "saves": saves + WARM_UP_SAVES, "options": options})
        reader.read_until("ready", DEADLINE_S)
        saver.send("go")
        latencies_ms = reader.read_until("latencies_ms", DEADLINE_S)["latencies_ms"]
    return percentiles(latencies_ms[WARM_UP_SAVES:])


def measure_idle(folder: Path, seconds: float) -> Result:
    """A mirror and a peer that follows it, nothing to do: the processor time of each process over `seconds`."""
    with start("idle_node") as mirror, start("idle_node") as peer:
        mirror.send({"folder": str(folder / "mirror"), "options": MIRROR})
        endpoint = mirror.read_until("endpoint", DEADLINE_S)["endpoint"]
        peer.send({"folder": str(folder / "peer"), "options": {"peers": [endpoint]}})
        for child in (mirror, peer):
            child.read_until("connected", DEADLINE_S)
        for child in (mirror, peer):
            child.send(seconds)
        shares = [child.read_until("percent", seconds + DEADLINE_S)["percent"] for child in (mirror, peer)]
    return {"idle_mirror_percent": shares[0], "idle_peer_percent": shares[1]}


def percentiles(latencies_ms: list[float]) -> Result:
    hundredths = quantiles(latencies_ms, n=100, method="inclusive")
    return {"live_p50_ms": hundredths[49], "live_p99_ms": hundredths[98]}


# In the children


def source_node() -> None:
    import mynosql

    job = receive()
    with mynosql.opendb("Bench", location=job["folder"]) as db:
        _save_all(db, job["readings"])
    options = {
        "mode": "mirror", "listen": job.get("listen", LISTEN), "advertise": job.get("advertise"),
        "secret": job.get("secret"),
    }
    with mynosql.opendb("Bench", location=job["folder"], **options) as db:
        emit({"endpoint": db.endpoint})
        receive()
        wait(lambda: db.syncstatus().connected > 0)
        assert db.waitsync(timeout=DEADLINE_S), "the other mirror did not confirm"
        emit({"confirmed_ns": time.monotonic_ns()})
        receive()


def joining_node() -> None:
    import mynosql

    job = receive()
    expected = dict(readings(job["readings"]))
    emit({"started_ns": time.monotonic_ns()})
    options = {**MIRROR, "peers": [job["peer"]], "secret": job.get("secret")}
    with mynosql.opendb("Bench", location=job["folder"], **options) as db:
        status = wait(lambda: _full_status(db, len(expected)))
        emit({"full_ns": time.monotonic_ns(), "bytes_received": status.bytes_received})
        rng = random.Random(SEED)
        for key in rng.sample(sorted(expected), min(CHECKED_RECORDS_MAX, len(expected))):
            record = db.readdoc(key, timeout=0)
            assert expected[key].items() <= record.items(), f"{key} did not arrive as it was saved"
        receive()


def saving_node() -> None:
    import mynosql

    job = receive()
    pairs = readings(job["saves"])
    with mynosql.opendb("Bench", location=job["folder"], **job["options"]) as db:
        emit({"endpoint": db.endpoint})
        receive()
        for key, body in pairs:
            time.sleep(SAVE_INTERVAL_S)
            db.savedoc({"id": key, **body, "saved_ns": time.monotonic_ns()})
        receive()


def reading_node() -> None:
    import mynosql

    job = receive()
    latencies_ms: list[float] = []
    with mynosql.opendb("Bench", location=job["folder"], **job["options"]) as db:
        wait(lambda: db.syncstatus().connected > 0 and db.syncstatus().as_of is not None)
        db.onchange(lambda change: latencies_ms.append(_age_ms(db.readdoc(change.id))))
        emit({"ready": True})
        wait(lambda: len(latencies_ms) >= job["saves"])
        emit({"latencies_ms": latencies_ms})
        receive()


def pushing_node() -> None:
    import mynosql

    job = receive()
    with mynosql.opendb("Bench", location=job["folder"]) as db:
        _save_all(db, job["readings"])
        start = time.perf_counter()
        db.addpeer(job["peer"])
        assert db.waitsync(timeout=DEADLINE_S), "the mirror did not confirm"
        emit({"seconds": time.perf_counter() - start})
        receive()


def idle_node() -> None:
    import mynosql

    job = receive()
    with mynosql.opendb("Bench", location=job["folder"], **job["options"]) as db:
        emit({"endpoint": db.endpoint})
        wait(lambda: db.syncstatus().connected > 0)
        emit({"connected": True})
        seconds = receive()
        time.sleep(min(SETTLE_S, seconds))
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        emit({"percent": 100 * (time.process_time() - cpu) / (time.perf_counter() - wall)})
        receive()


def start(function: str, module: str = "nodes") -> PythonChild:
    return PythonChild(f"from tests.bench import {module}\n{module}.{function}()")


def _save_all(db: Any, count: int) -> None:
    recs = [{"id": key, **body} for key, body in readings(count)]
    for start in range(0, len(recs), BATCH_RECORDS):
        db.savedocs(recs[start : start + BATCH_RECORDS])


def _full_status(db: Any, count: int) -> Any:
    status = db.syncstatus()
    is_full = status.records == count and status.held == count and not status.missing and not status.filling
    return status if is_full else None


def _age_ms(record: dict[str, Any]) -> float:
    age_ns: int = time.monotonic_ns() - record["saved_ns"]
    return age_ns / 1e6


def wait(condition: Callable[[], Any]) -> Any:
    """The first true value of the condition, asked every millisecond: what it adds is far below what is measured."""
    ends_at = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < ends_at, "nothing came within the deadline"
        time.sleep(POLL_INTERVAL_S)
    return value
