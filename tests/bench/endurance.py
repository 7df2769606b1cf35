"""What a minute of saving does to the slowest save, what threads gain, what reaches the disk. As local.py; ours only.

"steady": one thread saves without a pause, one save in fifty over a record that is sealed by then, so that sealing and
compaction run; beside it, in a process of its own and before it, a control writer appends the same bytes to a file that
another thread fsyncs ten times a second: what the machine itself does to a writer.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.frames import quantile
from tests.bench.local import Job, Result
from tests.bench.workload import SEED, Readings

POOL = 20_000
"""Bodies that the writers take in turn, each time under a new id."""
REWRITTEN_EVERY = 50
REWRITTEN_AFTER = 200_000
"""Saves until a record is written again."""
CONTROL_FSYNC_S = 0.1
THREADS = 8
THREAD_SAVES = 500
LOGGER_INTERVAL_S = 0.1
SPARING_FSYNC_S = 5.0


def control(job: Job) -> Result:
    """The control writer."""
    import msgpack

    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    bodies = [body for _, body in itertools.islice(Readings(), POOL)]
    file = os.open(folder / "control", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    over = threading.Event()

    def flush() -> None:
        while not over.wait(CONTROL_FSYNC_S):
            os.fdatasync(file)

    flusher = threading.Thread(target=flush)
    flusher.start()
    _, durations_ms = _write_for(
        job["steady_s"], lambda number: os.write(file, msgpack.packb(bodies[number % POOL]))
    )
    over.set()
    flusher.join()
    os.close(file)
    return {"control_p999_ms": quantile(list(durations_ms), 0.999), "control_longest_ms": max(durations_ms)}


def steady(job: Job) -> Result:
    """Saves without a pause for `steady_s` seconds."""
    import mynosql

    bodies = [body for _, body in itertools.islice(Readings(), POOL)]
    revs: dict[int, str] = {}
    with mynosql.opendb("Bench", location=job["folder"]) as db:

        def save_one(number: int) -> None:
            rec: Any = {"id": f"sensor-{number % 20:02d}/{number:09d}", **bodies[number % POOL]}
            old = number - REWRITTEN_AFTER
            if old >= 0 and number % REWRITTEN_EVERY == 0:
                rec["id"], rec["rev"] = f"sensor-{old % 20:02d}/{old:09d}", revs.pop(old)
            saved = db.savedoc(rec)
            if number % REWRITTEN_EVERY == 0:
                revs[number] = saved["rev"]

        rate, durations_ms = _write_for(job["steady_s"], save_one)
    return {
        "steady_per_s": rate, "steady_p999_ms": quantile(list(durations_ms), 0.999),
        "steady_longest_ms": max(durations_ms),
    }


def _write_for(seconds: float, write: Callable[[int], object]) -> tuple[float, array[float]]:
    """Writes a second, and how long each took in ms."""
    durations_ms = array("f")
    clock = time.perf_counter
    began = before = clock()
    for number in itertools.count():
        write(number)
        now = clock()
        durations_ms.append((now - before) * 1e3)
        before = now
        if now - began >= seconds:
            return len(durations_ms) / (now - began), durations_ms
    raise AssertionError("a count has no end")


def threads(job: Job) -> Result:
    """durability="each": a save returns once it is fsynced. One thread, then eight that share their fsyncs."""
    import mynosql

    per_s: dict[int, float] = {}
    pairs = list(itertools.islice(Readings(), THREADS * THREAD_SAVES))
    for count in (1, THREADS):
        folder = os.path.join(job["folder"], str(count))
        with mynosql.opendb("Bench", location=folder, durability="each") as db:

            def save_share(first: int, db: mynosql.MyNoSQL = db) -> None:
                for key, body in pairs[first : first + THREAD_SAVES]:
                    db.savedoc({"id": key, **body})

            savers = [threading.Thread(target=save_share, args=(n * THREAD_SAVES,)) for n in range(count)]
            start_s = time.perf_counter()
            for saver in savers:
                saver.start()
            for saver in savers:
                saver.join()
            per_s[count] = count * THREAD_SAVES / (time.perf_counter() - start_s)
    return {"each_per_s": per_s[1], "each_threads_per_s": per_s[THREADS], "each_ratio": per_s[THREADS] / per_s[1]}


def written(job: Job) -> Result:
    """What a logger of ten readings a second has the system write to the disk, by its own account, closing included."""
    default, sparing = (os.path.join(job["folder"], name) for name in ("default", "sparing"))
    return {
        "written_bytes": _logged_bytes(default, job["logged"]),
        "written_sparing_bytes": _logged_bytes(sparing, job["logged"], fsync_interval_s=SPARING_FSYNC_S),
    }


def _logged_bytes(folder: str, count: int, **options: float) -> float:
    import mynosql

    rng = random.Random(SEED)
    before = _write_bytes()
    with mynosql.opendb("Bench", location=folder, **options) as db:
        for key, body in itertools.islice(Readings(), count):
            db.savedoc({"id": key, **body, "jitter": rng.random()})
            time.sleep(LOGGER_INTERVAL_S)
    return (_write_bytes() - before) / count


def _write_bytes() -> int:
    """Bytes of this process that went to the block layer."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(dict(line.split(": ") for line in text.splitlines())["write_bytes"])
