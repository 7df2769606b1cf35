"""Machines of their own in one kernel: network namespaces on a bridge, with rules that drop, slow down and count.

    with Lab(3) as lab:
        mirror, peer, _ = lab.hosts
        with mirror.start_python("emit(1); wait_for_kill()") as child:
            ...
        peer.drop(from_hosts(mirror))
        peer.drop()                             # passes again

Needs root on Linux with `ip`, `tc` and `nft` (tests/faults/install_network.sh). Namespaces are named after the process
that made them: they go with the `with` block, and what a killed test process left behind goes when the next one starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.processes import PythonChild
from tests.waiting import wait_until

PREFIX = "mynosql-test"
PROGRAMS = ("ip", "tc", "nft")
HOSTS_MAX = 200
COMMAND_DEADLINE_S = 30.0
SUBNET = "10.77.0"
DEVICE = "eth0"
BURST_BYTES = 16_000
QUEUE_MS = 400

_CLONE_NEWNET = 0x40000000
_ESTABLISHED = "01"
_TABLE = """
table inet faults
delete table inet faults
table inet faults {{
  chain arriving {{ type filter hook input priority 0;
{arriving}  }}
  chain leaving {{ type filter hook output priority 0;
{leaving}  }}
}}
"""
_lab_numbers = itertools.count(1)


class Flow(NamedTuple):
    """One TCP connection as one of its ends sees it."""

    our_port: int
    their_address: str
    their_port: int


class Rule(NamedTuple):
    """Which packets are dropped, in the words of nft."""

    match: str
    is_leaving: bool = False
    """Looked at as they leave, else as they arrive."""


class Host:
    """One machine of a lab."""

    def __init__(self, namespace: str, address: str) -> None:
        self.namespace = namespace
        self.address = address

    def __repr__(self) -> str:
        return f"Host({self.namespace}, {self.address})"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets, threads and processes that the calling thread makes meanwhile are this machine's."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(f"/run/netns/{self.namespace}")
            try:
                yield
            finally:
                _set_namespace(home)
        finally:
            os.close(home)

    def start_python(self, script: str | Path, *arguments: str) -> PythonChild:
        """A child of ours on this machine."""
        with self.entered():
            return PythonChild(script, *arguments)

    # Faults

    def drop(self, *rules: Rule) -> None:
        """Packets that one of these rules names are lost from now on, all others pass; no rule: all pass."""
        arriving, leaving = (
            "".join(f"    {rule.match} drop\n" for rule in rules if rule.is_leaving is is_leaving)
            for is_leaving in (False, True)
        )
        _run(["nft", "-f", "-"], host=self, given=_TABLE.format(arriving=arriving, leaving=leaving))

    def limit_rate(self, kbit_s: int | None) -> None:
        """What leaves this machine leaves at this rate at most, in a queue of 0.4 s; None: as fast as it can."""
        place = ["dev", DEVICE, "root"]
        if kbit_s is None:
            _run(["tc", "-n", self.namespace, "qdisc", "replace", *place, "pfifo_fast"])
        else:
            rate = ["rate", f"{kbit_s}kbit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms"]
            _run(["tc", "-n", self.namespace, "qdisc", "replace", *place, "tbf", *rate])

    def set_link(self, is_up: bool) -> None:
        """The cable is plugged in, or pulled where this machine notices it: its network is unreachable at once."""
        _batch([f"link set {DEVICE} {'up' if is_up else 'down'}"], self.namespace)

    # Looking

    def bytes_carried(self) -> int:
        """Bytes that passed this machine's network device since it was made, both ways, with all headers."""
        with self.entered(), open("/proc/thread-self/net/dev", encoding="ascii") as devices:
            for line in devices:
                name, _, counters = line.partition(":")
                if name.strip() == DEVICE:
                    found = counters.split()
                    return int(found[0]) + int(found[8])
        raise AssertionError(f"{self} has no {DEVICE}")

    def flows(self) -> set[Flow]:
        """The TCP connections that are established here, but for those within this machine."""
        found = set()
        with self.entered():
            for table in ("tcp", "tcp6"):
                with open(f"/proc/thread-self/net/{table}", encoding="ascii") as lines:
                    for line in itertools.islice(lines, 1, None):
                        _, ours, theirs, state, *_ = line.split()
                        if state == _ESTABLISHED and ours.split(":")[0] != theirs.split(":")[0]:
                            found.add(Flow(_port_of(ours), _address_of(theirs), _port_of(theirs)))
        return found


def _port_of(end: str) -> int:
    return int(end.partition(":")[2], 16)


def _address_of(end: str) -> str:
    """Of an end in /proc/net/tcp, or in tcp6 where an IPv4 address is the last word: bytes in the machine's order."""
    word = int(end.partition(":")[0][-8:], 16).to_bytes(4, sys.byteorder)
    return ".".join(map(str, word))


