"""python -m tests.bench.scale: three mirrors and ever more peers on this machine; writes docs/SCALE.md when asked to.

The mirrors are processes of their own, the peers share a few (PEERS_A_PROCESS nodes in each): what a peer costs is the
slope over their number. All on loopback, bounded in count and time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.bench import machine, report
from tests.bench.svg import line_chart
from tests.faults.processes import ROOT, PythonChild, emit, receive

COUNTS = (1, 10, 30, 100, 300)
MIRRORS = 3
PEERS_A_PROCESS = 50
CHANGES = 20
CHANGE_INTERVAL_S = 1.0
SETTLE_S = 20.0
"""After it every peer has measured its mirrors: from then on a mesh without changes is idle."""
IDLE_S = 10.0
DEADLINE_S = 180.0
LISTEN = "127.0.0.1:0"
PLOT = Path("docs/plots/scale.svg")

Row = dict[str, float]


def measure(
    counts: tuple[int, ...], folder: Path, *, changes: int = CHANGES, idle_s: float = IDLE_S, settle_s: float = SETTLE_S
) -> list[Row]:
    """A row for each number of peers; the last one also says how long a mirror's restart takes to settle."""
    with contextlib.ExitStack() as stack:
        mirrors = [stack.enter_context(_child("mirror_process")) for _ in range(MIRRORS)]
        endpoints: list[str] = []
        for number, mirror in enumerate(mirrors):
            mirror.send({"folder": str(folder / f"m{number}"), "peers": endpoints, "listen": LISTEN})
            endpoints.append(mirror.read_until("endpoint", DEADLINE_S)["endpoint"])
        groups: list[PythonChild] = []
        rows: list[Row] = []
        have = 0
        for count in counts:
            while have < count:
                size = min(PEERS_A_PROCESS, count - have)
                group = stack.enter_context(_child("peer_process"))
                group.send({"folder": str(folder), "first": have, "count": size, "mirrors": endpoints})
                group.read_until("connected", DEADLINE_S)
                groups.append(group)
                have += size
            rows.append(_measure_one(count, mirrors, groups, changes, idle_s, settle_s))
        rows[-1]["restart_s"] = _restart(mirrors, groups, folder, endpoints)
        return rows


def _measure_one(
    count: int, mirrors: list[PythonChild], groups: list[PythonChild], changes: int, idle_s: float, settle_s: float
) -> Row:
    time.sleep(settle_s)
    before = _ask_all(mirrors, "usage")
    time.sleep(idle_s)
    idle = _ask_all(mirrors, "usage")
    groups_before = _ask_all(groups, "usage")
    for group in groups:
        group.send({"do": "watch", "changes": changes})
    mirrors[0].send({"do": "save", "changes": changes, "mark": f"{count}"})
    mirrors[0].read_until("saved", DEADLINE_S)
    latencies = [value for group in groups for value in group.read_until("latencies_ms", DEADLINE_S)["latencies_ms"]]
    after, groups_after = _ask_all(mirrors, "usage"), _ask_all(groups, "usage")
    hundredths = quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else latencies * 99
    received = sum(b["received"] - a["received"] for a, b in zip(groups_before, groups_after, strict=True))
    return {
        "peers": count,
        "idle_mirror_percent": max(100 * (b["cpu_s"] - a["cpu_s"]) / idle_s for a, b in zip(before, idle, strict=True)),
        "mirror_mib": max(found["rss_mib"] for found in after),
        "peer_mib": sum(found["rss_mib"] for found in groups_after) / count,
        "mirror_cpu_ms": 1e3 * sum(b["cpu_s"] - a["cpu_s"] for a, b in zip(idle, after, strict=True)) / changes,
        "peer_cpu_ms": 1e3 * sum(
            b["cpu_s"] - a["cpu_s"] for a, b in zip(groups_before, groups_after, strict=True)
        ) / changes / count,
        "p50_ms": hundredths[49], "p99_ms": hundredths[98], "bytes_a_peer": received / changes / count,
    }


def _restart(mirrors: list[PythonChild], groups: list[PythonChild], folder: Path, endpoints: list[str]) -> float:
    """The seconds from the death of the mirror with the most followers until all peers know a record saved after it.

    It comes back at once, on the same port.
    """
    usage = _ask_all(mirrors, "usage")
    number = max(range(len(mirrors)), key=lambda i: usage[i]["followers"])
    began = time.monotonic()
    mirrors[number].kill()
    listen = endpoints[number].removeprefix("http://")
    again = _child("mirror_process")
    with again:
        again.send({"folder": str(folder / f"m{number}"), "peers": endpoints, "listen": listen})
        again.read_until("endpoint", DEADLINE_S)
        for group in groups:
            group.send({"do": "settle", "id": "after"})
        again.send({"do": "save", "changes": 1, "mark": "after", "id": "after"})
        for group in groups:
            group.read_until("settled", DEADLINE_S)
        return time.monotonic() - began


def _ask_all(children: list[PythonChild], what: str) -> list[dict[str, float]]:
    for child in children:
        child.send({"do": what})
    return [child.read_until("cpu_s", DEADLINE_S) for child in children]


