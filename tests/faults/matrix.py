"""The faults of the matrix, and what happens in one cell of it: a fault, healing, and the proof that all is well.

A cell is a fault x {1, 3} mirrors x {idle, writing}. Cells of one mesh follow each other on the same living nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle

from mynosql.clock import FOLLOW_MS_MAX, ms_from_hlc
from tests.faults.meshes import BUSY, Mesh, MeshNode
from tests.faults.namespaces import Host, Rule, both_ways, from_hosts, share_of_all
from tests.waiting import wait_until

BASE_COUNT = 600
BASE_BODY_BYTES = 800
SHARED_COUNT = 4
FAULT_S = 5.0
FLAP_S = 0.4
BASE_LIMIT_S = 5.0
LIMIT_S_PER_RECORD = 5.0 / 1000
SILENCE_S = 12.0
"""docs/PROTOCOL.md, "Times": how long an idle link may be dead before it is noticed.

After heavy loss as well: TCP waits twice as long each time the same packet is lost, up to many seconds, and nobody
above it sees that the link carries again. A link that is silent meanwhile is dialled anew.
"""
SETTLE_S = 60.0
YEAR_S = 365 * 86_400
BACKED_UP_LATER = 50
LATENCY_S = 0.3
CHANGE_BYTES = 3_500
"""A record of a writer with its frames and headers, once over one link."""
IDLE_SHARE = 0.3
"""Of the bytes of a first sync: connections made anew, and what is said while nothing changes."""


def do_nothing(mesh: Mesh) -> None:
    return


def heal_network(mesh: Mesh) -> None:
    mesh.lab.heal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong for a while."""

    name: str
    how: str
    """How it is made, for docs/FAULTS.md."""
    begin: Callable[[Mesh], None]
    end: Callable[[Mesh], None] = heal_network
    prepare: Callable[[Mesh, Cell], None] = lambda mesh, cell: None
    """Before anybody writes."""
    flap: Callable[[Mesh], None] | None = None
    """Called instead of begin and end in turn while it lasts: the other state of the link."""
    is_before_load: bool = False
    """It begins before the writers do: it stops their processes."""
    has_proxies: bool = False
    is_index_new: bool = False
    """A node comes back with another index id: entries are told again, bodies are not."""
    base_limit_s: float = BASE_LIMIT_S


@dataclass(slots=True)
class Cell:
    """One cell and, once it ran, what it showed."""

    fault: Fault
    mirror_count: int
    is_writing: bool
    seconds: float = 0.0
    """From healing until all nodes were equal."""
    changed: int = 0
    """Saves between the last time all were equal and this one."""
    bytes_carried: int = 0
    """By the network devices of all machines, from healing until all nodes were equal."""
    first_sync_bytes: int = 0
    """The same for the first sync of this mesh, of BASE_COUNT records."""
    base_rows: int = 0
    """Rows of records that nobody had touched and that were sent again after healing."""
    base_bodies: int = 0
    slowest_save_s: float = 0.0
    backed_up: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.fault.name}-{self.mirror_count}-{self.load}"

    @property
    def load(self) -> str:
        return "writing" if self.is_writing else "idle"

    @property
    def prefix(self) -> str:
        return self.name.replace(" ", "_")

    @property
    def limit_bytes(self) -> float:
        """Both ends of a link count what it carries, and most changes are lacking at one of three mirrors."""
        copies = 2 if self.mirror_count == 1 else 3
        return IDLE_SHARE * self.first_sync_bytes + CHANGE_BYTES * copies * self.changed

    @property
    def limit_s(self) -> float:
        return BUSY * (self.fault.base_limit_s + LIMIT_S_PER_RECORD * self.changed)


# The faults


def alone(mesh: Mesh) -> list[MeshNode]:
    """Who is cut off: the peer that writes, with a mirror where there are others."""
    return mesh.peers[:1] if len(mesh.mirrors) == 1 else [mesh.mirrors[0], mesh.peers[0]]


def hosts(nodes: list[MeshNode]) -> list[Host]:
    return [node.host for node in nodes]


