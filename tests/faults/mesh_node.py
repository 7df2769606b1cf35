"""One node of a mesh as a process: opens a database and does what its test says, one JSON line for each command.

Started by tests/faults/meshes.py. First line in: how to open. Then commands {"do": name, ...}, each answered by one
line with the same name. It counts the rows that other nodes send, by what they came in, and can be told a wrong clock.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import mynosql
import mynosql.bridge
from mynosql.row import Row
from mynosql.sync import messages as ms
from mynosql.sync.wire import decode, encode
from tests.bench.workload import readings
from tests.faults.processes import emit, receive

BASE_PREFIX = "base/"
WRITE_INTERVAL_S = 0.03
TEXT_LENGTH = 3000
READ_TIMEOUT_S = 10.0


class Clock:
    """The wall clock of this process: the machine's, plus a shift."""

    def __init__(self) -> None:
        self._time_ns = time.time_ns
        self.shift_ns = 0
        time.time_ns = lambda: self._time_ns() + self.shift_ns
        time.time = lambda: time.time_ns() / 1e9

    def set(self, shift_s: float | None) -> None:
        """shift_s None: it starts in 1970, as a board without a battery does."""
        self.shift_ns = -self._time_ns() if shift_s is None else int(shift_s * 1e9)


class Traffic:
    """What this node told others and heard from them: rows by kind of message, and rows of the base heard at all."""

    def __init__(self) -> None:
        self.rows_sent: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.base_rows = 0
        self.base_bodies = 0
        self.batch_rows_max = 0
        vars(mynosql.bridge)["decode"] = self.decode
        vars(mynosql.bridge)["encode"] = self.encode

    def encode(self, message: ms.Message) -> list[bytes]:
        self.rows_sent[type(message).__name__] += len(_rows_of(message))
        return encode(message)

    def decode(self, frames: Sequence[bytes]) -> ms.Message:
        message = decode(frames)
        rows = _rows_of(message)
        if rows:
            self.rows[type(message).__name__] += len(rows)
            self.batch_rows_max = max(self.batch_rows_max, len(rows))
            for row in rows:
                if BASE_PREFIX.encode() in row.id_key:
                    self.base_rows += 1
                    self.base_bodies += any(body is not None for body in row.bodies)
        return message

    def reset(self) -> None:
        self.rows.clear()
        self.rows_sent.clear()
        self.base_rows = self.base_bodies = self.batch_rows_max = 0


def _rows_of(message: ms.Message) -> tuple[Row, ...]:
    if isinstance(message, ms.Entries | ms.Changes | ms.Push):
        return message.rows
    if isinstance(message, ms.Bodies):
        return tuple(item.row for item in message.items if item.row is not None)
    return ()


class Writer(threading.Thread):
    """Saves at a steady pace: new records, edits of its own, and of records that others edit as well."""

    def __init__(self, db: mynosql.MyNoSQL, name: str, cell: str, shared: dict[str, str]) -> None:
        """shared: ids of records that all writers edit, and the revision that each of them starts from."""
        super().__init__(name="writer")
        self._db = db
        self._prefix = f"{cell}/{name}"
        self._shared: list[dict[str, Any]] = [{"id": id, "rev": rev, "marks": []} for id, rev in shared.items()]
        self._is_over = threading.Event()
        self.revs: dict[str, str] = {}
        """The newest revision of each record that only this node writes."""
        self.texts: dict[str, str] = {}
        self.marks: list[tuple[str, str]] = []
        """One for each save of a shared record; it must be in a leaf of that record for ever."""
        self.slowest_s = 0.0
        self.saves = 0
        self.error: str | None = None

    def run(self) -> None:
        try:
            while not self._is_over.wait(WRITE_INTERVAL_S):
                self._save(self.saves)
                self.saves += 1
        except Exception as error:
            self.error = repr(error)

    def _save(self, number: int) -> None:
        if number % 4 == 3:
            place = number // 4 % len(self._shared)
            rec = self._shared[place]
            mark = f"{self._prefix}.{number}"
            # Its own line goes on whatever it has heard of since: the others' edits stay beside it.
            self._shared[place] = self._timed({**rec, "marks": [*rec["marks"], mark]})
            self.marks.append((rec["id"], mark))
            return
        id = f"{self._prefix}/{number if number % 4 else number // 8:04d}"
        text = _noise(f"{id} at {number}", TEXT_LENGTH)
        rec = {"id": id, "text": text}
        if id in self.revs:
            rec["rev"] = self.revs[id]
        self.revs[id] = self._timed(rec)["rev"]
        self.texts[id] = _digest(text)

    def _timed(self, rec: dict[str, Any]) -> dict[str, Any]:
        started = time.monotonic()
        saved = self._db.savedoc(rec, branch=True)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        return saved

    def end(self) -> None:
        self._is_over.set()
        self.join()


