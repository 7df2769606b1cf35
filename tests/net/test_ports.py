"""Pairs of ports: which are tried, what is said of the ones that are taken."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from mynosql.address import Address
from mynosql.errors import ListenFailed
from mynosql.net import ports
from mynosql.net.options import PORT_LAST
from mynosql.net.ports import PortTaken, bind_pair, find_free_pair, find_owner
from mynosql.net.sockets import Context, Socket
from tests.waiting import wait_until

LENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def bind(context: Context, port: int | None, host: str = "127.0.0.1") -> tuple[Socket, Socket, int]:
    return bind_pair(lambda: context.socket(zmq.ROUTER), lambda: context.socket(zmq.PUB), host, port)


def test_the_publisher_gets_the_next_port(context: Context) -> None:
    router, publisher, port = bind(context, 0)
    assert router.getsockopt(zmq.LAST_ENDPOINT) == b"tcp://127.0.0.1:%d" % port
    assert publisher.getsockopt(zmq.LAST_ENDPOINT) == b"tcp://127.0.0.1:%d" % (port + 1)


def test_the_first_free_pair_is_taken_in_steps_of_two(context: Context) -> None:
    found = [bind(context, None)[2] for _ in range(3)]
    assert found == sorted(found)
    assert all(port % 2 == 0 and 8800 <= port <= PORT_LAST for port in found)


def test_no_free_pair_at_all_is_an_error(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "PORT_DEFAULT", port)
        monkeypatch.setattr(ports, "PORT_LAST", port)
        with pytest.raises(ListenFailed, match=f"no free pair of ports from {port} to {port + 1}") as got:
            bind(context, None)
        assert not isinstance(got.value, PortTaken)


def test_a_port_without_a_next_one_is_refused(context: Context) -> None:
    with pytest.raises(ListenFailed, match="65535"):
        bind(context, 65535)


def test_any_port_goes_on_until_the_neighbour_is_free_too(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free port says nothing of the next one, which may be anybody's."""
    real = ports._bind
    busy = [True, True]

    def bind_but_neighbours_are_busy(it: Socket, host: str, port: int) -> int:
        if port % 2 and busy:
            busy.pop()
            raise PortTaken(Address(host, port))
        return real(it, host, port)

    monkeypatch.setattr(ports, "_bind", bind_but_neighbours_are_busy)
    _, _, port = bind(context, 0)
    assert not busy
    assert port in ports.ANY_PORTS


@pytest.mark.skipif(not LENT_PORTS.exists(), reason="only Linux says which ports it lends")
def test_any_port_is_one_that_can_be_had_again(context: Context) -> None:
    """Ports that the kernel lends to outgoing connections are somebody else's a moment after they were let go."""
    lent_from = int(LENT_PORTS.read_text().split()[0])
    assert all(bind(context, 0)[2] + 1 < lent_from for _ in range(20))


def test_a_pair_for_later_is_free_and_nobody_gets_it_by_chance(context: Context) -> None:
    port = find_free_pair()
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
        pass
    assert not set(ports.KEPT_PORTS) & set(ports.ANY_PORTS)


def test_the_choice_is_not_the_same_for_applications_that_seed_their_generator(context: Context) -> None:
    found = []
    for _ in range(3):
        random.seed(1)
        before = random.getstate()
        found.append(bind(context, 0)[2])
        assert random.getstate() == before
    assert len(set(found)) > 1


def test_a_failed_pair_leaves_nothing_bound(context: Context) -> None:
    port = find_free_pair() + 1
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(PortTaken) as got:
            bind(context, port - 1)
        assert got.value.where.port == port

    def is_free() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port - 1)) != 0

    wait_until(is_free)  # libzmq closes in the background


def test_the_owner_of_a_port_is_named_without_its_secrets() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--secret=hush"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid, text = find_owner(int(owner.stdout.readline()))
        owner.communicate(b"\n")
    assert pid == owner.pid
    assert text == f"process {pid} ({sys.executable} -c)"


def test_ipv6_listeners_are_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    any_host = "0" * 32
    (tmp_path / "net" / "tcp6").write_text(
        "  sl  local_address remote_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode\n"
        f"   0: {any_host}:2261 {any_host}:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4711 1\n"
    )
    (tmp_path / "12" / "fd").mkdir(parents=True)
    (tmp_path / "12" / "fd" / "3").symlink_to("socket:[4711]")
    (tmp_path / "12" / "cmdline").write_bytes(b"python3\0serve.py\0--secret\0hush\0")
    monkeypatch.setattr(ports, "_PROC", tmp_path)
    assert find_owner(0x2261) == (12, "process 12 (python3 serve.py)")
    assert find_owner(0x2262) == (0, "another process")


def test_an_owner_that_cannot_be_found_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_owner(1) == (0, "another process")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(ports, "_PROC", tmp_path)
        assert find_owner(server.getsockname()[1]) == (0, "another process")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text("head\nrubbish line\n")
    assert find_owner(8800) == (0, "another process")
