"""The power is cut at every storage call of a real process: nothing promised is lost, nothing is wrong, all opens.

Each write path (tests/faults/write_paths.py) is recorded once with strace and replayed at every boundary, what was not
fsynced dropped, torn and kept. `tox -e powerloss` builds ten times as many states and leaves out each single fsync.
What is promised, and figures: docs/DURABILITY.md.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.recording import Recording, record
from tests.faults.replay import Replay, ReplayOptions, Report
from tests.faults.storage_calls import Event
from tests.faults.write_paths import PATHS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.long]
IS_EXHAUSTIVE = bool(os.environ.get("MYNOSQL_EXHAUSTIVE"))
QUICK = ReplayOptions(random_per_boundary=0, singles_max=1, torn_per_write=1, face_every=60)
EXHAUSTIVE = ReplayOptions(random_per_boundary=60, singles_max=20, face_every=100)
OPTIONS = EXHAUSTIVE if IS_EXHAUSTIVE else QUICK
STATES_MIN = 50_000 if IS_EXHAUSTIVE else 5_000

LEFT_OUT_AND_CAUGHT = {
    "parent": "the folder itself is gone",
    "format": "a folder without its format is refused",
    "folder": "an index without its name beside its log; a journal or shard that is gone",
    "index.tmp": "an index that is no SQLite file",
    "index": "pages of the index are older than its log, which is gone",
    "index-wal": "the log is lost after the journal, and with it mode and cursors",
    "journal": "acknowledged saves are gone",
    "shard": "blocks that the index names are cut short",
}
"""Kinds of fsyncs, and what a cut does when they are left out."""
NEEDLESS = {
    "identity": "a torn identity is minted anew, as in a copied folder",
    "index-journal": "SQLite's own, while an empty index turns to its log; nothing is in it yet",
    "filter": "a torn filter is made anew from the index",
}
"""Kinds that cost no promise when left out: every state that this makes possible was judged."""


@pytest.fixture
def fast_disk() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of databases are laid out in it."""
    memory = "/dev/shm"
    place = Path(tempfile.mkdtemp(prefix="mynosql-cut-", dir=memory if os.access(memory, os.W_OK) else None))
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def reports() -> dict[str, list[Report]]:
    """What each path's replay saw."""
    return {}


def kind_of(sync: Event) -> str:
    """What an fsync was for: a kind of file, "folder" or "parent"."""
    parts = sync.path.split("/")
    if len(parts) <= 2:
        return "folder" if len(parts) == 2 else "parent"
    if parts[2] == "index.tmp":
        return parts[2]
    return re.sub(r"-\d+$|\.tmp$", "", parts[2])


@pytest.mark.parametrize("name", PATHS)
def test_no_cut_loses_what_was_promised(name: str, fast_disk: Path, reports: dict[str, list[Report]]) -> None:
    recording = record(name, PATHS[name], fast_disk / "recorded")
    assert recording.nodes
    for node in recording.nodes:
        report = Replay(recording, node, fast_disk / "state", OPTIONS).run()
        print(f"{name} ({node}): {report}")
        assert report.findings == []
        reports.setdefault(name, []).append(report)
    assert any(report.faces for report in reports[name]), "some states are opened by the whole face"


def test_as_many_states_were_opened_as_are_claimed(reports: dict[str, list[Report]]) -> None:
    if set(reports) != set(PATHS):
        pytest.skip("only some of the write paths were replayed in this run (strace is missing, or -k was given)")
    states = sum(report.states for found in reports.values() for report in found)
    print(f"{states} states")
    assert states >= STATES_MIN


@pytest.mark.parametrize("name", PATHS if IS_EXHAUSTIVE else ["mode change"])
def test_each_fsync_is_needed_or_known_to_be_needless(name: str, fast_disk: Path) -> None:
    recording = record(name, PATHS[name], fast_disk / "recorded")
    caught: set[str] = set()
    kinds: set[str] = set()
    for node in recording.nodes:
        replay = Replay(recording, node, fast_disk / "state", ReplayOptions(random_per_boundary=1, face_every=0))
        for kind, syncs in syncs_by_kind(recording, node).items():
            kinds.add(kind)
            singly = [replay.run_without([sync]).findings for sync in syncs] if IS_EXHAUSTIVE else []
            findings = [found for found in [*singly, replay.run_without(syncs).findings] if found]
            if findings:
                caught.add(kind)
            count = sum(1 for found in singly if found)
            what = findings[0][0].what[:100] if findings else ""
            print(f"{name} ({node}): {kind}: {count} of {len(syncs)} caught alone; {what}")
    assert kinds <= {*LEFT_OUT_AND_CAUGHT, *NEEDLESS}, "a new kind of fsync: find out what it is for"
    assert caught & set(NEEDLESS) == set()
    assert caught == kinds - set(NEEDLESS)


def syncs_by_kind(recording: Recording, node: str) -> dict[str, list[Event]]:
    """Fsyncs of this node's files and of the folders above."""
    found: dict[str, list[Event]] = {}
    for sync in recording.syncs:
        if sync.path.split("/")[0] in ("", node):
            found.setdefault(kind_of(sync), []).append(sync)
    return found