class Node:
    """The commands; each method named do_… answers one."""

    def __init__(self, how: dict[str, Any]) -> None:
        self.clock = Clock()
        self.clock.set(how.pop("clock_shift_s", 0))
        self.traffic = Traffic()
        self.name = how.pop("node")
        self.db = mynosql.opendb("Mesh", **how)
        self._writer: Writer | None = None

    def do_load(self, count: int, body_bytes: int) -> dict[str, Any]:
        """The base: records of a body that does not compress, and is the same in every run."""
        ids = [f"{BASE_PREFIX}{number:05d}" for number in range(count)]
        for start in range(0, count, 1000):
            self.db.savedocs({"id": id, "text": _noise(id, body_bytes)} for id in ids[start : start + 1000])
        return {"revs": {id: self.db.docinfo(id).rev for id in ids}}

    def do_load_readings(self, count: int) -> dict[str, Any]:
        """As many sensor readings as the benchmarks have."""
        recs = ({"id": id, **body} for id, body in readings(count))
        while batch := list(itertools.islice(recs, 1000)):
            self.db.savedocs(batch)
        return {}

    def do_write(self, cell: str, shared: dict[str, str]) -> dict[str, Any]:
        assert self._writer is None
        self._writer = Writer(self.db, self.name, cell, shared)
        self._writer.start()
        return {}

    def do_rest(self) -> dict[str, Any]:
        writer, self._writer = self._writer, None
        assert writer is not None
        writer.end()
        return {
            "revs": writer.revs, "texts": writer.texts, "marks": writer.marks, "saves": writer.saves,
            "slowest_s": writer.slowest_s, "error": writer.error,
        }

    def do_progress(self) -> dict[str, Any]:
        """How far the writer is."""
        assert self._writer is not None
        return {"saves": self._writer.saves, "error": self._writer.error}

    def do_save(self, ids: list[str]) -> dict[str, Any]:
        recs = self.db.savedocs({"id": id, "text": id, "marks": []} for id in ids)
        return {"revs": {rec["id"]: rec["rev"] for rec in recs}}

    def do_state(self, id: str) -> dict[str, Any]:
        return {"state": self.db.docinfo(id).state}

    def do_look(self) -> dict[str, Any]:
        """Cheap: asked many times a second."""
        status = self.db.syncstatus()
        return {
            "records": status.records, "pending": status.pending, "missing": status.missing, "behind": status.behind,
            "filling": status.filling, "mirror": status.mirror, "connected": status.connected,
            "rejected": status.rejected, "mode": status.mode, "error": status.last_error,
            "payload": status.bytes_sent + status.bytes_received, "is_synced": status.as_of is not None,
            "mirrors": len(status.mirrors),
        }

    def do_digest(self) -> dict[str, Any]:
        """Equal for nodes with equal indexes."""
        state = hashlib.blake2b(digest_size=16)
        for id, leaves in self._listing():
            state.update(repr((id, leaves)).encode())
        return {"digest": state.hexdigest()}

    def do_listing(self) -> dict[str, Any]:
        return {"leaves": dict(self._listing())}

    def _listing(self) -> Iterable[tuple[str, list[str]]]:
        for id in self.db.listdocs():
            info = self.db.docinfo(id)
            conflicts = self.db.getconflicts(id, timeout=0) if info.conflicts else []
            yield id, [str(info.rev), *sorted(conflict.rev for conflict in conflicts)]

    def do_read(self, prefix: str) -> dict[str, Any]:
        """The digest of each record's text, read here or fetched; for a shared one the marks of all its leaves.

        not_held: the leaves that could not be read, per id.
        """
        texts: dict[str, Any] = {}
        not_held: dict[str, list[str]] = {}
        for id in self.db.listdocs(prefix):
            rec = self.db.readdoc(id, timeout=READ_TIMEOUT_S)
            others = self.db.getconflicts(id, timeout=READ_TIMEOUT_S)
            if not all(other.held for other in others):
                not_held[id] = [f"{other.rev} by {other.node}" for other in others if not other.held]
            marks = {mark for one in (rec, *(other.rec for other in others)) if one for mark in one.get("marks", ())}
            texts[id] = sorted(marks) if "marks" in rec else _digest(rec["text"])
        return {"texts": texts, "not_held": not_held}

    def do_traffic(self) -> dict[str, Any]:
        traffic = self.traffic
        return {
            "rows": dict(traffic.rows), "rows_sent": dict(traffic.rows_sent), "base_rows": traffic.base_rows,
            "base_bodies": traffic.base_bodies, "batch_rows_max": traffic.batch_rows_max,
        }

    def do_reset_traffic(self) -> dict[str, Any]:
        self.traffic.reset()
        return {}

    def do_clock(self, shift_s: float) -> dict[str, Any]:
        self.clock.set(shift_s)
        return {}

    def do_waitsync(self, timeout: float) -> dict[str, Any]:
        return {"is_synced": self.db.waitsync(timeout)}

    def do_check(self) -> dict[str, Any]:
        report = self.db.checkdb()
        return {"problems": [str(problem) for problem in report.problems]}

    def do_close(self) -> dict[str, Any]:
        self.db.closedb()
        return {}


def _noise(id: str, length: int) -> str:
    """Text that does not compress below its half, the same everywhere."""
    return hashlib.shake_128(id.encode()).hexdigest(length // 2)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def main() -> None:
    node = Node(receive())
    emit({"do": "open", "endpoint": node.db.endpoint, "monotonic": time.monotonic()})
    while True:
        command = receive()
        do = command.pop("do")
        emit({"do": do, **getattr(node, f"do_{do}")(**command)})
        if do == "close":
            return


if __name__ == "__main__":
    main()
