"""Each storage call of a scenario killed in or made to fail, one run after the other, and what came of it.

Owns which calls there are (from an undisturbed run) and the reading of what happened. The calls of one file are counted
by strace per thread: the Nth of its kind on this path, in whichever thread comes to its Nth first.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.processes import PythonChild
from tests.faults.recorded_child import NAME

READING = ("read", "pread64")
CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "mkdir", *READING)
"""Calls that a disk may refuse."""
_ERRORS = {
    "openat": ("EIO", "ENOSPC", "EMFILE"), "write": ("EIO", "ENOSPC"), "pwrite64": ("EIO", "ENOSPC"),
    "fsync": ("EIO", "ENOSPC"), "fdatasync": ("EIO", "ENOSPC"), "ftruncate": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC"), "mkdir": ("EIO", "ENOSPC"), "unlink": ("EIO",), "read": ("EIO",), "pread64": ("EIO",),
}
_ENTERED = re.compile(r"^(\d+) +(\w+)\((.*)$")
_PATH = re.compile(r"[<\"](/[^>\"]*)[>\"]")
_START_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Point:
    """The Nth call of a kind on one path."""

    call: str
    path: str
    """Below the root; "" is the root itself."""
    number: int
    """From 1."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One disturbed run."""

    point: Point
    fault: str
    status: int
    """Of the process; negative: the signal that ended it."""
    has_fired: bool
    trace: list[str]
    marks: list[dict[str, Any]]
    failure: str
    """The traceback of what ended the process by itself, or ""."""
    root: Path

    @property
    def errors(self) -> list[str]:
        """Classes of the named errors that the process met."""
        return [mark["error"] for mark in self.marks if "error" in mark]

    @property
    def where(self) -> str:
        return f"{self.fault} at {self.point.call} number {self.point.number} of {self.point.path or 'the root'}"


class Disturber:
    """Runs one scenario again and again. A context manager."""

    def __init__(self, scenario: str, work: Path) -> None:
        self._scenario = scenario
        self._work = work
        self._server = PythonChild("from tests.faults.fork_server import serve\nserve()\n")

    def __enter__(self) -> Disturber:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.close()

    def points(self) -> list[Point]:
        """Every storage call below the root of an undisturbed run."""
        outcome = self._run(Point("", "", 0), "none", ["-y", "-e", f"trace={','.join(CALLS)}"])
        assert (outcome.status, outcome.errors) == (0, []), f"the scenario fails undisturbed: {outcome}"
        counts: Counter[tuple[str, str, str]] = Counter()
        for line in outcome.trace:
            found = _ENTERED.match(line)
            path = found and _PATH.search(re.sub(r"AT_FDCWD<[^>]*>", "", found[3]))
            if found and path and f"{path[1]}/".startswith(f"{outcome.root}/"):
                counts[found[1], found[2], path[1].removeprefix(str(outcome.root)).lstrip("/")] += 1
        most: dict[tuple[str, str], int] = {}
        for (_, call, path_below), count in counts.items():
            most[call, path_below] = max(count, most.get((call, path_below), 0))
        return [
            Point(call, path_below, number + 1)
            for (call, path_below), count in sorted(most.items()) for number in range(count)
        ]

    def kill(self, point: Point) -> Outcome:
        """The process is killed as it enters this call."""
        return self._disturb(point, "SIGKILL", f"inject={point.call}:signal=SIGKILL:when={point.number}")

    def fail(self, point: Point, error: str) -> Outcome:
        """This call fails once, without being done."""
        return self._disturb(point, error, f"inject={point.call}:error={error}:when={point.number}")

    def _disturb(self, point: Point, fault: str, inject: str) -> Outcome:
        root = self._work / "root"
        paths = [str(root / point.path)]
        if point.call in ("fsync", "fdatasync"):
            paths.append(str(root / "A" / NAME / "lock"))  # opening it tells an opening from the one before
        arguments = [argument for path in paths for argument in ("-P", path)]
        return self._run(point, fault, ["-y", "-e", f"trace={','.join(CALLS)}", "-e", inject, *arguments])

    def _run(self, point: Point, fault: str, arguments: list[str]) -> Outcome:
        shutil.rmtree(self._work, ignore_errors=True)
        root, marks, trace = self._work / "root", self._work / "marks", self._work / "trace"
        root.mkdir(parents=True)
        self._server.send({
            "scenario": self._scenario, "root": str(root), "marks": str(marks),
            "strace": ["-f", "-s", "16", "-o", str(trace), *arguments],
        })
        answer = self._server.read(_START_S_MAX)
        assert "attached" in answer["said"], answer["said"]
        lines = trace.read_text(errors="replace").splitlines()
        error = self._work / "marks.error"
        sign = "killed by SIGKILL" if fault == "SIGKILL" else "(INJECTED)"
        return Outcome(
            point, fault, answer["status"], any(sign in line for line in lines), lines, list(_read_marks(marks)),
            error.read_text() if error.exists() else "", root,
        )


def errors_of(point: Point) -> tuple[str, ...]:
    """What this call may fail with."""
    return _ERRORS[point.call]


def _read_marks(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)
