"""The door for commands on the same machine: how they find the process that has a folder open, and ask it something.

That process records its endpoint in the folder (file `control`, readable by its owner alone): a Unix socket in the
folder where the path is short enough, else in a private folder of the system's temporary files, else loopback TCP. The
record holds a token that every request repeats, so that on loopback, too, nobody else gets in.
ControlServer belongs to the I/O thread of that process; LocalClient and request() to the command.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import shutil
import socket as raw_socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import zmq

from mynosql.errors import MyNoSQLError, NotOpen, StorageFailed
from mynosql.net.options import Counters, NetOptions
from mynosql.net.reactor import Reactor
from mynosql.net.security import LOCAL_HOST, write_private
from mynosql.net.sockets import Context, Socket, bound_to, make_context, make_local, milliseconds, receive

RECORD_FILE = "control"
SOCKET_FILE = "control.sock"
RECORD_HEAD = "mynosql control 1"
UNIX_PATH_BYTES_MAX = 107
"""What Linux allows for a Unix socket's path; other systems allow a few bytes less (104 on BSD and macOS)."""
REQUEST_FRAMES = 4
"""Routing id, token, number of the request, payload."""
NUMBER_BYTES = 8
LOOK_INTERVAL_S = 0.5
"""How often a command that waits for its answer looks whether the process is still there."""


class AnswerLost(MyNoSQLError):
    """The process that was asked left the folder before it answered: what was asked may have been done or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the file `control` says."""

    endpoint: str
    token: bytes
    pid: int

    def pack(self) -> str:
        return f"{RECORD_HEAD}\n{self.endpoint}\n{self.token.hex()}\n{self.pid}\n"

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Record | None:
        """The record in that folder; None when there is none that can be read."""
        try:
            text = Path(folder, RECORD_FILE).read_text(encoding="utf-8")
            head, endpoint, token, pid = text.splitlines()
            return cls(endpoint=endpoint, token=bytes.fromhex(token), pid=int(pid)) if head == RECORD_HEAD else None
        except (OSError, ValueError):
            return None


class ControlServer:
    """The process's side: requests come to on_request(reply_to, payload), reply() answers them."""

    def __init__(
        self, context: Context, reactor: Reactor, folder: str, options: NetOptions, counters: Counters,
        on_request: Callable[[bytes, bytes], None],
    ) -> None:
        """Bound and recorded. Raises StorageFailed when the folder cannot take the record."""
        self._reactor = reactor
        self._folder = Path(folder)
        self._counters = counters
        self._on_request = on_request
        self._private_folder: str | None = None
        self._token = secrets.token_bytes(20)
        self._socket = make_local(context, zmq.ROUTER, options)
        try:
            self.endpoint = self._bind()
            record = Record(endpoint=self.endpoint, token=self._token, pid=os.getpid())
            write_private(self._folder / RECORD_FILE, record.pack())
        except (OSError, zmq.ZMQError) as error:
            self._remove_files()
            self._socket.close(0)
            raise StorageFailed(f"no endpoint for local commands can be made for {folder}: {error}") from error
        reactor.add(self._socket, self._on_readable)

    def _bind(self) -> str:
        if not zmq.has("ipc"):
            self._socket.bind(f"tcp://{LOCAL_HOST}:*")
            return bound_to(self._socket)
        path = os.path.abspath(self._folder / SOCKET_FILE)
        if not _fits(path):
            self._private_folder = tempfile.mkdtemp(prefix="mynosql-")  # mode 0700
            path = os.path.join(self._private_folder, SOCKET_FILE)
        self._socket.bind(f"ipc://{path}")
        os.chmod(path, 0o600)
        return f"ipc://{path}"

    def reply(self, reply_to: bytes, payload: bytes) -> None:
        """The command gets its answer, if it is still there."""
        number, routing_id = reply_to[:NUMBER_BYTES], reply_to[NUMBER_BYTES:]
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart([routing_id, number, payload], zmq.NOBLOCK)

    def close(self) -> None:
        """Nobody is answered any more, and the folder says so."""
        self._reactor.remove(self._socket)
        self._remove_files()
        self._socket.close()

    def _remove_files(self) -> None:
        for name in (RECORD_FILE, SOCKET_FILE):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
        if self._private_folder is not None:
            shutil.rmtree(self._private_folder, ignore_errors=True)

    def _on_readable(self) -> None:
        while (request := receive(self._socket, REQUEST_FRAMES)) is not None:
            if (
                len(request) == REQUEST_FRAMES and len(request[2]) == NUMBER_BYTES
                and hmac.compare_digest(request[1], self._token)
            ):
                self._on_request(request[2] + request[0], request[3])
            else:
                self._counters.dropped_malformed += 1


