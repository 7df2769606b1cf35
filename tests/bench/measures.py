"""What is measured, in the order of the table: text, unit, digits, and the goal that the project has set itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from tests.bench.target import BASELINE, OURS

Figures = Mapping[str, Mapping[str, list[float]]]
"""Key of a measure → name of a product → one value a round."""


class Goal(Protocol):
    """A figure to reach, printed beside the measured one."""

    def text(self) -> str:
        """The goal as the table shows it."""

    def verdict(self, medians: Mapping[str, float]) -> str:
        """What was reached, by the medians of one measure; "" while something is missing to judge by."""


@dataclass(frozen=True)
class TimesFaster:
    """Ours takes at most 1/factor of the rival's time."""

    factor: float
    rival: str = BASELINE

    def text(self) -> str:
        return f"≥ {self.factor:g} × {self.rival}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        if OURS not in medians or self.rival not in medians:
            return ""
        reached = medians[self.rival] / medians[OURS]
        return _verdict(reached >= self.factor, f"{reached:.2f} ×")


@dataclass(frozen=True)
class TimesRival:
    """Ours is at least factor × the rival's figure, where more is better."""

    factor: float
    rival: str

    def text(self) -> str:
        return f"≥ {self.factor:g} × {self.rival}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        if OURS not in medians or self.rival not in medians:
            return ""
        reached = medians[OURS] / medians[self.rival]
        return _verdict(reached >= self.factor, f"{reached:.2f} ×")


@dataclass(frozen=True)
class ShareOf:
    """Ours takes at most so much of what the rival takes."""

    share: float
    rival: str

    def text(self) -> str:
        return f"≤ {self.share:g} × {self.rival}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        if OURS not in medians or self.rival not in medians:
            return ""
        reached = medians[OURS] / medians[self.rival]
        return _verdict(reached <= self.share, f"{reached:.2f} ×")


@dataclass(frozen=True)
class NoMoreThan:
    """Ours is at most the limit and at most the rival's figure, where less is better."""

    limit: float
    rival: str

    def text(self) -> str:
        return f"≤ {self.limit:g} and ≤ {self.rival}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        if OURS not in medians or self.rival not in medians:
            return ""
        return _verdict(medians[OURS] <= min(self.limit, medians[self.rival]))


@dataclass(frozen=True)
class Both:
    """Two goals for one figure; a goal that cannot be judged in this run is not mentioned as reached or missed."""

    first: Goal
    second: Goal

    def text(self) -> str:
        return f"{self.first.text()}, {self.second.text()}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        return ", ".join(filter(None, (self.first.verdict(medians), self.second.verdict(medians))))


@dataclass(frozen=True)
class AtMost:
    limit: float

    def text(self) -> str:
        return f"≤ {self.limit:g}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        return "" if OURS not in medians else _verdict(medians[OURS] <= self.limit)


@dataclass(frozen=True)
class AtLeast:
    limit: float

    def text(self) -> str:
        return f"≥ {self.limit:,g}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        return "" if OURS not in medians else _verdict(medians[OURS] >= self.limit)


@dataclass(frozen=True)
class Measure:
    """One row of the table. key: as in the results of local.py, nodes.py and the rivals.

    text: {names} in it are fields of sizes.Sizes.
    """

    key: str
    text: str
    digits: int
    goal: Goal | None = None


def _verdict(is_reached: bool, reached: str = "") -> str:
    return f"{reached} {'reached' if is_reached else '**missed**'}".strip()