def others(mesh: Mesh) -> list[MeshNode]:
    cut_off = alone(mesh)
    return [node for node in mesh.nodes if node not in cut_off]


def part(mesh: Mesh) -> None:
    for node in alone(mesh):
        node.host.drop(from_hosts(*hosts(others(mesh))))
    part_one_way(mesh)


def part_one_way(mesh: Mesh) -> None:
    for node in others(mesh):
        node.host.drop(from_hosts(*hosts(alone(mesh))))


def lose(percent: int) -> Callable[[Mesh], None]:
    def begin(mesh: Mesh) -> None:
        for node in mesh.nodes:
            node.host.drop(share_of_all(percent))

    return begin


def slow_down(mesh: Mesh) -> None:
    for node in mesh.nodes:
        node.host.limit_rate(1000)


def delay(mesh: Mesh) -> None:
    for proxy in mesh.proxies:
        proxy.delay(LATENCY_S, jitter_s=LATENCY_S / 3)


def delay_no_more(mesh: Mesh) -> None:
    for proxy in mesh.proxies:
        proxy.delay(0.0)


class HalfOpen:
    """The connections of those who are alone carry nothing ever after; new ones work again when it ends."""

    def __init__(self) -> None:
        self._rules: dict[Mesh, dict[MeshNode, list[Rule]]] = {}

    def begin(self, mesh: Mesh) -> None:
        addresses = {host.address for host in hosts(others(mesh))}
        self._rules[mesh] = {
            node: [rule for flow in node.host.flows() if flow.their_address in addresses for rule in both_ways(flow)]
            for node in alone(mesh)
        }
        part(mesh)

    def end(self, mesh: Mesh) -> None:
        mesh.lab.heal()
        for node, rules in self._rules.pop(mesh).items():
            node.host.drop(*rules)


def kill_mirror(mesh: Mesh) -> None:
    mesh.mirrors[0].kill()


def start_mirror(mesh: Mesh) -> None:
    mesh.mirrors[0].start()


def back_up(mesh: Mesh, cell: Cell) -> None:
    """A copy of the mirror's folder, and records that it confirms afterwards."""
    mirror = mesh.mirrors[0]
    mirror.kill()
    mirror.back_up(mesh.folder / "backup")
    mirror.start()
    cell.backed_up = [f"{cell.prefix}/later/{number:03d}" for number in range(BACKED_UP_LATER)]


def restore(mesh: Mesh) -> None:
    mesh.mirrors[0].restore(mesh.folder / "backup")
    mesh.mirrors[0].start()


def wrong_clock(shift_s: float | None) -> Callable[[Mesh], None]:
    def begin(mesh: Mesh) -> None:
        for node in (mesh.mirrors[0], mesh.peers[0]):
            node.kill()
            node.clock_shift_s = shift_s
            node.start()
            node.clock_shift_s = 0

    return begin


def right_clock(mesh: Mesh) -> None:
    for node in (mesh.mirrors[0], mesh.peers[0]):
        node.ask("clock", shift_s=0)


_half_open = HalfOpen()

FAULTS = (
    Fault(
        name="partition", begin=part,
        how="nft drops all packets between two sides: the writing peer alone, with one of three mirrors if there are",
    ),
    Fault(
        name="one-way partition", begin=part_one_way,
        how="the same two sides; the smaller one hears all and is not heard",
    ),
    Fault(name="loss 1 %", begin=lose(1), how="every machine drops 1 % of the packets that arrive, at random"),
    Fault(name="loss 10 %", begin=lose(10), how="the same with 10 %"),
    Fault(name="loss 30 %", begin=lose(30), how="the same with 30 %", base_limit_s=SILENCE_S),
    Fault(name="1 Mbit_s", begin=slow_down, how="tbf: what leaves each machine leaves at 1 Mbit/s, queue 0.4 s"),
    Fault(
        name="300 ms", begin=delay, end=delay_no_more, has_proxies=True,
        how="a TCP proxy before each mirror: every byte 300 to 400 ms late each way, connections overtake each other",
    ),
    Fault(
        name="flapping", begin=part, flap=heal_network, how=f"the partition comes and goes every {FLAP_S} s",
    ),
    Fault(
        name="half-open", begin=_half_open.begin, end=_half_open.end, base_limit_s=SILENCE_S,
        how="a partition, after which the old connections of the smaller side stay silent for ever and new ones work",
    ),
    Fault(name="mirror killed", begin=kill_mirror, end=start_mirror, how="SIGKILL; started again on the same folder"),
    Fault(
        name="mirror restored", prepare=back_up, begin=kill_mirror, end=restore, is_index_new=True,
        how=f"killed, its files set back in place to a copy from before {BACKED_UP_LATER} confirmed records, started",
    ),
    Fault(
        name="clock a year ahead", begin=wrong_clock(YEAR_S), end=right_clock, is_before_load=True,
        how="a mirror and a peer are started with a clock 365 days ahead; it is set right while they run",
    ),
    Fault(
        name="clock in 1970", begin=wrong_clock(None), end=right_clock, is_before_load=True,
        how="the same with a clock that starts on 1 January 1970",
    ),
)


