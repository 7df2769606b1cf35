"""One node of the demo as a process of its own: a mirror, the logger that writes, or the reader.

Run by demo.py as `python -m mynosql.cli.demo_worker SETUP`, SETUP being {"role", "folder", "options"} in JSON. Takes
commands as JSON lines on stdin and answers on stdout; ends when stdin ends, so that none outlives the demo. Uses the
database only through its public face.
"""

from __future__ import annotations

import hashlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import mynosql
from mynosql.cli.machine import Machine

NAME = "Demo"
STATUS_INTERVAL_S = 0.1
Command = dict[str, Any]


def main() -> int:
    """Runs one node until it is told to close, or its stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demo, which then ends its nodes
    setup = json.loads(sys.argv[1])
    try:
        with mynosql.opendb(NAME, location=setup["folder"], **setup["options"]) as db:
            Node(db, setup["folder"]).run()
    except mynosql.MyNoSQLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def fingerprint(rec: dict[str, Any]) -> tuple[str, int]:
    """A digest of a record without its rev, and the bytes of it as JSON text."""
    text = json.dumps({key: value for key, value in rec.items() if key != "rev"}, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest(), len(text)


class Node:
    """The open database of one process and what the demo asks of it."""

    def __init__(self, db: mynosql.MyNoSQL, folder: str) -> None:
        self._db = db
        self._machine = Machine(folder)
        self._saved: dict[str, tuple[str, int]] = {}
        """What savedoc acknowledged: id -> fingerprint. Kept apart from the database, to compare it with."""
        self._pace_s = 0.0
        self._commands: queue.Queue[Command | None] = queue.Queue()
        self._verbs: dict[str, Callable[[Command], Any]] = {
            "pace": self._pace, "saved": lambda _: self._saved, "ids": lambda _: self._db.listdocs(),
            "states": lambda c: [self._db.docinfo(id).state for id in c["ids"]], "read": self._read,
            "try": self._try, "waitsync": lambda c: self._db.waitsync(c["timeout_s"]), "all": self._all,
            "check": lambda _: self._db.checkdb().ok,
        }

    def run(self) -> None:
        """Performs commands as they come; between them writes at the pace that was set and reports its state."""
        threading.Thread(target=self._take_commands, daemon=True).start()
        _tell({"open": self._db.endpoint, "records": len(self._db)})
        write_at = report_at = time.monotonic()
        while True:
            now = time.monotonic()
            if self._pace_s and now >= write_at:
                self._write()
                write_at = max(write_at + self._pace_s, now - STATUS_INTERVAL_S)  # never more than a little to catch up
            if now >= report_at:
                self._report()
                report_at = now + STATUS_INTERVAL_S
            due = min(report_at, write_at) if self._pace_s else report_at
            try:
                command = self._commands.get(timeout=max(due - time.monotonic(), 0.0001))
            except queue.Empty:
                continue
            if command is None or command["do"] == "close":
                return
            self._perform(command)

    def _take_commands(self) -> None:
        for line in sys.stdin:
            self._commands.put(json.loads(line))
        self._commands.put(None)

    def _perform(self, command: Command) -> None:
        try:
            _tell({"answer": command["ask"], "result": self._verbs[command["do"]](command)})
        except mynosql.MyNoSQLError as error:
            _tell({"answer": command["ask"], "error": f"{type(error).__name__}: {error}"})

    def _report(self) -> None:
        status = self._db.syncstatus()
        _tell({
            "records": status.records, "held": status.held, "pending": status.pending,
            "is_connected": status.connected > 0, "written": len(self._saved),
            "wire": status.bytes_sent + status.bytes_received, "last_error": status.last_error,
        })

    def _write(self) -> None:
        rec = {"id": f"reading/{len(self._saved):06d}", "at": time.time(), **self._machine.read()}
        self._db.savedoc(rec)
        self._saved[rec["id"]] = fingerprint(rec)

    def _pace(self, command: Command) -> int:
        self._pace_s = 1 / command["per_s"] if command["per_s"] else 0.0
        return len(self._saved)

    def _read(self, command: Command) -> dict[str, str]:
        recs = self._db.readdocs(command["ids"], timeout=command["timeout_s"])
        return {rec["id"]: fingerprint(rec)[0] for rec in recs}

    def _try(self, command: Command) -> str:
        """What happens to a read that cannot succeed: the name of the error, "" when it did succeed."""
        try:
            self._db.readdoc(command["id"])
        except mynosql.MyNoSQLError as error:
            return type(error).__name__
        return ""

    def _all(self, command: Command) -> dict[str, str]:
        """Every record that this node knows, fetched where it is not held: id -> digest."""
        ids = self._db.listdocs()
        found: dict[str, str] = {}
        for start in range(0, len(ids), 500):
            found.update(self._read({"ids": ids[start : start + 500], "timeout_s": command["timeout_s"]}))
        return found


def _tell(message: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the demo is gone; stdin has ended too
        sys.stderr.close()


if __name__ == "__main__":
    sys.exit(main())