class LocalClient:
    """A command's connection to the process that has a folder open. One thread; close it, or use it in a `with`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raises NotOpen when no process has this folder open."""
        record = Record.read(folder)
        self._folder = folder
        if record is None:
            raise NotOpen(f"no process has the database in {os.fspath(folder)} open")
        _check_answers(record, folder)
        self._token = record.token
        self._pid = record.pid
        self._number = 0
        self._context = make_context()
        self._socket: Socket = make_local(self._context, zmq.DEALER, NetOptions())
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(record.endpoint)

    def request(self, payload: bytes, timeout_s: float) -> bytes:
        """The answer of that process. Raises AnswerLost when it left the folder, MyNoSQLError when it is silent."""
        self._number += 1
        number = self._number.to_bytes(NUMBER_BYTES, "big")
        deadline = time.monotonic() + timeout_s
        self._socket.send_multipart([self._token, number, payload])
        is_over = False
        while not is_over and (rest_s := deadline - time.monotonic()) > 0:
            is_over = self._is_server_gone()  # looked up before the last poll: its answer may be on the way
            if self._socket.poll(milliseconds(min(rest_s, LOOK_INTERVAL_S))):
                is_over = False
                answer = receive(self._socket, REQUEST_FRAMES)
                # An earlier request may have been answered after its time.
                if answer is not None and len(answer) == 2 and answer[0] == number:
                    return answer[1]
        if is_over:
            raise AnswerLost(
                f"process {self._pid} closed the database or ended before it answered: look whether it was done"
            )
        raise MyNoSQLError(
            f"process {self._pid} has the database open but did not answer within {timeout_s:g} s; it may be busy: try "
            "again, or look at what that process does"
        )

    def _is_server_gone(self) -> bool:
        """Another process, or none, has the folder now; ZeroMQ would wait for this one for ever."""
        record = Record.read(self._folder)
        if record is None or record.token != self._token:
            return True
        try:
            _check_answers(record, self._folder)  # not its pid: a killed process keeps it until its parent looks
        except NotOpen:
            return True
        return False

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()

    def __enter__(self) -> LocalClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def request(folder: str | os.PathLike[str], payload: bytes, timeout_s: float) -> bytes:
    """The answer of the process that has this folder open.

    Raises NotOpen when there is none, AnswerLost when it leaves meanwhile, MyNoSQLError when silent for timeout_s.
    """
    with LocalClient(folder) as client:
        return client.request(payload, timeout_s)


def _fits(path: str) -> bool:
    try:
        return len(path.encode()) <= UNIX_PATH_BYTES_MAX
    except UnicodeEncodeError:  # a folder whose name is no text
        return False


def _check_answers(record: Record, folder: str | os.PathLike[str]) -> None:
    """ZeroMQ would wait for a dead endpoint to come back: a plain connection tells at once that nobody listens."""
    scheme, _, where = record.endpoint.partition("://")
    family = raw_socket.AF_INET if scheme == "tcp" else raw_socket.AF_UNIX
    try:
        with raw_socket.socket(family, raw_socket.SOCK_STREAM) as probe:
            probe.settimeout(2.0)
            if scheme == "tcp":
                host, _, port = where.rpartition(":")
                probe.connect((host, int(port)))
            else:
                probe.connect(where)
    except (OSError, ValueError) as error:
        raise NotOpen(
            f"no process has the database in {os.fspath(folder)} open: process {record.pid}, which had, is gone"
        ) from error
