"""Folders that were written once and must stay readable for ever: how one is made, and all that can be read from it.

Each has a number: tests/formats/1/ holds the database and expected.json, what it said when it was written. A new one is
written when a format changes (`python -m tests.formats`), never instead of an old one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import mynosql
from mynosql.jsonform import to_json
from mynosql.store import filter as filter_module
from mynosql.store import folder, frames, index, shard, tally
from tests.mesh import wait_connected
from tests.waiting import wait_until

HERE = Path(__file__).parent
NAME = "Frozen"
EXPECTED = "expected.json"
LONG = 1000
KEPT_PEER = "http://127.0.0.1:9"
"""Remembered in the folder; nothing answers there."""

FORMATS = {
    "filter": filter_module.FORMAT, "folder": folder.FORMAT, "index": index.FORMAT, "journal": frames.FORMAT,
    "shard": shard.FORMAT, "tally": tally._FORMAT,
}
"""What this code writes. A folder is written when any of them changes."""

SINGLES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 62, -(1 << 63), 1 << 200, -(1 << 200), 0.0, -0.0, 1.5, float("inf"), float("nan"),
    complex(1, -2), "", "text", "ünïcödé", "\ud800", b"", b"\x00\xff", bytearray(b"mutable"),
    Decimal("1.10"), Decimal("-0E+5"), Decimal("NaN"), Fraction(-3, 7), UUID(int=7), date(2024, 2, 29),
    time(23, 59, 59, 999999, fold=1), datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(1, 1, 1), datetime(2024, 1, 1, tzinfo=timezone.utc),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30), "named")), timedelta(days=-1, microseconds=5),
)
CONTAINERS: tuple[Any, ...] = (
    [], [1, [2, [3]]], (), (1, "two", (3,)), set(), {1, "one", (1,)}, frozenset({b"a", 2}), {}, {"a": {"b": [()]}},
    {1: "int", (1, 2): "tuple", frozenset({3}): "set", None: "none", 1.5: "float"},
)
IDS: tuple[Any, ...] = (
    "text", "", "\ud800", 0, -5, 1 << 70, -(1 << 70), 1.0, True, b"bytes", (1, "a"), frozenset({1, 2}),
    UUID(int=9), date(2024, 1, 1), Decimal("2.50"),
)


def write(target: Path, work: Path) -> None:
    """The folder of a killed peer with everything in it that a folder can hold, and what it says of itself."""
    with mynosql.opendb(NAME, location=work / "mirror", mode="mirror", listen="127.0.0.1:0") as mirror:
        mirror.savedocs([{"id": f"remote/{n:03}", "n": n, "text": "from the mirror " * 3} for n in range(40)])
        with mynosql.opendb(NAME, location=work / "peer", peers=[mirror.endpoint]) as peer:
            wait_connected(peer)
            _first_segment(peer)
            assert peer.waitsync(20)
            for number in range(0, 40, 2):
                peer.readdoc(f"remote/{number:03}")
            mirror.savedoc({**mirror.readdoc("remote/000"), "n": "newer"})
            mirror.deletedoc("remote/002")
            wait_until(lambda: peer.docinfo("remote/002").state == "deleted", what="the peer hears of both")
            assert peer.evictdoc("type/001")
            assert peer.docinfo("remote/000").state == "stale"
            for url in peer.listpeers():
                peer.delpeer(url)
            peer.addpeer(KEPT_PEER)
    with mynosql.opendb(NAME, location=work / "peer") as peer:
        _second_segment(peer)
    with mynosql.opendb(NAME, location=work / "peer") as peer:
        _unsealed(peer)
        target.mkdir()
        # "control" is the address of a process, and SQLite makes "index-shm" anew.
        shutil.copytree(work / "peer" / NAME, target / NAME, ignore=shutil.ignore_patterns("control*", "*-shm"))
        (target / NAME / folder.LOCK_NAME).write_bytes(b"")
        expected = {"formats": FORMATS, **described(peer)}
    lines = ",\n".join(f'"{key}": {_lines(value)}' for key, value in expected.items())
    (target / EXPECTED).write_text("{\n" + lines + "\n}\n", encoding="ascii", newline="\n")


def _lines(value: Any) -> str:
    """JSON, the items of a list a line each."""
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(item, sort_keys=True) for item in value) + "\n]"
    return json.dumps(value, sort_keys=True)


def _first_segment(peer: mynosql.MyNoSQL) -> None:
    """All types, all kinds of ids, a conflict, tombstones, a body in pieces: delivered to the mirror."""
    for number, value in enumerate((*SINGLES, *CONTAINERS)):
        peer.savedoc({"id": f"type/{number:03}", "value": value, "nested": [{"deep": (value,)}]})
    for number, id in enumerate(IDS):
        peer.savedoc({"id": id, "number": number})
    peer.savedocs([{"id": f"reading/{n:04}", "sensor": n % 7, "celsius": 20 + n / 8} for n in range(80)])
    peer.savedoc({"id": "large", "body": "".join(f"line {n} of a large text\n" for n in range(6000))})
    base = peer.savedoc({"id": "conflict/three", "n": 0})
    peer.savedoc({**base, "n": 1})
    for number in (2, 3):
        peer.savedoc({**base, "n": number}, branch=True)
    for number in range(5):
        peer.deletedoc(peer.savedoc({"id": f"gone/{number}", "n": number}))


def _second_segment(peer: mynosql.MyNoSQL) -> None:
    """What replaces rows of the first: owed to nobody yet."""
    for number in range(0, 80, 10):
        peer.savedoc({**peer.readdoc(f"reading/{number:04}"), "celsius": None})
    base = peer.savedoc({"id": "conflict/edited", "n": 0})
    peer.savedoc({**base, "n": 1})
    peer.savedoc({**base, "n": 2}, branch=True)
    peer.savedoc({**peer.readdoc("conflict/edited"), "n": 3})
    peer.savedoc({"id": "gone/0", "n": "again"})
    peer.deletedoc("reading/0079")


def _unsealed(peer: mynosql.MyNoSQL) -> None:
    """What stands in the journal alone: single saves, a batch, a deletion, a conflict, a body that lz4 shrinks."""
    peer.savedoc({"id": "journal/one", "n": 1})
    peer.savedocs([{"id": f"journal/batch/{n}", "n": n} for n in range(20)])
    peer.savedoc({"id": "journal/wide", "text": "again and " * 200})
    peer.deletedoc("journal/batch/3")
    base = peer.savedoc({"id": "journal/conflict", "n": 0})
    peer.savedoc({**base, "n": 1})
    peer.savedoc({**base, "n": 2}, branch=True)
    peer.deletedoc("reading/0078")
    peer.savedoc({**peer.readdoc("reading/0001"), "celsius": "edited"})


def described(db: mynosql.MyNoSQL) -> dict[str, Any]:
    """All that the database says of its records, as JSON that keeps their types."""
    status = db.syncstatus()
    changes = list(db.changes())
    return {
        "peers": db.listpeers(), "mode": db.getdbmode(), "length": len(db),
        "pending": sorted(map(_text, db.pendingdocs())), "listed": [to_json(id) for id in db.listdocs()],
        "counts": {
            name: getattr(status, name) for name in ("records", "held", "stale", "missing", "pending", "conflicts")
        },
        "changes": [to_json(change.id) for change in changes],
        "records": [_described(db, change.id) for change in sorted(changes, key=lambda change: _text(change.id))],
    }


def _described(db: mynosql.MyNoSQL, id: Any) -> dict[str, Any]:
    info = db.docinfo(id)
    is_readable = info.held_rev is not None
    return {
        "id": to_json(id), "state": info.state, "rev": info.rev, "held": info.held_rev, "size": info.size,
        "record": _shortened(to_json(db.readdoc(id, timeout=0))) if is_readable else None,
        "conflicts": [
            [leaf.rev, leaf.deleted, leaf.held, to_json(leaf.rec), leaf.node]
            for leaf in db.getconflicts(id, timeout=0)
        ],
    }


def _shortened(record: dict[str, Any]) -> dict[str, Any]:
    """The fields, long texts by their digest: the files are kept small."""
    return {
        key: hashlib.sha256(value.encode()).hexdigest() if isinstance(value, str) and len(value) > LONG else value
        for key, value in record.items() if key not in ("id", "rev")  # they stand beside it
    }


def _text(id: Any) -> str:
    return json.dumps(to_json(id), sort_keys=True)
