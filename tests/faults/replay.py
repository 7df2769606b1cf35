"""Every boundary of a recording, with what was not fsynced dropped, torn, sized and kept; each state opened and judged.

Owns which states are built and the count of them. A state that was seen before is not opened again, but what it holds
is compared with what is promised at each boundary where it may arise.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.disk_model import DROPPED, KEPT, SECTOR_BYTES, SIZED, Disk, Entry, Fate, File, Folder, Write
from tests.faults.opened_state import hold_of_face, hold_of_store, lay_out
from tests.faults.promises import Feeds, Held, Promises
from tests.faults.recording import Recording
from tests.faults.storage_calls import Event

FINDINGS_MAX = 20
Fates = dict[int, tuple[Fate, ...]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A state that breaks a promise."""

    node: str
    at: int
    """How many events of the recording had happened."""
    after: str
    """The last of them."""
    variant: str
    """What became of what was not fsynced."""
    what: str


@dataclass(slots=True)
class Report:
    """What a replay saw."""

    boundaries: int = 0
    states: int = 0
    """Different ones, each opened."""
    judged: int = 0
    """Comparisons of a state with the promises of one boundary."""
    faces: int = 0
    """States that were also opened by opendb, saved to, checked, closed and opened again."""
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How many states are built."""

    random_per_boundary: int = 2
    """States in which each operation has a fate of its own, drawn by lot."""
    singles_max: int = 6
    """Of the operations not fsynced so many are dropped alone, and so many alone are kept."""
    torn_per_write: int = 4
    """At so many places the last write of a file is torn."""
    face_every: int = 25
    """Of the different states each so-manieth is opened by the whole face as well; 0: none."""
    seed: int = 20261123


class Replay:
    """One node's folder through one recording."""

    def __init__(self, recording: Recording, node: str, work: Path, options: ReplayOptions) -> None:
        """work: a folder on a fast disk (tmpfs); what is in it is deleted."""
        self._recording, self._node, self._work, self._options = recording, node, work, options
        self._feeds = Feeds(recording.marks)
        self._ids = list(dict.fromkeys(id for mark in recording.marks for id in mark.get("tries", ())))
        self._held: dict[bytes, Held | str] = {}
        self._contents: dict[int, dict[tuple[Fate, ...], tuple[bytes, bytes]]] = {}
        self._opened = 0

    def run(
        self, *, without: frozenset[int] = frozenset(), start: int = 0, end: int | None = None,
        stop_at_first: bool = False,
    ) -> Report:
        """Every state of every boundary from event `start` up to event `end` is judged.

        without: events (fsyncs) that are left out, as if the process had not called them. stop_at_first: return as
        soon as one state breaks a promise.
        """
        report = Report()
        disk, promises = Disk(), Promises.of(self._node, self._recording.marks)
        self._contents.clear()
        rng = random.Random(self._options.seed)
        opened_before = self._opened
        for event in self._recording.events:
            if end is not None and event.at > end:
                break
            if (event.at not in without and not self._take(event, disk, promises)) or event.at < start:
                continue
            report.boundaries += 1
            for variant, fates in self._variants(disk, rng):
                self._judge(event, variant, fates, disk, promises, report)
                if (report.findings and stop_at_first) or len(report.findings) >= FINDINGS_MAX:
                    report.states = self._opened - opened_before
                    return report
        report.states = self._opened - opened_before
        return report

    def _take(self, event: Event, disk: Disk, promises: Promises) -> bool:
        """The event happens; False when no state is different after it and nothing more is promised."""
        if event.kind == "mark":
            return promises.take(event.mark)
        before = len(disk.nodes)
        event.apply(disk)
        self._contents.pop(event.node, None)
        return before != len(disk.nodes) or not event.path or self._is_ours(event.path)

    def _is_ours(self, path: str) -> bool:
        return path.split("/")[0] == self._node

    def _judge(
        self, event: Event, variant: str, fates: Fates, disk: Disk, promises: Promises, report: Report
    ) -> None:
        entries, digest = self._entries(disk, fates)
        held = self._held.get(digest)
        if held is None:
            held = self._held[digest] = self._open(entries, report)
        report.judged += 1
        broken = [held] if isinstance(held, str) else promises.find_broken(
            held, self._feeds, is_kept=variant == "all kept"
        )
        after = f"{event.kind} {event.path or event.mark}"
        report.findings += [Finding(self._node, event.at + 1, after, variant, what) for what in broken[:3]]

    def _open(self, entries: list[Entry], report: Report) -> Held | str:
        """What is held in this state, or why it cannot be known."""
        self._opened += 1
        try:
            lay_out(self._work, entries)
            held = hold_of_store(self._work / "Test", self._ids)
            if self._options.face_every and self._opened % self._options.face_every == 0:
                report.faces += 1
                lay_out(self._work, entries)
                found = hold_of_face(self._work, [id for id in self._ids if id[0] != "#"])
                stored = {id: version for id, version in held.versions.items() if id[0] != "#"}
                if found.versions != stored:
                    return f"the face finds {found.versions}, the store {stored}"
        except Exception as error:  # whatever it is: the state does not open, or not soundly
            return f"{type(error).__name__}: {error}"
        return held

    def run_without(self, syncs: list[Event]) -> Report:
        """As if the process had not called these fsyncs; up to the next of each file that makes up for them.

        No finding: they were needless here, every state that they make possible was judged.
        """
        without = frozenset(event.at for event in syncs)
        ends = [
            next((
                event.at for event in self._recording.syncs
                if event.at > sync.at and event.node == sync.node and event.at not in without
            ), len(self._recording.events))
            for sync in syncs
        ]
        return self.run(without=without, start=min(without), end=max(ends), stop_at_first=True)

    # States

    def _entries(self, disk: Disk, fates: Fates) -> tuple[list[Entry], bytes]:
        """What is below our folder, and a digest of it."""
        prefix = f"{self._node}/"
        digest = hashlib.blake2b(digest_size=16)
        entries = []
        for path, node in disk.paths(fates):
            if not path.startswith(prefix):
                continue
            made = disk.nodes[node]
            data, hashed = (None, b"-") if isinstance(made, Folder) else self._content(disk, node, fates.get(node, ()))
            entries.append(Entry(path.removeprefix(prefix), data, isinstance(made, File) and made.is_socket))
            digest.update(path.encode() + b"\0" + hashed + b"\0")
        return entries, digest.digest()

    def _content(self, disk: Disk, node: int, fates: tuple[Fate, ...]) -> tuple[bytes, bytes]:
        known = self._contents.setdefault(node, {})
        found = known.get(fates)
        if found is None:
            file = disk.file(node)
            data = b"" if file.is_volatile else file.content(fates)
            found = known[fates] = data, hashlib.blake2b(data, digest_size=16).digest()
        return found

    def _variants(self, disk: Disk, rng: random.Random) -> Iterator[tuple[str, Fates]]:
        """Named ways in which what was not fsynced may have arrived."""
        nodes = self._pending(disk)
        kept: Fates = {node: (KEPT,) * count for node, count in nodes.items()}
        yield "all kept", kept
        if not nodes:
            return
        folders = {node for node in nodes if isinstance(disk.nodes[node], Folder)}
        dropped: Fates = {node: (DROPPED,) * count for node, count in nodes.items()}
        sized: Fates = {node: (KEPT if node in folders else SIZED,) * count for node, count in nodes.items()}
        yield "all dropped", dropped
        yield "names kept, data dropped", {**dropped, **{node: kept[node] for node in folders}}
        yield "names dropped, data kept", {**kept, **{node: dropped[node] for node in folders}}
        yield "names and sizes kept, data lost", sized
        for node in nodes:
            yield f"node {node} alone dropped", {**kept, node: dropped[node]}
            yield f"node {node} alone kept", {**dropped, node: kept[node], **{n: kept[n] for n in folders}}
            if node not in folders:
                yield f"node {node} alone lost its data", {**kept, node: sized[node]}
        yield from self._singles(nodes, folders, kept, dropped, rng)
        yield from self._torn(disk, nodes, folders, kept, dropped)
        for number in range(self._options.random_per_boundary):
            yield f"by lot {number}", {
                node: tuple(rng.choice(_FATES_OF_NAMES if node in folders else _FATES_OF_DATA) for _ in range(count))
                for node, count in nodes.items()
            }

    def _pending(self, disk: Disk) -> dict[int, int]:
        """Nodes below ours or above it with operations not fsynced, and how many. Data of volatile files is none."""
        above = [0, *filter(None, [disk.find((self._node,))])]
        nodes = [*above, *(disk.reachable(above[-1]) if len(above) > 1 else [])]
        found = {}
        for node in dict.fromkeys(nodes):
            made = disk.nodes[node]
            if made.pending and not (isinstance(made, File) and made.is_volatile):
                found[node] = len(made.pending)
        for node, made in disk.nodes.items():  # of no concern, but a fate is expected for each
            if isinstance(made, Folder) and made.pending and node not in found:
                found[node] = len(made.pending)
        return found

    def _singles(
        self, nodes: dict[int, int], folders: set[int], kept: Fates, dropped: Fates, rng: random.Random
    ) -> Iterator[tuple[str, Fates]]:
        every = [(node, at) for node, count in nodes.items() if count > 1 for at in range(count)]
        chosen = every if len(every) <= self._options.singles_max else rng.sample(every, self._options.singles_max)
        for node, at in chosen:
            one = (*kept[node][:at], DROPPED, *kept[node][at + 1:])
            yield f"operation {at} of node {node} dropped", {**kept, node: one}
            head = (*kept[node][:at], *dropped[node][at:])
            yield f"node {node} kept up to operation {at}", {**kept, node: head}

    def _torn(
        self, disk: Disk, nodes: dict[int, int], folders: set[int], kept: Fates, dropped: Fates
    ) -> Iterator[tuple[str, Fates]]:
        """The last write of each file arrived in part."""
        names = {node: kept[node] for node in folders}
        for node in nodes:
            if node in folders:
                continue
            last = disk.file(node).pending[-1]
            if not isinstance(last, Write):
                continue
            for count in _torn_lengths(len(last.data))[-self._options.torn_per_write:]:
                one = {node: (*kept[node][:-1], count)}
                yield f"node {node} torn after {count} bytes", {**kept, **one}
                yield f"node {node} torn after {count} bytes, the rest lost", {**dropped, **names, **one}


_FATES_OF_NAMES = (KEPT, KEPT, DROPPED)
_FATES_OF_DATA = (KEPT, KEPT, KEPT, DROPPED, SIZED, 1, SECTOR_BYTES)


def _torn_lengths(length: int) -> list[int]:
    """1 byte, half of it, the last whole sector, all but a byte."""
    sectors = (length - 1) // SECTOR_BYTES * SECTOR_BYTES
    return sorted({count for count in (1, length // 2, sectors, length - 1) if 0 < count < length})

