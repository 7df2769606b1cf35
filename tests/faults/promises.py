"""What a recorded process tried and promised, and whether what a disk holds afterwards agrees.

Owns the meaning of the marks of recorded_child.py. A node may hold of each record any version from the last one that
was promised to the last one that was tried, and none of those of a batch alone. Pure: marks and findings in, sentences
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ABSENT = -1
Version = int | str | None
"""A record's version, a mode, or None for a deletion."""


class Held(NamedTuple):
    """What was found on a disk."""

    versions: Mapping[str, Version]
    """Per id; ids that are not held are left out."""
    cursors: Mapping[str, int]
    """Per feed up to where its changes are said to be here."""


@dataclass(frozen=True, slots=True)
class _Batch:
    tries: Mapping[str, int]
    """Per id the position of this try among its versions."""


@dataclass(slots=True)
class Promises:
    """The state of one node's promises as of the marks taken so far."""

    node: str
    sources: frozenset[str]
    """Folders of the nodes whose versions may come here, itself included."""
    tried: dict[str, list[Version]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    """Per id the position of the last version that survives a power cut."""
    killed: dict[str, int] = field(default_factory=dict)
    """Per id that of the last one that survives the end of the process."""
    batches: list[_Batch] = field(default_factory=list)

    @classmethod
    def of(cls, node: str, marks: Iterable[Mapping[str, Any]]) -> Promises:
        """Nothing is promised yet. marks: all of the recording, for who sends to whom."""
        sources = {node}
        for mark in marks:
            if mark.get("opened") and mark["node"] == node:
                sources.update(mark["receives"])
        return cls(node, frozenset(sources))

    def take(self, mark: Mapping[str, Any]) -> bool:
        """The next mark counts; True when it changes what may or must be held."""
        if "tries" in mark and mark["node"] in self.sources:
            places = {}
            for id, version in mark["tries"].items():
                if (id[0] == "#" or mark.get("is_local")) and mark["node"] != self.node:
                    continue  # another node's mode, or what it alone holds no more
                history = self.tried.setdefault(id, [])
                places[id] = len(history)
                history.append(version)
                self.origin[id] = mark["node"]
            if len(places) > 1 and mark["node"] == self.node:
                self.batches.append(_Batch(places))
            return True
        if "promises" not in mark or mark["node"] != self.node:
            return False
        kinds = [self.killed, self.durable] if mark["promises"] == "durable" else [self.killed]
        for promised in kinds:
            promised.update({id: len(self.tried[id]) - 1 for id in self.tried if self.origin[id] == mark["of"]})
        return True

    def find_broken(self, held: Held, feeds: Feeds, *, is_kept: bool) -> list[str]:
        """Sentences about what is lost, wrong or halved. is_kept: the state that kill -9 leaves."""
        promised = self.killed if is_kept else self.durable
        found = []
        positions: dict[str, int] = {}
        for id, history in self.tried.items():
            lowest = promised.get(id, ABSENT)
            positions[id] = position = _position(held.versions, id, history)
            if position < lowest:
                now = f"version {held.versions[id]}" if id in held.versions else "nothing"
                found.append(f"{id}: {now} is left of version {history[lowest]}, which was promised")
        found += [f"{id}: a record that nobody saved" for id in held.versions if id not in self.tried]
        for batch in self.batches:
            # A later version of a record says nothing: it may have arrived without this one.
            is_here = [positions[id] - at for id, at in batch.tries.items()]
            if 0 in is_here and min(is_here) < 0:
                found.append(f"only a part of the batch {sorted(batch.tries)} is there")
        for feed, seq in held.cursors.items():
            found += [
                f"{id}: not held as of version {version}, although the cursor of its feed says so (seq {seq})"
                for id, (at, version) in feeds.said_at(feed, seq).items()
                if id in self.tried and positions[id] < at
            ]
        return found


def _position(versions: Mapping[str, Version], id: str, history: list[Version]) -> int:
    if id not in versions:
        return ABSENT
    version = versions[id]
    for position in range(len(history) - 1, -1, -1):
        if history[position] == version:
            return position
    return ABSENT


class Feeds:
    """By how far a feed has been read, what of it must be held."""

    def __init__(self, marks: Iterable[Mapping[str, Any]]) -> None:
        self._points: dict[str, list[tuple[int, dict[str, tuple[int, Version]]]]] = {}
        tried: dict[str, dict[str, list[Version]]] = {}
        for mark in marks:
            if "tries" in mark and not mark.get("is_local"):
                for id, version in mark["tries"].items():
                    tried.setdefault(mark["node"], {}).setdefault(id, []).append(version)
            if "feed" in mark:
                said = {id: (len(found) - 1, found[-1]) for id, found in tried[mark["node"]].items() if id[0] != "#"}
                self._points.setdefault(mark["feed"], []).append((mark["seq"], said))

    def said_at(self, feed: str, seq: int) -> dict[str, tuple[int, Version]]:
        """Per id the position and version that whoever read the feed up to seq must hold."""
        said: dict[str, tuple[int, Version]] = {}
        for at, records in self._points.get(feed, ()):
            if at <= seq:
                said = records
        return said
