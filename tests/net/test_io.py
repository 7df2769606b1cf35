"""The I/O thread with real sockets on loopback: messages, links, listening, waking, stopping, dying."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mynosql.address import Address
from mynosql.errors import AddressInvalid, ForkError, ListenFailed, MyNoSQLError, NotOpen
from mynosql.net.io import IoThread
from mynosql.net.local import request
from mynosql.net.security import Security
from tests.net.recorder import QUICK, Node, Recorder, linked, open_descriptors, wait_equal, wait_published
from tests.waiting import wait_until


def hang_until(release: threading.Event) -> None:
    """A handler that does not come back."""
    release.wait(20)


# Messages


def test_two_nodes_exchange_messages_both_ways(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b) as (dialled, served):
        b.send(dialled, b"head", b"", b"body")
        wait_equal(lambda: a.seen.frames, [(served, [b"head", b"", b"body"], "")])
        a.send(served, b"answer")
        wait_equal(lambda: b.seen.frames, [(dialled, [b"answer"], "")])
        assert b.io.counters.bytes_sent == 8
        assert a.io.counters.bytes_received == 8


def test_messages_on_one_link_keep_their_order(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b) as (dialled, _):
        sent = [[str(number).encode() * (1 + number % 7 * 500)] for number in range(1000)]

        def send_all() -> None:
            for frames in sent:
                b.io.send(dialled, frames)

        b.io.call(send_all)
        wait_until(lambda: len(a.seen.frames) == 1000)
        assert [frames for _, frames, _ in a.seen.frames] == sent


def test_publications_reach_subscribers_of_their_topic_only(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        there = a.listen()
        b.subscribe(there, b"h", b"e")
        assert wait_published(a, b, b"first") == [b"e", b"first"]
        a.publish(b"for others", topic=b"b")
        a.publish(b"heart", topic=b"h")
        wait_until(lambda: [b"h", b"heart"] in [frames for _, frames in b.seen.published])
        assert all(address == there.address for address, _ in b.seen.published)
        assert b"b" not in {frames[0] for _, frames in b.seen.published}


def test_unsubscribe_ends_publications_and_subscribe_replaces(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, Node(tmp_path / "c") as c:
        there = a.listen()
        b.subscribe(there)
        c.subscribe(there)
        wait_published(a, b, b"1")
        b.io.call(lambda: b.io.unsubscribe(there.address))
        wait_published(a, c, b"2")
        b.subscribe(there, b"h")
        wait_published(a, b, b"3", topic=b"h")
        assert [b"e", b"2"] not in [frames for _, frames in b.seen.published]


@pytest.mark.parametrize(
    ("frames", "is_allowed"),
    [
        ([b"x" * QUICK.frame_bytes_max], True),
        ([b"x" * (QUICK.frame_bytes_max + 1)], False),
        ([b"x"] * QUICK.frames_max, True),
        ([b"x"] * (QUICK.frames_max + 1), False),
        ([], False),
        ([b"", b"x"], False),
    ],
)
def test_a_message_that_the_other_side_would_not_take_is_refused_where_it_is_sent(
    tmp_path: Path, frames: list[bytes], is_allowed: bool
) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b) as (dialled, served):
        if is_allowed:
            b.send(dialled, *frames)
            wait_equal(lambda: a.seen.frames, [(served, frames, "")])
        else:
            with pytest.raises(ValueError, match="at most 1048576 bytes, the first one not empty"):
                b.send(dialled, *frames)
            with pytest.raises(ValueError, match="at most 1048576 bytes"):
                a.send(served, *frames)


def test_a_publication_that_subscribers_would_not_take_is_refused(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        a.publish(b"x" * QUICK.frame_bytes_max)  # nobody listens: nothing happens
        with pytest.raises(ValueError, match="at most 1048576 bytes"):
            a.publish(b"x" * (QUICK.frame_bytes_max + 1))


# Listening


def test_port_zero_picks_a_pair_and_the_publisher_is_the_next_port(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        there = a.listen(0)
        assert there.publisher == Address("127.0.0.1", there.address.port + 1)
        assert a.io.listening == there
        a.io.unlisten()
        assert a.io.listening is None
        a.io.unlisten()


def test_no_port_takes_the_first_free_pair_from_8800_upwards(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        first, second = a.listen(None), b.listen(None)
        assert 8800 <= first.address.port < second.address.port
        assert second.address.port % 2 == 0


OWNER = """
import socket
for port in range(21_001, 31_000, 2):  # below those that the kernel gives to others, so that the one before stays free
    try:
        socket.create_server(("127.0.0.1", port - 1)).close()
        taken = socket.create_server(("127.0.0.1", port))
        break
    except OSError:
        continue
