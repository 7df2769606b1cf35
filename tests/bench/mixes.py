"""More measures on one machine: mixes like YCSB's, deletes, large resources, a million readings. As local.py.

The mixes follow YCSB (Cooper et al. 2010): A half reads and half writes, B one write in twenty, C reads only, over keys
whose popularity is Zipf's with its constant 0.99. A write reads the record first, changes a value and writes it back
(YCSB's workload F), since a revision is needed for it; the read counts as part of it, for everybody.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

from tests.bench.local import BATCH_RECORDS, Job, Result, folder_bytes, open_target, resident_bytes, time_reads
from tests.bench.workload import SEED, Body, Readings, readings, resources

ZIPF_CONSTANT = 0.99
WRITES = {"a": 0.5, "b": 0.05, "c": 0.0}
"""Mix → the share of writes."""
CHUNK_RECORDS = 500


def mixes(job: Job) -> Result:
    """Fill with readings, then the mixes one after the other, then deletes."""
    target, folder = open_target(job)
    pairs = readings(job["readings"])
    items = [target.prepare(key, body) for key, body in pairs]
    for start in range(0, len(items), BATCH_RECORDS):
        target.save_batch(items[start : start + BATCH_RECORDS])
    target.close()
    target, _ = open_target(job)
    keys = [key for key, _ in pairs]
    rng = random.Random(SEED)
    rng.shuffle(keys)
    asked = zipf_keys(keys, max(1, len(keys) // 2), rng)
    result: Result = {}
    for mix, share in WRITES.items():
        written = [rng.random() < share for _ in asked]
        start_s = time.perf_counter()
        for key, is_written in zip(asked, written, strict=True):
            record = target.read(key)
            if is_written:
                record["power_watt"] = 0.0
                target.update(key, record)
        result[f"mix_{mix}_us"] = (time.perf_counter() - start_s) * 1e6 / len(asked)
    gone = rng.sample(keys, max(1, len(keys) // 10))
    start_s = time.perf_counter()
    for key in gone:
        target.delete(key)
    result["delete_us"] = (time.perf_counter() - start_s) * 1e6 / len(gone)
    target.close()
    result["mixed_disk_bytes"] = folder_bytes(folder) / len(keys)
    return result


def zipf_keys(keys: list[str], count: int, rng: random.Random) -> list[str]:
    """`count` draws, the nth key with a weight of 1 / n ** 0.99."""
    weights = itertools.accumulate(1 / rank**ZIPF_CONSTANT for rank in range(1, len(keys) + 1))
    return rng.choices(keys, cum_weights=list(weights), k=count)


def large(job: Job) -> Result:
    """Save resources of 200 KB one by one, close, open, read each twice; the second reads are timed."""
    target, folder = open_target(job)
    pairs = resources(job["resources"])
    items = [target.prepare(key, body) for key, body in pairs]
    start_s = time.perf_counter()
    for item in items:
        target.save(item)
    save_us = (time.perf_counter() - start_s) * 1e6 / len(items)
    target.close()
    disk_bytes = folder_bytes(folder) / len(items)
    target, _ = open_target(job)
    keys = [key for key, _ in pairs]
    time_reads(target, keys)
    read_us = time_reads(target, keys)
    target.close()
    return {"resource_save_us": save_us, "resource_read_us": read_us, "resource_disk_bytes": disk_bytes}


def million(job: Job) -> Result:
    """Save one by one, then read any of them, in one process that never closes between; how much memory it took.

    The readings are made in between, a few at a time, outside of what is timed: their memory counts as the database's.
    """
    before = resident_bytes()
    target, folder = open_target(job)
    save_s = 0.0
    for chunk in _chunks(job["million"]):
        items = [target.prepare(key, body) for key, body in chunk]
        start_s = time.perf_counter()
        for item in items:
            target.save(item)
        save_s += time.perf_counter() - start_s
    rng = random.Random(SEED)
    numbers = rng.choices(range(job["million"]), k=job["readings"])
    key_of = Readings.key_of
    start_s = time.perf_counter()
    for number in numbers:
        target.read(key_of(number))
    read_s = time.perf_counter() - start_s
    memory_bytes = resident_bytes() - before
    target.close()
    return {
        "million_save_us": save_s * 1e6 / job["million"],
        "million_read_us": read_s * 1e6 / len(numbers),
        "million_mb": memory_bytes / 1e6,
        "million_disk_bytes": folder_bytes(folder) / job["million"],
    }


def _chunks(count: int) -> Iterator[list[tuple[str, Body]]]:
    made = iter(Readings())
    for start in range(0, count, CHUNK_RECORDS):
        yield list(itertools.islice(made, min(CHUNK_RECORDS, count - start)))
