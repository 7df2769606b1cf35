"""The measures between our own nodes that no rival has: encryption, a peer behind the mirror, indexes that differ.

As in nodes.py each node is a process of its own on loopback; the functions named *_node run in a child.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from tests.bench.nodes import DEADLINE_S, MIRROR, OurNodes, measure_live, start, wait
from tests.bench.sync_target import Result
from tests.faults.processes import emit, receive

DIFFERENT_EVERY = 10_000
"""Of a million records a hundred differ: half of them changed on one side, half on the other."""


def measure_mesh(folder: Path, filled: Path, readings: int, saves: int) -> Result:
    """filled: a closed database with many records; it is copied."""
    return {
        **measure_curve(folder, readings), **measure_relay(folder / "relay", saves),
        **measure_difference(folder / "different", filled),
    }


def measure_curve(folder: Path, readings: int) -> Result:
    """The first sync with a cluster secret beside the same without, one after the other."""
    from mynosql.net.security import keygen

    plain, curve = (
        OurNodes(secret).first_sync(folder / name, readings)["sync_records_per_s"]
        for name, secret in (("plain", None), ("curve", keygen()))
    )
    return {"curve_records_per_s": curve, "curve_share": curve / plain}


def measure_relay(folder: Path, saves: int) -> Result:
    """A peer saves; another peer of the same mirror, which holds nothing of it, is told and reads it."""
    with start("idle_node") as mirror:
        mirror.send({"folder": str(folder / "mirror"), "options": MIRROR})
        peer = {"peers": [mirror.read_until("endpoint", DEADLINE_S)["endpoint"]]}
        live = measure_live(folder, saves, saving=peer, reading=lambda _: peer)
    return {"relay_p50_ms": live["live_p50_ms"], "relay_p99_ms": live["live_p99_ms"]}


def measure_difference(folder: Path, filled: Path) -> Result:
    """Two copies that never met and have each changed some records: until each has what the other changed."""
    for side in ("a", "b"):
        shutil.copytree(filled, folder / side)
    with start("differing_node", "mesh") as a, start("differing_node", "mesh") as b:
        for node, place in ((a, 0), (b, 1)):
            node.send({"folder": str(folder / "ab"[place]), "place": place})
        endpoint, _ = (node.read_until("endpoint", DEADLINE_S)["endpoint"] for node in (a, b))
        a.send(None)
        b.send(endpoint)
        joined = b.read_until("seconds", DEADLINE_S)
        a.read_until("seconds", DEADLINE_S)
    return {"difference_kb": joined["bytes"] / 1e3, "difference_s": joined["seconds"]}


def differing_node() -> None:
    """Changes every second of the chosen records, and waits for the others' changes of the rest."""
    import mynosql

    job = receive()
    with mynosql.opendb("Bench", location=job["folder"], **MIRROR) as db:
        chosen = [id for number, id in enumerate(db.listdocs()) if number % DIFFERENT_EVERY == 0]
        for id in chosen[job["place"] :: 2]:
            db.savedoc({**db[id], "changed": job["place"]})
        emit({"endpoint": db.endpoint})
        peer = receive()
        began = time.perf_counter()
        if peer is not None:
            db.addpeer(peer)
        theirs = chosen[1 - job["place"] :: 2]
        wait(lambda: all(_is_changed(db, id) for id in theirs))
        status = db.syncstatus()
        emit({"seconds": time.perf_counter() - began, "bytes": status.bytes_sent + status.bytes_received})
        receive()


def _is_changed(db: Any, id: Any) -> bool:
    return "changed" in db.readdoc(id, timeout=0, stale=True)
