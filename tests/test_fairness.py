"""One node that hangs, one record that is large: what the others notice of it. Real processes and sockets."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import mynosql
from tests.faults.processes import PythonChild
from tests.faults.proxy import Proxy
from tests.mesh import SETTLE_DEADLINE_S, wait_connected
from tests.waiting import wait_until

PEERS = 50
LARGE_BYTES = 24 << 20
BUDGET_BYTES = 64 << 20
"""What the mirror may grow by while one hangs and 4,000 records pass to all others."""

MIRROR = """
import sys, mynosql
db = mynosql.opendb("Test", location=sys.argv[1], mode="mirror", listen="127.0.0.1:0")
emit({"endpoint": db.endpoint})
while True:
    asked = receive()
    if asked == "memory":
        lines = open("/proc/self/status").read().splitlines()
        emit({"rss": next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))})
    elif asked == "many":
        for start in range(0, 4_000, 1000):
            db.savedocs({"id": f"many/{number}", "text": "x" * 300} for number in range(start, start + 1000))
        emit({"saved": len(db)})
    else:
        db.savedoc({"id": asked})
        emit({"id": asked})
"""

PEER = """
import sys, mynosql
db = mynosql.opendb("Test", location=sys.argv[1], peers=[sys.argv[2]], memtable_bytes_max=1 << 20)
while not db.syncstatus().as_of:
    db.changes(live=True).next_within(0.05)
emit({"ready": True})
wait_for_kill()
"""


@pytest.mark.slow
def test_one_of_fifty_that_hangs_changes_nothing_for_the_others(tmp_path: Path) -> None:
    with ExitStack() as stack:
        mirror = stack.enter_context(PythonChild(MIRROR, str(tmp_path / "mirror")))
        endpoint = mirror.read_until("endpoint")["endpoint"]
        hanging = stack.enter_context(PythonChild(PEER, str(tmp_path / "hanging"), endpoint))
        peers = [
            stack.enter_context(mynosql.opendb("Test", location=tmp_path / f"p{number}", peers=[endpoint]))
            for number in range(PEERS - 1)
        ]
        hanging.read_until("ready")
        wait_connected(*peers)

        def rss() -> int:
            mirror.send("memory")
            return int(mirror.read_until("rss")["rss"])

        def rounds(name: str) -> float:
            """The longest that a record of the mirror, and one of a peer, took to be known by all who do not hang."""
            took = []
            for number in range(9):
                start = time.monotonic()
                mirror.send(f"{name}/m{number}")
                peers[number].savedoc({"id": f"{name}/p{number}"})
                ids = (f"{name}/m{number}", f"{name}/p{number}")
                wait_until(lambda ids=ids: all(id in peer for peer in peers for id in ids), SETTLE_DEADLINE_S)
                took.append(time.monotonic() - start)
            return sorted(took)[len(took) // 2]

        quiet = rounds("quiet")
        hanging.suspend()
        beside = rounds("beside")
        before = rss()
        mirror.send("many")
        assert mirror.read_until("saved", 60)["saved"] > 4_000
        wait_until(lambda: all(len(peer) >= 4_000 for peer in peers), 60)
        grown = rss() - before
        hanging.resume()

        assert beside < 3 * quiet + 1.0, f"{quiet:.3f} s before, {beside:.3f} s beside the one that hangs"
        assert grown < BUDGET_BYTES, f"the mirror grew by {grown >> 20} MiB"


def body(seed: int) -> bytes:
    """Bytes that nothing compresses."""
    return hashlib.shake_128(bytes([seed])).digest(LARGE_BYTES)


@pytest.mark.slow
def test_small_records_pass_a_large_one_and_a_cut_costs_a_few_pieces(
    make_db: Callable[..., Any], tmp_path: Path
) -> None:
    mirror = make_db(mode="mirror", listen="127.0.0.1:0")
    with Proxy("127.0.0.1", int(mirror.endpoint.rsplit(":", 1)[1])) as proxy:
        writer = make_db(peers=[f"http://127.0.0.1:{proxy.port}"])
        reader = make_db(peers=[mirror.endpoint])
        wait_connected(writer, reader)
        large = body(1)
        sent_before = proxy.bytes_to_target
        proxy.cut_after_bytes(LARGE_BYTES // 2)
        proxy.delay(0.05)  # some pieces a round trip: half of the record takes seconds, however busy this machine is
        writer.savedoc({"id": "large", "bytes": large})
        early = []
        for number in range(50):
            writer.savedoc({"id": f"small/{number}"})
            wait_until(lambda id=f"small/{number}": id in mirror or proxy.state.value == "cut", SETTLE_DEADLINE_S)
            early.append("large" not in mirror and f"small/{number}" in mirror)
        wait_until(lambda: proxy.state.value == "cut", SETTLE_DEADLINE_S)
        assert early[0], "the first small one is there before the large one"
        proxy.delay(0.0)
        proxy.restore()
        assert writer.waitsync(60)
        spent = proxy.bytes_to_target - sent_before

        assert mirror.readdoc("large")["bytes"] == large
        assert spent < LARGE_BYTES + (4 << 20), f"{(spent - LARGE_BYTES) >> 10} KiB more than the record"
        # That the mirror has it was told to the writer; the news of it may still be under way to the reader.
        wait_until(lambda: "large" in reader and all(f"small/{number}" in reader for number in range(50)), 60)
        assert reader.readdoc("large", timeout=60)["bytes"] == large
