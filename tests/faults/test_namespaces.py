"""The lab: machines that hear each other, rules that do what they say, and nothing left behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import namespaces
from tests.faults.namespaces import (
    PREFIX,
    Host,
    Lab,
    both_ways,
    find_skip_reason,
    from_hosts,
    share_of_all,
    sweep,
)
from tests.waiting import wait_until

PORT = 5000
ECHO = """
import socket, threading
listener = socket.create_server((sys.argv[1], 5000))
emit("up")
def serve(client):
    while data := client.recv(1 << 16):
        client.sendall(data)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
_questions = itertools.count()
SOON_S = 0.3
"""How long a test waits for what must not come."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    reason = find_skip_reason()
    if reason is not None:
        pytest.skip(reason)
    with Lab(2) as made:
        yield made


@pytest.fixture
def echoing(lab: Lab) -> Iterator[tuple[Host, Host]]:
    """A machine that answers each byte with itself, and another."""
    server, client = lab.hosts
    with server.start_python("import sys\n" + ECHO, server.address) as child:
        assert child.read() == "up"
        yield server, client


def connect(client: Host, server: Host) -> socket.socket:
    with client.entered():
        return socket.create_connection((server.address, PORT), 10.0)


def is_heard(connection: socket.socket, within_s: float = 10.0) -> bool:
    """The answer came in that time; what answers an earlier question is no answer."""
    question = bytes([next(_questions) % 256])
    ends_at = time.monotonic() + within_s
    try:
        connection.settimeout(within_s)
        connection.sendall(question)
        while not (answer := connection.recv(1 << 16)).endswith(question):
            if not answer:
                return False
            connection.settimeout(max(ends_at - time.monotonic(), 0.001))
    except OSError:
        return False
    return True


def devices() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


def test_machines_hear_each_other_and_nothing_of_it_is_seen_outside(echoing: tuple[Host, Host]) -> None:
    server, client = echoing
    before = devices()
    with connect(client, server) as connection:
        assert is_heard(connection)
        assert {(flow.their_address, flow.their_port) for flow in client.flows()} == {(server.address, PORT)}
        assert {(flow.their_address, flow.our_port) for flow in server.flows()} == {(client.address, PORT)}
    assert devices() == before
    assert not any(name.startswith(("port", "br0")) for name in before)


def namespace_of_a_new_thread() -> str:
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(os.readlink("/proc/thread-self/ns/net")))
    thread.start()
    thread.join()
    return seen[0]


def test_only_the_calling_thread_enters_a_machine_and_only_for_a_while(lab: Lab) -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(namespace_of_a_new_thread).result() == home
        with lab.hosts[0].entered():
            away = os.readlink("/proc/thread-self/ns/net")
            assert away != home
            assert namespace_of_a_new_thread() == away
            assert pool.submit(namespace_of_a_new_thread).result() == home
    with pytest.raises(ZeroDivisionError), lab.hosts[0].entered():
        raise ZeroDivisionError
    assert os.readlink("/proc/thread-self/ns/net") == home


def test_what_is_dropped_does_not_arrive_and_passes_again_afterwards(echoing: tuple[Host, Host]) -> None:
    server, client = echoing
    with connect(client, server) as connection:
        for deaf, other in ((server, client), (client, server)):
            deaf.drop(from_hosts(other))
            assert not is_heard(connection, within_s=SOON_S)
            deaf.drop()
            assert is_heard(connection)


def test_a_pulled_cable_is_noticed_by_its_own_machine(echoing: tuple[Host, Host]) -> None:
    server, client = echoing
    with connect(client, server) as connection:
        client.set_link(False)
        with pytest.raises(OSError, match="unreachable"):
            connect(client, server)
        client.set_link(True)
        assert is_heard(connection)


def test_a_half_open_connection_stays_silent_while_new_ones_work(echoing: tuple[Host, Host]) -> None:
    server, client = echoing
    with connect(client, server) as old:
        (flow,) = client.flows()
        client.drop(*both_ways(flow))
        assert not is_heard(old, within_s=SOON_S)
        with connect(client, server) as new:
            assert is_heard(new)
        assert flow in client.flows()


def test_a_share_of_all_packets_is_lost(echoing: tuple[Host, Host]) -> None:
    server, client = echoing
    with server.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((server.address, PORT))
    with client.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    count = 0
    with receiver, sender:
        receiver.setblocking(False)
        server.drop(share_of_all(30))
        for _ in range(20):
            for _ in range(50):
                sender.sendto(b"x", (server.address, PORT))
            with contextlib.suppress(BlockingIOError):
                while receiver.recv(16):
                    count += 1
        server.drop()
        sender.sendto(b"end", (server.address, PORT))
        receiver.settimeout(10.0)
        while receiver.recv(16) != b"end":
            count += 1
    assert 600 < count < 800, "7 standard deviations around 700"


def test_a_limited_rate_is_that_slow(echoing: tuple[Host, Host]) -> None:
    server, client = echoing
    with connect(client, server) as connection:
        client.limit_rate(1000)
        started_at = time.monotonic()
        data = bytes(60_000)
        connection.sendall(data)
        received = 0
        while received < len(data):
            received += len(connection.recv(1 << 16))
        assert time.monotonic() - started_at > 0.3, "60 kB less the burst of 16 kB, at 125 kB/s"
        client.limit_rate(None)
        assert is_heard(connection)


def test_the_bytes_of_both_directions_are_counted(echoing: tuple[Host, Host]) -> None:
    server, client = echoing
    with connect(client, server) as connection:
        before = [host.bytes_carried() for host in echoing]
        connection.sendall(bytes(100_000))
        received = 0
        while received < 100_000:
            received += len(connection.recv(1 << 16))
        for host, earlier in zip(echoing, before, strict=True):
            assert 200_000 < host.bytes_carried() - earlier < 260_000


def made_by(process: int) -> list[str]:
    return [name for name in namespaces._namespaces() if name.startswith(f"{PREFIX}-{process}-")]


def test_nothing_is_left_behind(lab: Lab) -> None:
    assert len(made_by(os.getpid())) == 3, "two machines and a bridge"
    lab.close()
    lab.close()
    assert made_by(os.getpid()) == []


def test_what_a_killed_process_left_behind_goes_when_the_next_one_starts(lab: Lab) -> None:
    left = (
        "from tests.faults.test_namespaces import *; Lab(1); "
        "print(len(made_by(os.getpid())), flush=True); os.kill(os.getpid(), 9)"
    )
    # Its own count: as soon as it is gone, the tests of another process may sweep.
    killed = subprocess.Popen([sys.executable, "-c", left], stdout=subprocess.PIPE)
    assert killed.communicate(timeout=30)[0] == b"2\n"
    sweep()
    assert made_by(killed.pid) == []
    assert len(made_by(os.getpid())) == 3, "those of a process that lives stay"


def test_who_sweeps_may_find_that_another_was_quicker(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = namespaces._namespaces()
    lab.close()
    answers = iter([listed])
    real = namespaces._namespaces
    monkeypatch.setattr(namespaces, "_namespaces", lambda: next(answers, None) or real())
    namespaces._remove(name for name in listed if name.startswith(f"{PREFIX}-{os.getpid()}-"))
    assert next(answers, None) is None, "it had looked before"


def test_a_lab_that_could_not_be_built_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "DEVICE", "a name that no device may have")
    before = made_by(os.getpid())
    with pytest.raises(subprocess.CalledProcessError) as caught:
        Lab(2)
    assert "ip -n" in str(caught.value.stderr)
    assert made_by(os.getpid()) == before


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("platform", "darwin", "are Linux's, and this is darwin"),
        ("geteuid", lambda: 1000, "may only be made by root: run this test as root"),
        ("which", lambda program: None if program == "nft" else program, "need nft: run tests/faults/install_network"),
    ],
)
def test_who_has_not_the_means_gets_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, reason: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setattr({"platform": sys, "geteuid": os, "which": shutil}[name], name, value)
    assert reason in (find_skip_reason() or "")


def test_a_machine_that_refuses_gives_its_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(count: int) -> Lab:
        raise subprocess.CalledProcessError(1, "ip", stderr="ip: Operation not permitted\n")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setattr(namespaces, "Lab", refuse)
    assert find_skip_reason() == "network namespaces are refused by this machine: ip: Operation not permitted"


def test_a_connection_is_lost_with_its_machine(echoing: tuple[Host, Host], lab: Lab) -> None:
    server, client = echoing
    with connect(client, server) as connection:
        lab.close()
        wait_until(lambda: not is_heard(connection, within_s=SOON_S), what="the bridge is gone")
