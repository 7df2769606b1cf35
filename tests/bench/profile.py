"""python -m tests.bench.profile: where the microseconds of a save and of a read go; --write puts it in docs/PROFILE.md.

Each stage is the function that the product calls, timed alone over the same readings in an open database; the whole is
the public call. What is left of it is the calls between the stages, the lock, and the threads that are woken.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

import mynosql
from mynosql.codec import pack_record, pack_whole, unpack_body, unpack_whole
from mynosql.idkey import pack_id
from mynosql.record import split
from mynosql.revision import rev_string
from mynosql.row import Leaf
from mynosql.store import shard, store
from mynosql.store.frames import pack_frame
from tests.bench import machine, report
from tests.bench.workload import readings
from tests.faults.processes import ROOT

READINGS = 20_000
MISSES = 2_000
WARM_UP = 1_000
DOC = ROOT / "docs" / "PROFILE.md"


class Stage(NamedTuple):
    """us: microseconds a record."""

    name: str
    us: float


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description="Profile a save and a read.")
    parser.add_argument("--readings", type=int, default=READINGS)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/PROFILE.md")
    arguments = parser.parse_args(words)
    recs = [{"id": id, **body} for id, body in readings(arguments.readings)]
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        saving = profile_saving(Path(folder), recs)
        reading = profile_reading(Path(folder), recs)
    text = "\n\n".join([_machine(), as_table("A save", *saving), as_table("A read", *reading)])
    print(text)
    if arguments.write:
        report.write_between_markers(DOC, text)
    return 0


# A save


def profile_saving(folder: Path, recs: Sequence[dict[str, Any]]) -> tuple[list[Stage], list[Stage]]:
    """Stages whose last is the whole, and the floors that they are to be compared with."""
    with mynosql.opendb("Whole", location=folder) as db:
        timed(db.savedoc, recs[:WARM_UP])
        whole = timed(db.savedoc, recs[WARM_UP:])
    with mynosql.opendb("Stages", location=folder) as db:
        node = db._open
        assert node is not None
        ledger, unsealed, reader = node.replica.ledger, node.store._unsealed, node.store._reader
        bodies = [split(rec)[2] for rec in recs]
        packed = [pack_record(body)[0] for body in bodies]
        id_keys = [pack_id(rec["id"]) for rec in recs]
        news = list(zip(id_keys, packed, strict=True))

        def find(id_key: bytes) -> None:
            reader.absent.clear()
            node.store.find(id_key)

        with node.lock:
            stages = [
                Stage("record apart: id, rev, a copy of the body (`record.split`)", timed(split, recs)),
                Stage("body packed and checked (`codec.pack_record`)", timed(pack_record, bodies)),
                Stage("id packed so that it sorts (`idkey.pack_id`)", timed(pack_id, [rec["id"] for rec in recs])),
                Stage("is the id known? (`store.reader`: memtable, caches, filter)", timed(find, id_keys)),
                Stage("clock, digest, revision (`ledger`)", timed(lambda body: ledger._new_leaf(body, 1), packed)),
            ]
            leaves = [ledger._new_leaf(body, 1) for body in packed]
            rows = [(id_key, leaf, body) for (id_key, body), leaf in zip(news, leaves, strict=True)]
            stages.append(Stage("row packed, lz4 (`store.packed`)", timed(_pack_new, rows)))
            frames = list(map(_pack_new, rows))
            framing = timed(lambda frame: pack_frame(0, 1, frame), frames)
            written = timed(unsealed.append, frames)
            stages += [
                Stage("frame with its checksum (`store.frames`)", framing),
                Stage("written to the journal: one system call (`store.files`)", written - framing),
                Stage("into the memtable, counted (`store.unsealed`)", timed(_absorber(unsealed), id_keys)),
            ]
            node.store._sealer.fail(mynosql.StorageFailed("profiled"))  # what was written so is not to be sealed
        stages.append(Stage("revision as text", timed(rev_string, leaves)))
    stages += [
        Stage("lock, calls, the record returned, and fsync beside it", whole - sum(stage.us for stage in stages)),
        Stage("savedoc", whole),
    ]
    floors = [
        Stage("floor: msgpack.packb of the record", timed(msgpack.packb, recs)),
        Stage("floor: os.write of the same bytes to a file", _time_writes(folder / "floor", frames)),
    ]
    return stages, floors


def _pack_new(row: tuple[bytes, Leaf, bytes]) -> bytes:
    id_key, leaf, body = row
    return store._packed_new(id_key, leaf, body, 1)


def _absorber(unsealed: Any) -> Callable[[bytes], None]:
    """As a save of a new record is taken up: it points into the journal."""
    return lambda id_key: unsealed.absorb_new(id_key, 1 << 40, 1, 0)


def _time_writes(path: Path, frames: Sequence[bytes]) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        return timed(lambda frame: os.write(fd, frame), frames)
    finally:
        os.close(fd)


# A read


def profile_reading(folder: Path, recs: Sequence[dict[str, Any]]) -> tuple[list[Stage], list[Stage]]:
    """Of the records of profile_saving, sealed by now: a read that finds no cache, and one from memory."""
    chosen = random.Random(1).sample([rec["id"] for rec in recs], min(MISSES, len(recs)))
    with mynosql.opendb("Whole", location=folder) as db:
        node = db._open
        assert node is not None
        sealed, drop = node.store._sealed, node.store.drop_caches
        missed = timed(db.readdoc, chosen, before=drop)
        hot = timed(db.readdoc, chosen) if all(map(db.readdoc, chosen)) else 0.0
        wholes = [whole for whole in map(node.store.wholes.find, chosen) if whole is not None]
        id_keys = list(map(pack_id, chosen))
        with node.lock:
            hashes = list(map(sealed.hash_of, id_keys))
            places = list(map(node.store._index.place, hashes))
            numbers = [shard.block_of(place) for place in places if place is not None]
            found = [sealed.locate(id_key) for id_key in id_keys]
            leaves = [hit.head.rows.entry(hit.slot).leaves[0] for hit in found if hit is not None]
            kept = [shard.read_head_bytes(sealed.files, sealed._ref(number)) for number in numbers]
            bodies = [sealed.body(hit) for hit in found if hit is not None]

            def read_body(position: int) -> None:
                sealed.body(found[position])  # type: ignore[arg-type]

            stages = [
                Stage("id to its short hash (`idkey.id_hash`)", timed(sealed.hash_of, id_keys)),
                Stage("hash to place: the index, SQLite (`store.index`)", timed(node.store._index.place, hashes)),
                Stage("block to where it lies: SQLite again", timed(sealed._ref, numbers)),
                Stage("head read, checked and unpacked: LZMA (`store.shard`)", timed(
                    lambda number: shard.read_head_bytes(sealed.files, sealed._ref(number)), numbers
                ) - timed(sealed._ref, numbers)),
                Stage("its rows laid out (`batch`)", timed(lambda head: shard.decode_head(sealed.files, head), kept)),
                Stage("body read, checked and unpacked up to the record: LZMA (`store.streams`)", timed(
                    read_body, range(len(found)), before=sealed._bodies.clear
                )),
                Stage("body to dict (`codec.unpack_body`)", timed(unpack_body, bodies)),
                Stage("packed with id and rev for the next reader (`codec.pack_whole`)", timed(
                    lambda item: pack_whole(item[0], rev_string(item[1]), item[2] or b""),
                    list(zip(chosen, leaves, bodies, strict=True)),
                )),
            ]
    stages += [
        Stage("the lock, the calls between, caches filled", missed - sum(stage.us for stage in stages)),
        Stage("readdoc that finds nothing in memory", missed),
    ]
    floors = [
        Stage("readdoc of what was read lately", hot),
        Stage("of that, bytes to dict (`codec.unpack_whole`)", timed(unpack_whole, wholes)),
        Stage("floor: msgpack.unpackb of the record", timed(msgpack.unpackb, list(map(msgpack.packb, recs)))),
    ]
    return stages, floors


# Measuring and showing


def timed(call: Callable[[Any], object], items: Sequence[Any], before: Callable[[], object] | None = None) -> float:
    """Microseconds a call. before: called ahead of each, and not counted."""
    if before is None:
        start = time.perf_counter()
        for item in items:
            call(item)
        return (time.perf_counter() - start) / len(items) * 1e6
    spent = 0.0
    for item in items:
        before()
        start = time.perf_counter()
        call(item)
        spent += time.perf_counter() - start
    return spent / len(items) * 1e6


def as_table(title: str, stages: Sequence[Stage], floors: Sequence[Stage]) -> str:
    """The last stage is the whole that the others are parts of."""
    whole = stages[-1].us
    lines = [f"### {title}", "", "| | µs | share |", "|---|---:|---:|"]
    lines += [f"| {name} | {us:.2f} | {us / whole:.0%} |" for name, us in stages[:-1]]
    lines.append(f"| **{stages[-1].name}** | **{whole:.2f}** | |")
    lines += [f"| {name} | {us:.2f} | |" for name, us in floors]
    return "\n".join(lines)


def _machine() -> str:
    facts = machine.describe()
    shown = ("date", "commit", "processor", "python")
    return "; ".join(f"{name} {facts[name]}" for name in shown if name in facts) + "."


if __name__ == "__main__":
    sys.exit(main())
