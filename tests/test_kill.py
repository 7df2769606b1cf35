"""kill -9 at random moments of a saving process: what savedoc returned is there, and sealing goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import mynosql
from tests.faults.processes import PythonChild

pytestmark = pytest.mark.long
KILLS = 200
CHECK_EVERY = 20
UNSEALED_BYTES_MAX = 9 * 2 * 65536
"""Eight memtables may be unsealed, and one more whose journal was sealed but not removed yet; rows up to 512 bytes
weigh at least half of what they take in a journal."""

SAVER = """
import os, sys, mynosql
location, cycle = sys.argv[1:]
db = mynosql.opendb("Test", location=location, memtable_bytes_max=65536, fsync_interval_s=0.005)
n = 0
while True:
    rec = db.savedoc({"id": f"{cycle}/{n:05}", "cycle": int(cycle), "n": n, "text": "reading " * 40})
    os.write(1, f"{n}\\n".encode())      # said only after savedoc returned
    n += 1
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_200_kills_lose_no_acknowledged_save_and_sealing_goes_on(tmp_path: Path) -> None:
    rng = random.Random(20261123)
    acknowledged: dict[int, int] = {}
    folder = tmp_path / "Test"
    for cycle in range(KILLS):
        with PythonChild(SAVER, str(tmp_path), str(cycle)) as child:
            moment = rng.randrange(0, 400)
            while child.read(60) < moment:
                pass
            child.kill()
            last = max([moment, *(n for n in child.drain() if isinstance(n, int))])
        acknowledged[cycle] = last + 1
        journal_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith("journal"))
        assert journal_bytes <= UNSEALED_BYTES_MAX, "sealing goes on: journals go as their rows reach the shards"
        if cycle % CHECK_EVERY == CHECK_EVERY - 1:
            check_all(tmp_path, acknowledged)
    shard_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith("shard"))
    assert shard_bytes > 100_000


def check_all(location: Path, acknowledged: dict[int, int]) -> None:
    """Every acknowledged save is readable as it was saved, and closing leaves no journal."""
    with mynosql.opendb("Test", location=location) as db:
        for cycle, count in acknowledged.items():
            for n in range(count):
                rec = db.readdoc(f"{cycle}/{n:05}")
                assert (rec["cycle"], rec["n"]) == (cycle, n)
        # At most the one save that was under way when the process died may be there beyond.
        assert sum(acknowledged.values()) <= len(db) <= sum(acknowledged.values()) + len(acknowledged)
        assert db.checkdb().ok
    left = {path.name.split("-")[0].split(".")[0] for path in (location / "Test").iterdir()}
    assert left <= {"shard", "index", "filter", "identity", "lock", "format", "keys"}, left