print(port, flush=True)
input()
"""


def test_a_port_that_was_asked_for_and_is_taken_names_its_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        with Node(tmp_path / "a") as a:
            with pytest.raises(ListenFailed, match=rf"port {port} is in use by process {owner.pid} \(.*python") as got:
                a.listen(port)
            assert "listen on another port" in str(got.value)
            # and so when it is the port of the publisher
            with pytest.raises(ListenFailed, match=rf"port {port} is in use by process {owner.pid} "):
                a.listen(port - 1)
            assert a.io.listening is None
            a.listen(0)
        owner.communicate(b"\n")


def test_a_node_listens_again_at_once_where_it_listened_before(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b:
        there = a.listen()
        link = b.dial(there.address)
        b.wait_up(link)
        served = a.wait_served()
        a.io.unlisten()
        assert a.seen.downs == [(served, "this node does not listen any more")]
        wait_until(lambda: link not in b.seen.up)
        assert a.listen(there.address.port) == there
        b.wait_up(link)
        assert a.listen(there.address.port) == there


def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path: Path) -> None:
    with Node(tmp_path / "a", insecure=True) as a, pytest.raises(ListenFailed, match="is not one of this machine"):
        a.io.listen("192.0.2.1", 0)


def test_a_name_to_listen_on_that_does_not_resolve_is_an_error(tmp_path: Path) -> None:
    with Node(tmp_path / "a", insecure=True) as a, pytest.raises(ListenFailed, match="does not resolve"):
        a.io.listen("no-such-host.invalid", 0)


def test_all_interfaces_are_reached_by_ipv4_and_by_name(tmp_path: Path) -> None:
    with Node(tmp_path / "a", insecure=True) as a, Node(tmp_path / "b") as b:
        there = a.io.listen("*", 0)
        assert there.address.host == "*"
        b.wait_up(b.dial(Address("127.0.0.1", there.address.port)))
        b.wait_up(b.dial(Address("localhost", there.address.port)))


def test_without_a_secret_nobody_else_is_let_in(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, pytest.raises(AddressInvalid, match="mynosql keygen"):
        a.io.listen("*", 0)


# Waking and sleeping


def test_an_idle_thread_does_not_wake(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b):
        b.subscribe(a.io.listening)  # type: ignore[arg-type]
        wait_published(a, b, b"ready")
        a.publish(b"last")
        wait_until(lambda: b.seen.published[-1][1][1] == b"last")

        def is_asleep() -> bool:
            """Half a second passes in which nothing happens. What was under way may still end before it."""
            rounds = (a.io.counters.rounds, b.io.counters.rounds)
            try:
                wait_until(lambda: (a.io.counters.rounds, b.io.counters.rounds) != rounds, deadline_s=0.5)
            except AssertionError:
                return True
            return False

        wait_until(is_asleep)


def test_a_due_time_wakes_the_thread_once_and_not_early(tmp_path: Path) -> None:
    called: list[float] = []
    due_at = time.monotonic() + 0.15

    def step(now: float) -> float | None:
        called.append(now)
        return due_at if now < due_at else None

    a = Node(tmp_path / "a")
    a.seen.when_stepped = step
    with a:
        wait_until(lambda: called[-1] >= due_at)
        assert len(called) <= 3


def test_wakes_are_coalesced_and_come_on_the_io_thread(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        entered, release = threading.Event(), threading.Event()

        def block() -> None:
            entered.set()
            release.wait(20)

        blocked = threading.Thread(target=lambda: a.io.call(block))
        blocked.start()
        entered.wait(20)
        for _ in range(10_000):
            a.io.wake()
        release.set()
        blocked.join()
        wait_until(lambda: a.seen.wakes)
        a.io.call(lambda: None)
        assert a.seen.wakes <= 2
        assert a.seen.threads == {"mynosql-io"}


def test_no_wake_is_lost_between_threads(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        asked = [0]
        seen = [0]
        a.seen.when_woken = lambda: seen.append(asked[-1])
        for number in range(1, 2000):
            asked.append(number)
            a.io.wake()
            if number % 3 == 0:
                # each wait begins at another moment of the thread's falling asleep
                wait_until(lambda: seen[-1] == asked[-1])
        wait_until(lambda: seen[-1] == asked[-1])


def test_a_call_returns_and_raises_what_the_function_does(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        assert a.io.call(lambda: threading.current_thread().name) == "mynosql-io"
        assert a.io.call(lambda: a.io.call(lambda: 7)) == 7
        with pytest.raises(ZeroDivisionError):
            a.io.call(lambda: 1 // 0)
        assert a.io.is_running


# The end


def test_stop_is_quick_with_unsent_messages_and_repeatable(tmp_path: Path) -> None:
    options = type(QUICK)(receive_messages_max=4, linger_s=0.2)
    with Node(tmp_path / "b", options=options) as b:
        a = Node(tmp_path / "a", options=options)
        with a, linked(a, b) as (_, served):
            release = threading.Event()
            b.seen.when_framed = lambda link, frames: hang_until(release)
            for _ in range(200):
                a.send(served, b"x" * QUICK.frame_bytes_max)
            a.io.stop(15.0)  # raises when it waits for the one that hangs
            release.set()
        a.io.stop()
        assert not a.io.is_running


def test_everything_is_closed_after_stop(tmp_path: Path) -> None:
    def once() -> None:
        with Node(tmp_path / "a") as a, Node(tmp_path / "b") as b, linked(a, b) as (dialled, _):
            b.subscribe(a.io.listening)  # type: ignore[arg-type]
            b.dial(Address("127.0.0.1", 1))
            wait_published(a, b, b"x")
            b.send(dialled, b"x")
            a.io.unlisten()
            a.listen()
            request(str(tmp_path / "a"), b"?", 5.0)

    once()  # what libraries open once and keep
    before = open_descriptors()
    threads = threading.active_count()
    for _ in range(3):
        once()
    wait_equal(open_descriptors, before)
    assert threading.active_count() == threads
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == []


def test_a_thread_that_died_surfaces_and_leaves_nobody_waiting(tmp_path: Path) -> None:
    a = Node(tmp_path / "a")
    entered, release = threading.Event(), threading.Event()
    died = RuntimeError("a bug")

    def die() -> None:
        entered.set()
        release.wait(20)
        raise died

    a.seen.when_woken = die
    a.io.start()
    a.io.wake()
    entered.wait(20)
    # Given a caller that already waits
    waiting: list[BaseException] = []

    def call() -> None:
        try:
            a.io.call(lambda: None)
        except BaseException as error:
            waiting.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    release.set()
    caller.join(20)
    assert not caller.is_alive()
    assert len(waiting) == 1
    assert waiting[0].__cause__ is died
    wait_until(lambda: a.seen.failures == [died])
    for later in (
        lambda: a.io.call(lambda: None), lambda: a.listen(), lambda: a.io.unlisten(), a.io.wake,
        lambda: a.io.reply_control(b"", b""),
    ):
        with pytest.raises(MyNoSQLError, match=r"network thread .* died \(RuntimeError\('a bug'\)\)"):
            later()
    assert not a.io.is_running
    a.io.stop()
    assert list(a.folder.iterdir()) == []


def test_a_folder_that_cannot_be_used_is_an_error_of_start(tmp_path: Path) -> None:
    io = IoThread(Recorder(), folder=str(tmp_path / "missing"), security=Security.open(tmp_path, None), options=QUICK)
    with pytest.raises(MyNoSQLError, match="no endpoint for local commands"):
        io.start()
    with pytest.raises(MyNoSQLError):
        io.call(lambda: None)
    io.stop()


def test_calls_before_start_and_after_stop_say_so(tmp_path: Path) -> None:
    a = Node(tmp_path / "a")
    with pytest.raises(NotOpen):
        a.io.call(lambda: None)
    a.io.stop()
    b = Node(tmp_path / "b")
    with b:
        pass
    with pytest.raises(NotOpen, match="not running"):
        b.listen()
    b.io.wake()  # a wake-up that comes too late is no error


def test_a_forked_child_touches_no_socket_of_the_parent(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from mynosql.errors import ForkError
from tests.net.recorder import Node
with Node(Path({str(tmp_path / "a")!r})) as a, Node(Path({str(tmp_path / "b")!r})) as b:
    there = a.listen()
    link = b.dial(there.address)
    b.wait_up(link)
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (a.io.wake, lambda: a.io.call(print), lambda: a.io.reply_control(b"", b"")):
            try:
                call()
            except ForkError:
                refused += 1
        a.io.stop()
        os._exit(0 if refused == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    b.send(link, b"still here")
    served = a.wait_served()
    from tests.net.recorder import wait_equal
    wait_equal(lambda: a.seen.frames, [(served, [b"still here"], "")])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ForkError.__doc__


def test_too_few_descriptors_are_an_error_and_no_abort(tmp_path: Path) -> None:
    code = f"""
import os, resource, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from mynosql.errors import MyNoSQLError
from tests.net.recorder import Node
node = Node(Path({str(tmp_path / "a")!r}))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    node.io.start()
except MyNoSQLError as error:
    assert "file descriptors" in str(error), error
    for descriptor in held:
        os.close(descriptor)
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", (done.returncode, done.stderr)