FASTER = Both(TimesFaster(3), TimesFaster(6, "diskcache"))
LOCAL = (
    Measure("save_us", "save, one by one, µs a reading", 2, FASTER),
    Measure("save_and_close_us", "the same with closing, µs", 2),
    Measure("save_cpu_us", "the same, processor time of all threads, µs", 2),
    Measure("batch_us", "save in batches of 1,000, µs a reading", 2, TimesFaster(2)),
    Measure("batch_and_close_us", "the same with closing, µs", 2),
    Measure("read_hot_us", "warm read, hot set of {hot_set:,}, µs", 2, FASTER),
    Measure("read_all_us", "warm read, any of {readings:,}, µs", 2, TimesFaster(3)),
    Measure("read_cold_us", "cold read, page cache emptied, µs", 1),
    Measure("update_us", "update with rev, µs", 2),
    Measure("disk_bytes", "disk, bytes a reading", 1, Both(ShareOf(0.28, BASELINE), ShareOf(1, "rocksdict-zstd"))),
    Measure("batch_disk_bytes", "disk after batches, bytes a reading", 1),
    Measure("updated_disk_bytes", "disk after {updates:,} updates, bytes a reading", 1),
    Measure("game_save_us", "save of 2 KB, µs", 2),
    Measure("game_read_us", "warm read of 2 KB, µs", 2),
    Measure("game_disk_bytes", "disk, bytes a save of 2 KB", 0),
    Measure("resource_save_us", "save of 200 KB, µs", 0),
    Measure("resource_read_us", "second read of 200 KB, µs", 0),
    Measure("resource_disk_bytes", "disk, bytes a resource of 200 KB", 0),
    Measure("mix_a_us", "YCSB A, half of it read and written back, µs an operation", 1),
    Measure("mix_b_us", "YCSB B, one in twenty written back, µs", 1),
    Measure("mix_c_us", "YCSB C, reads only, µs", 1),
    Measure("delete_us", "delete, µs", 1),
    Measure("mixed_disk_bytes", "disk after mixes and deletes, bytes a reading", 1),
    Measure("million_save_us", "{million:,} saves one by one, µs each", 2, TimesFaster(3)),
    Measure("million_read_us", "then {readings:,} reads of any of them, µs", 1),
    Measure("million_mb", "resident memory that both took, MB", 1, AtMost(40)),
    Measure("million_disk_bytes", "disk then, bytes a reading", 1, AtMost(70)),
    Measure("steady_per_s", "saves a second through {steady_s:g} s without a pause", 0, AtLeast(30_000)),
    Measure("steady_p999_ms", "p99.9 of these saves, ms", 2, AtMost(5)),
    Measure("steady_longest_ms", "the longest of them, ms", 1, AtMost(200)),
    Measure("control_longest_ms", "the longest write of a control writer, ms", 1),
    Measure("each_per_s", "durability each, one thread, saves/s", 0),
    Measure("each_threads_per_s", "the same, eight threads", 0),
    Measure("each_ratio", "eight threads against one", 1, AtLeast(4)),
    Measure("written_bytes", "a logger of ten readings a second, bytes written to the disk a reading", 0),
    Measure("written_sparing_bytes", "the same with fsync_interval_s=5", 0),
    Measure("open_ms", "open {records_open:,} records, ms", 1, AtMost(200)),
    Measure("open_and_read_ms", "the same and read one, ms", 1),
    Measure("open_mb", "resident memory that opening adds, MB", 1, AtMost(30)),
    Measure("open_disk_bytes", "disk at {records_open:,}, bytes a reading", 1),
)

NODES = (
    Measure(
        "sync_records_per_s", "first sync of {readings:,} readings, records/s", 0,
        Both(TimesRival(0.6, "nats"), TimesRival(20, "pouchdb")),
    ),
    Measure("sync_confirmed_records_per_s", "until the source knows it is on the other disk, records/s", 0),
    Measure("sync_wire_bytes", "bytes a record on the wire", 1, AtMost(60)),
    Measure("sync_tcp_bytes", "the same, counted by a TCP proxy, both ways", 1),
    Measure("push_records_per_s", "push of {readings:,} readings, acknowledged, records/s", 0, AtLeast(100_000)),
    Measure("live_p50_ms", "live, saved here to read there, p50, ms", 3, NoMoreThan(0.8, "nats-always")),
    Measure("live_p99_ms", "live, p99, ms", 3),
    Measure("relay_p50_ms", "live, from a peer over a mirror to a peer that reads it, p50, ms", 3, AtMost(2)),
    Measure("relay_p99_ms", "the same, p99, ms", 3),
    Measure("curve_records_per_s", "the first sync with encryption, records/s", 0),
    Measure("curve_share", "as a share of that without, one after the other", 2, AtLeast(0.5)),
    Measure("difference_kb", "two copies of {records_open:,} records, 100 changed: kB both ways", 0, AtMost(256)),
    Measure("difference_s", "until each has what the other changed, s", 1),
    Measure("idle_mirror_percent", "idle mirror with a peer, % of a core", 3, AtMost(0.5)),
    Measure("idle_peer_percent", "idle peer, % of a core", 3, AtMost(0.5)),
    Measure("frame_alone_p999_ms", "frames of a 60 Hz loop on an idle machine, p99.9 late, ms", 1),
    Measure("frame_beside_p999_ms", "the same beside a first sync of other processes", 1),
    Measure("frame_inside_p999_ms", "the same in the process that takes {readings:,} readings in", 1),
    Measure("frame_above_p999_ms", "of that above the loop on an idle machine", 1, AtMost(4)),
)


def medians_of(figures: Figures, key: str) -> dict[str, float]:
    """Product → median of what was measured under this key."""
    return {name: median(values) for name, values in figures.get(key, {}).items() if values}