# One cell


class Story:
    """What has to be there: the records of one mesh, over all cells that it went through."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.revs: dict[str, str] = {}
        """The only leaf of each record that one node alone wrote."""
        self.texts: dict[str, str] = {}
        self.marks: dict[str, set[str]] = {}
        """What the leaves of each shared record say together."""
        self.first_sync_bytes = 0

    @property
    def count(self) -> int:
        return len(self.revs) + len(self.marks)

    def load(self) -> None:
        """The base is written at a peer and goes everywhere."""
        mesh = self.mesh
        before = sum(mesh.bytes_carried().values())
        self.revs |= mesh.peers[0].ask("load", count=BASE_COUNT, body_bytes=BASE_BODY_BYTES)["revs"]
        mesh.wait_equal(self.count, SETTLE_S)
        self.first_sync_bytes = sum(mesh.bytes_carried().values()) - before
        mesh.meet_all()

    def play(self, cell: Cell) -> None:
        """The cell from beginning to end. Raises AssertionError for anything that is not as it should be."""
        mesh, fault = self.mesh, cell.fault
        writers = [mesh.peers[0], mesh.peers[1], *mesh.mirrors[2:]] if cell.is_writing else []
        fault.prepare(mesh, cell)
        shared = self._save(mesh.peers[0], [f"{cell.prefix}/shared/{number}" for number in range(SHARED_COUNT)])
        self._save(mesh.peers[0], cell.backed_up)
        self._wait_confirmed(mesh.peers[0])
        if fault.is_before_load:
            fault.begin(mesh)
        for node in writers:
            node.ask("write", cell=cell.prefix, shared=shared)
        if not fault.is_before_load:
            _wait_saves(writers, 5)
            fault.begin(mesh)
        self._last(cell)
        for node in mesh.running:
            node.ask("reset_traffic")
        before = sum(mesh.bytes_carried().values())
        fault.end(mesh)
        healed_at = time.monotonic()
        for node in writers:
            self._take(cell, node.ask("rest"))
        for node in mesh.nodes:
            self._save(node, [f"{cell.prefix}/after/{node.name}"])
        cell.changed += len(mesh.nodes) + len(cell.backed_up)
        mesh.wait_equal(self.count, SETTLE_S)
        cell.seconds = time.monotonic() - healed_at
        cell.bytes_carried = sum(mesh.bytes_carried().values()) - before
        cell.first_sync_bytes = self.first_sync_bytes
        self._judge(cell)
        mesh.lab.heal()
        mesh.wait_connected()

    def _save(self, node: MeshNode, ids: list[str]) -> dict[str, str]:
        revs: dict[str, str] = node.ask("save", ids=ids)["revs"] if ids else {}
        for id in ids:
            if "/shared/" in id:
                self.marks[id] = set()
            else:
                self.revs[id] = revs[id]
        return revs

    def _wait_confirmed(self, node: MeshNode) -> None:
        self.mesh.wait_equal(self.count, SETTLE_S)
        assert node.ask("waitsync", timeout=SETTLE_S)["is_synced"]

    def _last(self, cell: Cell) -> None:
        """The fault lasts."""
        ends_at = time.monotonic() + FAULT_S
        if cell.fault.flap is None:
            wait_until(lambda: time.monotonic() >= ends_at, 2 * FAULT_S)
            return
        for change in cycle((cell.fault.flap, cell.fault.begin)):
            changes_at = time.monotonic() + FLAP_S
            wait_until(lambda due=changes_at: time.monotonic() >= due, FAULT_S)  # type: ignore[misc]
            change(self.mesh)
            if time.monotonic() >= ends_at:
                return

    def _take(self, cell: Cell, said: dict[str, object]) -> None:
        """What a writer did."""
        assert said["error"] is None, f"a save failed: {said['error']}"
        revs, texts, marks = said["revs"], said["texts"], said["marks"]
        assert isinstance(revs, dict)
        assert isinstance(texts, dict)
        assert isinstance(marks, list)
        self.revs |= revs
        self.texts |= texts
        for id, mark in marks:
            self.marks[id].add(mark)
        cell.changed += int(str(said["saves"]))
        cell.slowest_save_s = max(cell.slowest_save_s, float(str(said["slowest_s"])))

    def _judge(self, cell: Cell) -> None:
        mesh = self.mesh
        heard = [node.ask("traffic") for node in mesh.nodes]
        cell.base_rows = sum(traffic["base_rows"] for traffic in heard)
        cell.base_bodies = sum(traffic["base_bodies"] for traffic in heard)
        listing = mesh.mirrors[0].ask("listing")["leaves"]
        lost = {id: (rev, listing.get(id)) for id, rev in self.revs.items() if listing.get(id) != [rev]}
        assert not lost, f"{len(lost)} records are not what was saved (saved, found): {dict(list(lost.items())[:5])}"
        for reader in (mesh.mirrors[0], mesh.peers[1]):
            answer = reader.ask("read", prefix=cell.prefix)
            assert not answer["not_held"], f"{reader} cannot read all leaves: {answer['not_held']}; {mesh.looks()}"
            read = answer["texts"]
            wrong = [id for id, text in self.texts.items() if id.startswith(cell.prefix) and read.get(id) != text]
            assert not wrong, f"{reader} reads another text in {wrong[:5]}"
            for id, marks in self.marks.items():
                missing = marks - set(read.get(id, marks))
                assert not missing, f"{reader}: edits of {id} are in no leaf of it: {sorted(missing)[:5]}"
        version = ms_from_hlc(int(listing[f"{cell.prefix}/after/p2"][0].partition("-")[2][:16], 16))
        assert version <= time.time() * 1000 + FOLLOW_MS_MAX, "the clock of a node that was right is far ahead"
        for node in mesh.nodes:
            problems = node.ask("check")["problems"]
            assert not problems, f"checkdb of {node}: {problems}"
        assert cell.base_bodies == 0, f"{cell.base_bodies} bodies that all had were sent again"
        assert cell.fault.is_index_new or cell.base_rows == 0, f"{cell.base_rows} rows that all had were sent again"
        assert cell.bytes_carried <= cell.limit_bytes, (
            f"{cell.bytes_carried} bytes after healing for {cell.changed} records, allowed {cell.limit_bytes:.0f}; "
            f"the first sync took {cell.first_sync_bytes}"
        )
        assert cell.seconds <= cell.limit_s, (
            f"{cell.seconds:.1f} s to converge after healing, allowed {cell.limit_s:.1f} for {cell.changed} records"
        )


def _wait_saves(writers: list[MeshNode], count: int) -> None:
    wait_until(
        lambda: all(node.ask("progress")["saves"] >= count for node in writers), SETTLE_S, "the writers are at work"
    )


def table_of(cells: list[Cell]) -> list[str]:
    """What the cells showed, as lines of a table in Markdown."""
    lines = [
        "| fault | mirrors | load | saves | s to converge | allowed | kB after healing | kB of the first sync |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {cell.fault.name} | {cell.mirror_count} | {cell.load} | {cell.changed} | {cell.seconds:.2f} "
        f"| {cell.limit_s:.1f} | {cell.bytes_carried / 1000:.0f} | {cell.first_sync_bytes / 1000:.0f} |"
        for cell in cells
    ]
