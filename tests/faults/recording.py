"""A process run once under strace, and what it did to its folders and said meanwhile.

Owns the run and its check: played to the end, the model of the disk must hold what the real folder holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disk_model import Disk, Folder
from tests.faults.processes import ROOT
from tests.faults.storage_calls import VOLATILE_SUFFIXES, Event, NotModelled, StorageCalls
from tests.faults.strace import find_skip_reason, read_trace, recording_command

RUN_S_MAX = 120.0


@dataclass(frozen=True)
class Recording:
    """What one process did to the disk, in order."""

    name: str
    events: list[Event]

    @cached_property
    def marks(self) -> list[Mapping[str, Any]]:
        """What it said."""
        return [event.mark for event in self.events if event.kind == "mark"]

    @cached_property
    def nodes(self) -> list[str]:
        """The folders of the nodes that it opened."""
        return list(dict.fromkeys(mark["node"] for mark in self.marks if mark.get("opened")))

    @property
    def syncs(self) -> list[Event]:
        """Every fsync and fdatasync."""
        return [event for event in self.events if event.kind == "sync"]


def record(name: str, script: str, work: Path) -> Recording:
    """Run the script (Python text; sys.argv: an empty root folder, the file of marks) and record it.

    Skips the test where strace cannot run. Raises AssertionError when the script fails or the model is wrong.
    """
    reason = find_skip_reason()
    if reason is not None:
        pytest.skip(reason)
    root, marks, trace = work / "root", work / "marks", work / "trace"
    root.mkdir(parents=True)
    command = [*recording_command(str(trace)), sys.executable, "-c", script, str(root), str(marks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=RUN_S_MAX, check=False)
    assert done.returncode == 0, f"{name}: the recorded process failed:\n{done.stderr[-4000:]}"
    calls = StorageCalls(str(root), str(marks))
    with trace.open(encoding="ascii") as lines:
        calls.take_all(read_trace([line.rstrip("\n") for line in lines]))
    trace.unlink()
    check_against(calls.disk, root)
    return Recording(name, calls.events)


def check_against(disk: Disk, root: Path) -> None:
    """The model with nothing lost is the real folder. Raises NotModelled: a call did what the model does not know."""
    kept = disk.all_kept(list(disk.nodes))
    modelled: dict[str, bytes | None] = {}
    for path, node in disk.paths(kept):
        made = disk.nodes[node]
        if isinstance(made, Folder):
            modelled[path] = None
        elif not made.is_socket and not made.is_volatile:
            modelled[path] = made.content(kept.get(node, ()))
    real = {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*") if not path.is_socket() and not path.name.endswith(VOLATILE_SUFFIXES)
    }
    wrong = [path for path in sorted({*modelled, *real}) if modelled.get(path, b"?") != real.get(path, b"?")]
    if wrong:
        raise NotModelled(f"the model of the disk and the real folder differ in {wrong}")
