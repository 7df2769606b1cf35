"""The predecessor as a rival between nodes: two mirrors, the second one empty. Each looks for news once a minute."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.installed import HINT, predecessor_python
from tests.bench.predecessor import NAME, plain_id, quiet_predecessor
from tests.bench.sync_target import Result, SyncTarget
from tests.bench.workload import readings
from tests.faults.processes import PythonChild, emit, receive

DEADLINE_S = 130.0
"""Two of its rounds: what has not arrived by then counts as not arrived."""
POLL_INTERVAL_S = 0.05


class PredecessorNodes(SyncTarget):
    """It has no acknowledgements, and news travel within a minute: only the first sync can be compared."""

    def find_skip_reason(self) -> str | None:
        return None if predecessor_python().exists() else f"{NAME} is not installed: {HINT}"

    def first_sync(self, folder: Path, count: int) -> Result:
        """What has arrived when all has, or at the deadline, by the time that it took."""
        with _start("source_node") as source, _start("joining_node") as joining:
            source.send({"folder": _made(folder / "source"), "readings": count})
            url = source.read_until("url", DEADLINE_S)["url"]
            joining.send({"folder": _made(folder / "joining"), "readings": count, "peer": url})
            arrived = joining.read_until("seconds", 2 * DEADLINE_S)
        return {"sync_records_per_s": arrived["records"] / arrived["seconds"]}


def source_node() -> None:
    job = receive()
    db = quiet_predecessor()
    db.setdblocation(job["folder"])
    db.opendb("bench")
    db.setdbmode("Mirror")
    for key, body in readings(job["readings"]):
        db.savedoc({"id": plain_id(key), **body})
    emit({"url": f"http://127.0.0.1:{db.port}"})
    receive()


def joining_node() -> None:
    job = receive()
    db = quiet_predecessor()
    db.setdblocation(job["folder"])
    db.opendb("bench")
    db.setdbmode("Mirror")
    awaited = {plain_id(key) for key, _ in readings(job["readings"])}
    start = time.perf_counter()
    db.addpeer(job["peer"])
    while (seconds := time.perf_counter() - start) < DEADLINE_S:
        held = awaited.intersection(list(db.db["index"].get("local", ())))
        if len(held) == len(awaited):
            break
        time.sleep(POLL_INTERVAL_S)
    emit({"seconds": seconds, "records": len(held)})
    receive()


def _start(function: str) -> PythonChild:
    script = f"from tests.bench import predecessor_rival\npredecessor_rival.{function}()"
    return PythonChild(script, python=predecessor_python())


def _made(folder: Path) -> str:
    folder.mkdir(parents=True)
    return str(folder)