# What drop() takes


def from_hosts(*hosts: Host) -> Rule:
    """Everything that comes from these machines."""
    return Rule(f"ip saddr {{ {', '.join(host.address for host in hosts)} }}")


def share_of_all(percent: int) -> Rule:
    """That share of all packets that arrive, at random."""
    return Rule(f"numgen random mod 100 < {percent}")


def both_ways(flow: Flow) -> tuple[Rule, Rule]:
    """All packets of one connection: it stays established on both sides and never carries anything again."""
    ours, theirs = flow.our_port, flow.their_port
    return (
        Rule(f"ip saddr {flow.their_address} tcp sport {theirs} tcp dport {ours}"),
        Rule(f"ip daddr {flow.their_address} tcp sport {ours} tcp dport {theirs}", is_leaving=True),
    )


class Lab:
    """Some machines on one bridge, which is in a namespace as well: nothing of it touches the machine's own network."""

    def __init__(self, count: int) -> None:
        assert 0 < count <= HOSTS_MAX
        sweep()
        name = f"{PREFIX}-{os.getpid()}-{next(_lab_numbers)}"
        self._bridge = f"{name}-bridge"
        self.hosts = [Host(f"{name}-{number}", f"{SUBNET}.{number}") for number in range(1, count + 1)]
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        namespaces = [self._bridge, *(host.namespace for host in self.hosts)]
        _batch([f"netns add {namespace}" for namespace in namespaces])
        inside = ["link add br0 type bridge", "link set br0 up"]
        for number, host in enumerate(self.hosts, 1):
            inside.append(f"link add port{number} type veth peer name {DEVICE} netns {host.namespace}")
            inside.append(f"link set port{number} master br0 gso_max_segs 1 up")
        _batch(inside, self._bridge)
        for host in self.hosts:
            # One segment a packet: a loss of 10 % is then one of packets as they are on a wire.
            _batch([
                "link set lo up", f"addr add {host.address}/24 dev {DEVICE}", f"link set {DEVICE} gso_max_segs 1 up",
            ], host.namespace)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def heal(self) -> None:
        """Nothing is dropped or slowed down any more."""
        for host in self.hosts:
            host.drop()
            host.limit_rate(None)

    def close(self) -> None:
        """No namespace has a name any more; repeatable. What still runs in one loses its network soon."""
        _remove([self._bridge, *(host.namespace for host in self.hosts)])


def sweep() -> None:
    """The namespaces that test processes left behind which have ended since."""
    gone = []
    for name in _namespaces():
        match = re.fullmatch(rf"{PREFIX}-(\d+)-.*", name)
        if match and not Path(f"/proc/{match.group(1)}").exists():
            gone.append(name)
    _remove(gone)


def find_skip_reason() -> str | None:
    """Why no namespaces can be made here; None where they can."""
    what = "network namespaces"
    if not sys.platform.startswith("linux"):
        return f"{what} are Linux's, and this is {sys.platform}"
    if os.geteuid() != 0:
        return f"{what} may only be made by root: run this test as root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{what} need {', '.join(missing)}: run tests/faults/install_network.sh"
    try:
        with Lab(1) as lab:
            lab.hosts[0].drop(share_of_all(1))
            lab.hosts[0].limit_rate(1000)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"{what} are refused by this machine: {str(said).strip()}"
    return None


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _run(["ip", "netns", "list"]).splitlines() if line]


def _remove(names: Iterable[str]) -> None:
    """None of them is there any more, whoever removed it: two test processes may sweep at a time."""
    there = set(names).intersection(_namespaces())
    if not there:
        return
    try:
        _run(["ip", "-force", "-batch", "-"], given="".join(f"netns delete {name}\n" for name in sorted(there)))
    except subprocess.CalledProcessError as error:
        wait_until(lambda: there.isdisjoint(_namespaces()), what=str(error.stderr))


def _batch(commands: list[str], namespace: str | None = None) -> None:
    where = [] if namespace is None else ["-n", namespace]
    if commands:
        _run(["ip", *where, "-batch", "-"], given="\n".join(commands) + "\n")


def _run(command: list[str], *, host: Host | None = None, given: str | None = None) -> str:
    with contextlib.nullcontext() if host is None else host.entered():
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE_S
        )
    if done.returncode:
        raise subprocess.CalledProcessError(
            done.returncode, command, done.stdout, f"{' '.join(command)}: {done.stderr.strip()}"
        )
    return done.stdout


def _enter(path: str) -> None:
    namespace = os.open(path, os.O_RDONLY)
    try:
        _set_namespace(namespace)
    finally:
        os.close(namespace)


def _set_namespace(descriptor: int) -> None:
    """Of the calling thread alone. os.setns is there from Python 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