def _child(function: str) -> PythonChild:
    return PythonChild(f"from tests.bench import scale\nscale.{function}()")


# In the children


def mirror_process() -> None:
    import mynosql

    job = receive()
    options = {"mode": "mirror", "listen": job["listen"], "peers": job["peers"]}
    with mynosql.opendb("Scale", location=job["folder"], **options) as db:
        emit({"endpoint": db.endpoint})
        while True:
            asked = receive()
            if asked["do"] == "usage":
                emit(_usage([db]))
                continue
            for number in range(asked["changes"]):
                time.sleep(CHANGE_INTERVAL_S)
                id = asked.get("id", f"{asked['mark']}/{number}")
                db.savedoc({"id": id, "saved_ns": time.monotonic_ns(), "text": "x" * 200})
            emit({"saved": True})


def peer_process() -> None:
    import mynosql

    job = receive()
    with contextlib.ExitStack() as stack:
        peers = []
        for number in range(job["first"], job["first"] + job["count"]):
            mirrors = job["mirrors"]
            given = [mirrors[(number + step) % len(mirrors)] for step in range(len(mirrors))]
            location = os.path.join(job["folder"], f"p{number}")
            peers.append(stack.enter_context(mynosql.opendb("Scale", location=location, peers=given)))
        _wait(lambda: all(peer.syncstatus().as_of is not None for peer in peers))
        emit({"connected": True})
        while True:
            asked = receive()
            if asked["do"] == "usage":
                emit(_usage(peers))
            elif asked["do"] == "watch":
                emit({"latencies_ms": _watch(peers, asked["changes"])})
            else:
                _wait(lambda: all(_follows_and_knows(peer, asked["id"]) for peer in peers))  # noqa: B023
                emit({"settled": True})


def _follows_and_knows(peer: Any, id: str) -> bool:
    status = peer.syncstatus()
    return status.mirror is not None and not status.behind and id in peer


def _watch(peers: list[Any], changes: int) -> list[float]:
    """How long each change took until each peer knew of it, by the clock that all processes here share.

    The time of a save is told by its revision's id only to the mirror: the peers look up when it was announced, so the
    saving process puts the time into the record, which one peer of each process reads.
    """
    known_ns: dict[str, list[int]] = {}
    watchers = [
        peer.onchange(lambda change: known_ns.setdefault(change.id, []).append(time.monotonic_ns())) for peer in peers
    ]
    _wait(lambda: sum(len(times) == len(peers) for times in list(known_ns.values())) >= changes)
    for watcher in watchers:
        watcher()
    saved_ns = {id: peers[0].readdoc(id, timeout=30)["saved_ns"] for id in known_ns}
    return [(at - saved_ns[id]) / 1e6 for id, times in known_ns.items() for at in times]


def _usage(databases: list[Any]) -> dict[str, float]:
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    statuses = [db.syncstatus() for db in databases]
    return {
        "cpu_s": time.process_time(), "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
        "received": sum(status.bytes_received for status in statuses),
        "followers": sum(status.connected for status in statuses),
    }


def _wait(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_at, "the mesh did not settle in time"
        time.sleep(0.02)


# The page


def as_markdown(rows: list[Row]) -> Iterator[str]:
    """The table."""
    yield "| peers | latency p50 / p99, ms | bytes a change and peer | mirrors' CPU a change, ms | a peer's, ms | idle mirror, % of a core | largest mirror, MiB | a peer, MiB |"  # noqa: E501
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        yield (
            f"| {row['peers']:.0f} | {row['p50_ms']:.1f} / {row['p99_ms']:.1f} | {row['bytes_a_peer']:.0f} | "
            f"{row['mirror_cpu_ms']:.2f} | {row['peer_cpu_ms']:.3f} | {row['idle_mirror_percent']:.2f} | "
            f"{row['mirror_mib']:.0f} | {row['peer_mib']:.1f} |"
        )
    last = rows[-1]
    yield ""
    yield (
        f"With {last['peers']:.0f} peers the mirror that most of them follow was killed and started again: "
        f"{last['restart_s']:.1f} s until every peer followed a mirror and knew a record saved on it afterwards."
    )


def chart(rows: list[Row]) -> str:
    """Latency over the number of peers."""
    return line_chart("A change, until the peers know of it", "peers (3 mirrors)", "ms", {
        name: [(row["peers"], row[key]) for row in rows] for name, key in (("p50", "p50_ms"), ("p99", "p99_ms"))
    })


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the markers of this file")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        rows = measure(tuple(arguments.counts), Path(folder))
    facts = "; ".join(f"{key}: {value}" for key, value in machine.describe().items())
    text = "\n".join([*as_markdown(rows), "", f"({facts})"])
    print(text)
    if arguments.write:
        report.write_between_markers(arguments.write, text)
        (ROOT / PLOT).parent.mkdir(exist_ok=True)
        (ROOT / PLOT).write_text(chart(rows), encoding="utf-8")
    print(f"median latency {median(row['p50_ms'] for row in rows):.1f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
