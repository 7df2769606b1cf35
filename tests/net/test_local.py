"""Local commands: found by the folder, answered by the process that has it open, and by nobody else."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
import zmq

from mynosql.errors import MyNoSQLError, NotOpen
from mynosql.net.local import RECORD_FILE, SOCKET_FILE, UNIX_PATH_BYTES_MAX, LocalClient, Record, request
from mynosql.net.options import NetOptions
from tests.net.recorder import Node, open_descriptors
from tests.waiting import wait_until


def record_of(node: Node) -> Record:
    record = Record.read(node.folder)
    assert record is not None
    return record


def test_a_request_is_answered_by_the_process_that_has_the_folder_open(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, Node(tmp_path / "b"):
        assert request(a.folder, b"what?", 10.0) == b"answer to what?"
        with LocalClient(tmp_path / "b") as client:
            for number in range(10):
                assert client.request(b"%d" % number, 10.0) == b"answer to %d" % number


def test_large_requests_and_answers_pass(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        large = os.urandom(20 << 20)
        assert request(a.folder, large, 20.0) == b"answer to " + large


def test_an_answer_above_the_limit_is_our_own_mistake(tmp_path: Path) -> None:
    with Node(tmp_path / "a", options=NetOptions(control_bytes_max=10)) as a:
        a.io.reply_control(bytes(13), b"x" * 10)
        with pytest.raises(ValueError, match="at most 10"):
            a.io.reply_control(bytes(13), b"x" * 11)


def test_an_answer_may_come_later_from_another_thread(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        asked: list[bytes] = []
        a.seen.when_asked = lambda payload: None
        on_control = a.seen.on_control

        def keep(reply_to: bytes, payload: bytes) -> None:
            asked.append(reply_to)
            on_control(reply_to, payload)

        a.io._control._on_request = keep  # type: ignore[union-attr]
        answers: list[bytes] = []
        commands = [
            threading.Thread(target=lambda: answers.append(request(a.folder, b"?", 20.0))) for _ in range(3)
        ]
        for command in commands:
            command.start()
        wait_until(lambda: len(asked) == 3)
        for number, reply_to in enumerate(reversed(asked)):
            a.io.reply_control(reply_to, b"%d" % number)
        for command in commands:
            command.join(20)
        assert sorted(answers) == [b"0", b"1", b"2"]


def test_without_an_answer_the_command_gives_up_in_time_and_may_ask_again(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a, LocalClient(a.folder) as client:
        replies: list[bytes] = []
        a.io._control._on_request = lambda reply_to, payload: replies.append(reply_to)  # type: ignore[union-attr]

        def has_asked_in_vain() -> bool:
            """Also on a machine so busy that the question itself did not get there in that time."""
            with pytest.raises(MyNoSQLError, match=f"process {os.getpid()} has the database open but did not"):
                client.request(b"first", 0.05)
            return bool(replies)

        wait_until(has_asked_in_vain)
        # The late answer to the first is not taken for that to the second
        for reply_to in replies:
            a.io.reply_control(reply_to, b"late")
        a.io._control._on_request = a.io.reply_control  # type: ignore[union-attr]
        assert client.request(b"second", 10.0) == b"second"


def test_a_command_that_has_gone_away_harms_nobody(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        replies: list[bytes] = []
        a.io._control._on_request = lambda reply_to, payload: replies.append(reply_to)  # type: ignore[union-attr]

        def has_asked_in_vain() -> bool:
            with pytest.raises(MyNoSQLError):
                request(a.folder, b"?", 0.05)
            return bool(replies)

        wait_until(has_asked_in_vain)
        a.io.reply_control(replies[0], b"too late")
        a.io.call(lambda: None)
        assert a.io.is_running


def test_a_folder_that_nobody_has_open_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotOpen, match=r"no process has the database in .* open"):
        request(tmp_path, b"?", 10.0)
    with Node(tmp_path / "a") as a:
        kept = (a.folder / RECORD_FILE).read_bytes()
    with pytest.raises(NotOpen):
        request(a.folder, b"?", 10.0)
    # A process that was killed leaves its record behind
    (a.folder / RECORD_FILE).write_bytes(kept)
    started_at = time.monotonic()
    with pytest.raises(NotOpen, match=f"process {os.getpid()}, which had, is gone"):
        request(a.folder, b"?", 10.0)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(a.folder / SOCKET_FILE))
    with pytest.raises(NotOpen, match="is gone"):
        request(a.folder, b"?", 10.0)
    assert time.monotonic() - started_at < 10.0, "neither waited for an answer"
    # and the next one that opens the folder is not disturbed by it
    with Node(tmp_path / "a"):
        assert request(a.folder, b"?", 10.0) == b"answer to ?"


@pytest.mark.parametrize("content", [b"", b"rubbish", b"mynosql control 2\nipc://x\n00\n1\n", b"\xff\n\n\n\n",
                                     b"mynosql control 1\nipc://x\nzz\n1\n", b"mynosql control 1\nipc://x\n00\nmany\n"])
def test_a_damaged_record_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD_FILE).write_bytes(content)
    assert Record.read(tmp_path) is None
    with pytest.raises(NotOpen):
        request(tmp_path, b"?", 1.0)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:1", "tcp://127.0.0.1:x", "tcp://127.0.0.1", "ipc://" + "x" * 200, "", "x"]
)
def test_a_record_that_leads_nowhere_is_told_at_once(tmp_path: Path, endpoint: str) -> None:
    (tmp_path / RECORD_FILE).write_text(Record(endpoint=endpoint, token=b"x", pid=1).pack())
    with pytest.raises(NotOpen):
        request(tmp_path, b"?", 1.0)


def test_only_the_owner_gets_in(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        assert stat.S_IMODE((a.folder / RECORD_FILE).stat().st_mode) == 0o600
        assert stat.S_IMODE((a.folder / SOCKET_FILE).stat().st_mode) == 0o600
        record = record_of(a)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        intruder = context.socket(zmq.DEALER)
        intruder.connect(record.endpoint)
        for frames in (
            [b"wrong token", bytes(8), b"?"], [record.token, bytes(7), b"?"], [record.token, bytes(8)], [b""],
            [record.token, bytes(8), b"?", b"more"], [b"x"] * 1000,
        ):
            intruder.send_multipart(frames)
        wait_until(lambda: a.io.counters.dropped_malformed == 6)
        assert intruder.poll(0) == 0
        intruder.send_multipart([record.token, bytes(8), b"?"])
        assert intruder.poll(10_000)
        assert intruder.recv_multipart() == [bytes(8), b"answer to ?"]
        context.destroy(0)


def test_the_token_differs_with_every_opening(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(3):
        with Node(tmp_path / "a") as a:
            tokens.add(record_of(a).token)
    assert len(tokens) == 3


@pytest.mark.parametrize(("extra", "is_inside"), [(0, True), (1, False)])
def test_a_path_too_long_for_a_socket_gets_one_in_a_private_folder(tmp_path: Path, extra: int, is_inside: bool) -> None:
    room = UNIX_PATH_BYTES_MAX + extra - len(str(tmp_path / SOCKET_FILE)) - 1
    assert room > 0
    with Node(tmp_path / ("x" * room)) as a:
        path = Path(record_of(a).endpoint.removeprefix("ipc://"))
        assert (path.parent == a.folder) is is_inside
        assert len(str(path)) <= UNIX_PATH_BYTES_MAX
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if not is_inside:
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert request(a.folder, b"?", 10.0) == b"answer to ?"
    assert not path.exists()
    assert path.parent.exists() is is_inside
    assert list(a.folder.iterdir()) == []


def test_where_there_are_no_unix_sockets_it_is_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    with Node(tmp_path / "a") as a:
        assert record_of(a).endpoint.startswith("tcp://127.0.0.1:")
        assert request(a.folder, b"?", 10.0) == b"answer to ?"
    with pytest.raises(NotOpen):
        request(a.folder, b"?", 10.0)


def test_a_client_leaves_nothing_open(tmp_path: Path) -> None:
    with Node(tmp_path / "a") as a:
        request(a.folder, b"?", 10.0)
        a.io.call(lambda: None)
        before = wait_until(lambda: len(open_descriptors()))
        for _ in range(5):
            request(a.folder, b"?", 10.0)
        wait_until(lambda: len(open_descriptors()) <= before)
