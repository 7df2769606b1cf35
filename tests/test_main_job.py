"""The main job with real processes and real readings: whatever is cut or killed, every record arrives exactly once.

A logger saves the 8,759 readings of sf-temps.csv. Its link to the mirror goes through a proxy that can be cut; the
mirror tells others the proxy's address as its own, so that no node finds a way around the cut.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mynosql.net.ports import find_free_pair
from tests.faults.processes import PythonChild
from tests.faults.proxy import Proxy
from tests.waiting import wait_until

READINGS = Path(__file__).parent / "data" / "sf-temps.csv"
PART = 500
"""Readings between two points at which the logger waits for the test."""

MIRROR = """
import sys, mynosql
location, listen, advertise, *peers = sys.argv[1:]
db = mynosql.opendb(
    "Readings", location=location, mode="mirror", listen=listen, advertise=advertise or None, peers=peers
)
emit({"endpoint": db.endpoint})
while True:
    command = receive()
    if command == "count":
        emit({"count": len(db), "missing": db.syncstatus().missing})
    elif command == "all":
        emit({"all": {id: db.readdoc(id)["temp"] for id in db}, "changes": sum(1 for _ in db.changes())})
    elif command == "check":
        report = db.checkdb()
        emit({"ok": report.ok, "problems": [str(problem) for problem in report.problems]})
"""

LOGGER = f"""
import csv, sys, mynosql
location, readings, mirror = sys.argv[1:]
db = mynosql.opendb("Readings", location=location, peers=[mirror])
with open(readings) as file:
    for number, row in enumerate(csv.DictReader(file), 1):
        db.savedoc({{"id": "sf/" + row["date"], "temp": float(row["temp"])}})
        if number % {PART} == 0:
            emit({{"saved": number}})
            receive()
emit({{"saved": number}})
receive()
emit({{"synced": db.waitsync(60), "pending": len(db.pendingdocs()), "status": str(db.syncstatus())}})
db.closedb()
emit({{"closed": True}})
"""


def real_readings() -> dict[str, float]:
    with READINGS.open() as file:
        return {"sf/" + row["date"]: float(row["temp"]) for row in csv.DictReader(file)}


class Site:
    """One mirror behind a proxy, and the means to kill and restart it on the same port."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.port = find_free_pair()
        self.proxy = stack.enter_context(Proxy("127.0.0.1", self.port))
        self.url = f"http://127.0.0.1:{self.proxy.port}"
        self.start_mirror()

    def start_mirror(self) -> None:
        self.mirror = self._stack.enter_context(
            PythonChild(MIRROR, str(self.folder / "mirror"), f"127.0.0.1:{self.port}", self.url)
        )
        self.mirror.read_until("endpoint")

    def start_logger(self) -> PythonChild:
        return self._stack.enter_context(PythonChild(LOGGER, str(self.folder / "logger"), str(READINGS), self.url))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ask(node: PythonChild, command: str) -> Any:
    node.send(command)
    return node.read(60)


def save_until(logger: PythonChild, number: int) -> None:
    """The logger has saved that many readings and waits."""
    while logger.read_until("saved")["saved"] < number:
        logger.send("go on")


def holds_all(node: PythonChild, readings: dict[str, float]) -> None:
    """Every reading once, with equal values, each with one change in the node's feed, and a sound folder."""
    wait_until(lambda: ask(node, "count") == {"count": len(readings), "missing": 0}, 60, "all readings are there")
    answer = ask(node, "all")
    assert answer["all"] == readings
    assert answer["changes"] == len(readings)
    assert ask(node, "check") == {"ok": True, "problems": []}


@pytest.mark.slow
def test_readings_arrive_once_on_two_mirrors_while_the_link_is_cut_twice_and_the_mirror_killed(
    tmp_path: Path, stack: ExitStack
) -> None:
    readings = real_readings()
    site = Site(tmp_path, stack)
    logger = site.start_logger()
    save_until(logger, 1500)
    wait_until(lambda: ask(site.mirror, "count")["count"] > 0, 30, "readings arrive while the logger goes on")

    site.proxy.cut()
    logger.send("go on")
    save_until(logger, 3500)
    site.proxy.restore()
    wait_until(lambda: ask(site.mirror, "count")["count"] >= 3500, 30, "what was queued arrives after the first cut")

    logger.send("go on")
    save_until(logger, 4500)
    site.mirror.kill()
    logger.send("go on")
    save_until(logger, 6000)
    site.start_mirror()
    wait_until(lambda: ask(site.mirror, "count")["count"] >= 6000, 30, "the restarted mirror is found again")

    site.proxy.cut()
    logger.send("go on")
    save_until(logger, len(readings))
    second = stack.enter_context(
        PythonChild(MIRROR, str(tmp_path / "second"), "127.0.0.1:0", "", f"http://127.0.0.1:{site.port}")
    )
    second.read_until("endpoint")
    site.proxy.restore()
    logger.send("go on")
    answer = logger.read_until("synced", 90)
    assert answer["synced"] is True, answer
    assert answer["pending"] == 0
    assert logger.read_until("closed") == {"closed": True}

    holds_all(site.mirror, readings)
    holds_all(second, readings)


@pytest.mark.slow
def test_readings_arrive_once_when_the_logger_is_killed_midway_and_replays_its_file(
    tmp_path: Path, stack: ExitStack
) -> None:
    readings = real_readings()
    site = Site(tmp_path, stack)
    logger = site.start_logger()
    save_until(logger, 2000)
    site.proxy.cut()
    logger.send("go on")
    save_until(logger, 5000)
    logger.kill()
    site.proxy.restore()

    logger = site.start_logger()  # it saves the same readings again: those that are there already change nothing
    save_until(logger, len(readings))
    logger.send("go on")
    answer = logger.read_until("synced", 90)
    assert answer["synced"] is True, answer
    holds_all(site.mirror, readings)
