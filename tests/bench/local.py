"""The measures on one machine. Each function is one process: it gets a job, times it and returns plain numbers.

Keys of the results are those of measures.py. Times are per record, in microseconds, of the wall clock; what the process
spent on the processor, background threads included, goes beside them.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path
from typing import Any

from tests.bench.target import Target, make_target
from tests.bench.workload import SEED, game_saves, readings

BATCH_RECORDS = 1_000
COLD_READS_MAX = 2_000
CHECKED_RECORDS_MAX = 200

Job = dict[str, Any]
Result = dict[str, float]


def save(job: Job) -> Result:
    """Save readings one by one into an empty folder, close, weigh the folder."""
    target, folder = open_target(job)
    items = [target.prepare(key, body) for key, body in readings(job["readings"])]
    with _Timer(len(items)) as timer:
        save_one = target.save
        for item in items:
            save_one(item)
    with _Timer(len(items)) as closing:
        target.close()
    return {
        "save_us": timer.wall_us,
        "save_and_close_us": timer.wall_us + closing.wall_us,
        "save_cpu_us": timer.cpu_us + closing.cpu_us,
        "disk_bytes": folder_bytes(folder) / len(items),
    }


def save_batch(job: Job) -> Result:
    """Save the same readings in batches into an empty folder."""
    target, folder = open_target(job)
    items = [target.prepare(key, body) for key, body in readings(job["readings"])]
    with _Timer(len(items)) as timer:
        for start in range(0, len(items), BATCH_RECORDS):
            target.save_batch(items[start : start + BATCH_RECORDS])
    with _Timer(len(items)) as closing:
        target.close()
    return {
        "batch_us": timer.wall_us,
        "batch_and_close_us": timer.wall_us + closing.wall_us,
        "batch_disk_bytes": folder_bytes(folder) / len(items),
    }


def read(job: Job) -> Result:
    """Open what `save` left, with the system's page cache emptied of it; read cold, a hot set, anything; update."""
    folder = Path(job["folder"])
    forget_pages(folder)
    pairs = readings(job["readings"])
    keys = [key for key, _ in pairs]
    target, _ = open_target(job)
    rng = random.Random(SEED)
    cold = rng.sample(keys, min(COLD_READS_MAX, len(keys)))
    hot = rng.sample(keys, job["hot_set"])
    updated = rng.sample(keys, job["updates"])
    result = {
        "read_cold_us": time_reads(target, cold),
        "read_hot_us": _time_warm_reads(target, hot, len(keys), rng),
        "read_all_us": time_reads(target, rng.choices(keys, k=job["hot_set"])),
        "update_us": _time_updates(target, updated),
    }
    for key, body in rng.sample(pairs, min(CHECKED_RECORDS_MAX, len(pairs))):
        shown = {**target.read(key), "power_watt": 0.0}
        assert {**body, "power_watt": 0.0}.items() <= shown.items(), f"{key} did not come back as it was saved"
    target.close()
    result["updated_disk_bytes"] = folder_bytes(folder) / len(keys)
    return result


def games(job: Job) -> Result:
    """Save game saves one by one, close, open again, read them warm."""
    target, folder = open_target(job)
    pairs = game_saves(job["games"])
    items = [target.prepare(key, body) for key, body in pairs]
    with _Timer(len(items)) as timer:
        save_one = target.save
        for item in items:
            save_one(item)
    target.close()
    disk_bytes = folder_bytes(folder) / len(items)
    target, _ = open_target(job)
    keys = [key for key, _ in pairs]
    read_us = _time_warm_reads(target, keys, len(keys), random.Random(SEED))
    target.close()
    return {"game_save_us": timer.wall_us, "game_read_us": read_us, "game_disk_bytes": disk_bytes}


def build(job: Job) -> Result:
    """Fill a folder with `readings` records, for `open_filled` later."""
    target, folder = open_target(job)
    items = [target.prepare(key, body) for key, body in readings(job["readings"])]
    for start in range(0, len(items), BATCH_RECORDS):
        target.save_batch(items[start : start + BATCH_RECORDS])
    target.close()
    return {"open_disk_bytes": folder_bytes(folder) / len(items)}


def open_filled(job: Job) -> Result:
    """Open a filled folder; how long, how much more memory is resident, how long to the first record."""
    target = make_target(job["target"])
    key, body = readings(1)[0]
    resident_before = resident_bytes()
    start = time.perf_counter()
    target.open(Path(job["folder"]))
    opened = time.perf_counter()
    resident_after = resident_bytes()
    record = target.read(key)
    read_at = time.perf_counter()
    target.close()
    assert body.items() <= record.items(), "the first record did not come back as it was saved"
    return {
        "open_ms": (opened - start) * 1e3,
        "open_and_read_ms": (read_at - start) * 1e3,
        "open_mb": (resident_after - resident_before) / 1e6,
    }


def folder_bytes(folder: Path) -> int:
    """Every file below, journals and locks included, by the length that `ls` shows."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget_pages(folder: Path) -> None:
    """Ask the system to drop these files from its page cache; without such a call (macOS, Windows) reads stay warm."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class _Timer:
    """Wall and processor time of the block, in microseconds per record."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> _Timer:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.wall_us = (time.perf_counter() - self._wall) * 1e6 / self._count
        self.cpu_us = (time.process_time() - self._cpu) * 1e6 / self._count


def open_target(job: Job) -> tuple[Target, Path]:
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    target = make_target(job["target"])
    target.open(folder)
    return target, folder


def time_reads(target: Target, keys: list[str]) -> float:
    read_one = target.read
    with _Timer(len(keys)) as timer:
        for key in keys:
            read_one(key)
    return timer.wall_us


def _time_warm_reads(target: Target, keys: list[str], count: int, rng: random.Random) -> float:
    """Touch every key once, then time `count` random reads of them."""
    for key in rng.sample(keys, len(keys)):
        target.read(key)
    return time_reads(target, rng.choices(keys, k=count))


def _time_updates(target: Target, keys: list[str]) -> float:
    """Each record was read before and one value of it changed, so that a revision is at hand; only writing is timed."""
    changed = [(key, {**target.read(key), "power_watt": 0.0}) for key in keys]
    with _Timer(len(changed)) as timer:
        for key, record in changed:
            target.update(key, record)
    return timer.wall_us
