"""The options that every socket gets, and those that none may have."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

import mynosql.net
from mynosql.errors import MyNoSQLError
from mynosql.net import sockets
from mynosql.net.options import NetOptions
from mynosql.net.security import Security
from mynosql.net.sockets import Context, Signal, Socket, make_context, milliseconds, read_signal, receive
from tests.faults.proxy import Proxy
from tests.net.recorder import make_secret
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = NetOptions(
    frame_bytes_max=1000, receive_messages_max=11, send_messages_max=22, publish_messages_max=44, linger_s=0.033
)


def make_all(context: Context, security: Security) -> dict[str, Socket]:
    return {
        "dealer": sockets.make_dealer(context, security, OPTIONS),
        "subscriber": sockets.make_subscriber(context, security, OPTIONS, [b"e"]),
        "router": sockets.make_router(context, security, OPTIONS),
        "publisher": sockets.make_publisher(context, security, OPTIONS),
        "local": sockets.make_local(context, zmq.ROUTER, OPTIONS),
    }


@pytest.mark.parametrize("has_secret", [False, True])
def test_every_socket_is_bounded(tmp_path: Path, context: Context, has_secret: bool) -> None:
    made = make_all(context, Security.open(tmp_path, make_secret() if has_secret else None))
    for socket in made.values():
        assert socket.getsockopt(zmq.RCVHWM) == 11
        assert socket.getsockopt(zmq.LINGER) == 33
        assert socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
        assert socket.getsockopt(zmq.TCP_KEEPALIVE_IDLE) == 15
        assert socket.getsockopt(zmq.TCP_KEEPALIVE_INTVL) == 5
        assert socket.getsockopt(zmq.TCP_KEEPALIVE_CNT) == 3
        assert socket.getsockopt(zmq.TCP_MAXRT) == 30_000
    assert {name: socket.getsockopt(zmq.SNDHWM) for name, socket in made.items()} == {
        "dealer": 22, "subscriber": 22, "router": 22, "publisher": 44, "local": 22,
    }
    sizes = {name: socket.getsockopt(zmq.MAXMSGSIZE) for name, socket in made.items()}
    assert sizes == {
        "dealer": 1000, "subscriber": 1000, "router": 1000, "publisher": 2048, "local": OPTIONS.control_bytes_max,
    }
    for name in ("dealer", "subscriber", "router", "publisher"):
        assert made[name].getsockopt(zmq.IPV6) == 1
    for name in ("dealer", "subscriber"):
        assert made[name].getsockopt(zmq.RECONNECT_IVL) == sockets.NEVER_MS


def test_with_a_secret_every_tcp_socket_has_curve_and_the_bound_ones_a_domain(tmp_path: Path, context: Context) -> None:
    made = make_all(context, Security.open(tmp_path, make_secret()))
    del made["local"]
    assert {socket.getsockopt(zmq.MECHANISM) for socket in made.values()} == {zmq.CURVE}
    assert made["router"].getsockopt(zmq.ZAP_DOMAIN) == b"node"
    assert made["publisher"].getsockopt(zmq.ZAP_DOMAIN) == b"publisher"
    for name in ("router", "publisher"):
        assert made[name].getsockopt(zmq.CURVE_SERVER) == 1
        assert made[name].getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1


def test_without_a_zap_handler_nobody_comes_in(tmp_path: Path, context: Context) -> None:
    """A CURVE server without the handler would admit whoever knows its public key: enforced domains fail closed."""
    security = Security.open(tmp_path, make_secret())
    router = sockets.make_router(context, security, OPTIONS)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer = sockets.make_dealer(context, security, OPTIONS)
    monitor = sockets.watch(context, dealer)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(b"x")
    assert monitor.poll(10_000)
    assert sockets.read_signal(monitor) is not Signal.READY
    assert router.poll(0) == 0
    sockets.close_dialling(dealer, monitor, 0)


def test_what_must_never_be_set_stands_nowhere_in_the_package() -> None:
    folder = Path(next(iter(mynosql.net.__path__)))
    for path in folder.glob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"ROUTING_ID", "IDENTITY", "ROUTER_HANDOVER", "CONNECT_ROUTING_ID", "HEARTBEAT_IVL"}, path


def break_while_messages_wait(folder: str) -> None:
    """A node floods another that reads nothing, and the connection is reset; what had arrived is read later."""
    context, security = make_context(), Security.open(folder, None)
    router = sockets.make_router(context, security, NetOptions())
    with Proxy("127.0.0.1", router.bind_to_random_port("tcp://127.0.0.1")) as proxy:
        dealer = sockets.make_dealer(context, security, NetOptions(receive_messages_max=1))
        monitor = sockets.watch(context, dealer)
        dealer.connect(f"tcp://127.0.0.1:{proxy.port}")
        dealer.send(b"hello")
        routing_id = router.recv_multipart()[0]
        for _ in range(1000):
            router.send_multipart([routing_id, bytes(1000)])
        wait_until(lambda: proxy.bytes_from_target > 1_000_000)
        proxy.cut()
        heartbeat_ms = dealer.getsockopt(zmq.HEARTBEAT_IVL)
        assert isinstance(heartbeat_ms, int)
        if heartbeat_ms:
            router.poll(heartbeat_ms + 500)  # nothing comes

        def is_over() -> bool:
            while receive(dealer, 1) is not None:
                pass
            return read_signal(monitor) is Signal.CLOSED

        wait_until(is_over)
        sockets.close_dialling(dealer, monitor, 0)
    context.destroy(0)


def test_a_connection_that_breaks_while_its_messages_wait_does_not_end_the_process(tmp_path: Path) -> None:
    """It did, by an assertion of libzmq, as soon as a ZMTP heartbeat came due: docs/ARCHITECTURE.md."""
    code = f"from tests.net.test_sockets import *; break_while_messages_wait({str(tmp_path)!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_too_few_descriptors_are_refused_before_libzmq_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = os.open

    def open_five(path: str, flags: int) -> int:
        if len(opened) == 5:
            raise OSError(24, "Too many open files")
        opened.append(real(path, flags))
        return opened[-1]

    monkeypatch.setattr(os, "open", open_five)
    with pytest.raises(MyNoSQLError, match="needs 24 file descriptors and got 5"):
        make_context()
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.close(descriptor)


def test_receive_takes_whole_messages_up_to_the_limit(context: Context) -> None:
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    one.bind("inproc://x")
    other.connect("inproc://x")
    assert receive(one, 3) is None
    for frames in ([b"a"], [b"a", b"", b"c"], [b"a", b"b", b"c", b"d"], [b"next"]):
        other.send_multipart(frames)
    assert receive(one, 3) == [b"a"]
    assert receive(one, 3) == [b"a", b"", b"c"]
    assert receive(one, 3) == []
    assert receive(one, 3) == [b"next"]
    assert receive(one, 3) is None


def test_times_never_become_zero_which_would_turn_them_off() -> None:
    assert [milliseconds(seconds) for seconds in (0.0, 0.0001, 0.0014, 1.0)] == [1, 1, 1, 1000]
