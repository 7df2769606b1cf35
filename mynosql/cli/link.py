"""A network cable that can be pulled: a small TCP relay between loopback ports, for the demo.

Owns its listening sockets, one thread for each and two for each connection; counts the bytes that it carries. Knows
nothing of what travels. cut() ends every connection and refuses new ones, restore() lets them through again.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from mynosql.errors import ListenFailed

CHUNK_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 2.0


class CuttableLink:
    """Relays near port -> far port for each pair, on one host, until it is cut or closed."""

    def __init__(self, pairs: dict[int, int], host: str = "127.0.0.1") -> None:
        """pairs: {near port to listen on: far port to connect to}. Raises ListenFailed when a near port is taken."""
        self._pairs = pairs
        self._host = host
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._epoch = 0
        """Grows with each cut: a thread of an older one does not take part any more."""
        self.is_open = False
        self.bytes_carried = 0
        self.restore()

    def restore(self) -> None:
        """Connections are taken and relayed. No change when it is open already."""
        with self._lock:
            if self.is_open:
                return
            epoch = self._epoch
            for near, far in self._pairs.items():
                listener = self._listen(near)
                self._sockets.add(listener)
                self._start(self._accept_all, listener, far, epoch)
            self.is_open = True

    def cut(self) -> None:
        """Every connection is ended and new ones are refused. No change when it is cut already."""
        with self._lock:
            if not self.is_open:
                return
            self.is_open = False
            self._epoch += 1
            for end in self._sockets:
                _reset(end)
            self._sockets.clear()

    def close(self) -> None:
        """Cut for good; no thread of it runs any more."""
        self.cut()
        for thread in self._threads:
            thread.join(CONNECT_TIMEOUT_S + 1)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, port))
            listener.listen()
        except OSError as error:
            listener.close()
            raise ListenFailed(f"cannot relay from {self._host}:{port}: {error.strerror or error}") from error
        return listener

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name="demo-link", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept_all(self, listener: socket.socket, far_port: int, epoch: int) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((self._host, far_port), timeout=CONNECT_TIMEOUT_S)
            except OSError:
                _reset(near)  # nobody listens at the far end: the near one shall see that at once
                continue
            with self._lock:
                if self._epoch != epoch:
                    _reset(near)
                    _reset(far)
                    return
                for end in (near, far):
                    end.settimeout(None)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.add(end)
                self._start(self._carry, near, far, epoch)
                self._start(self._carry, far, near, epoch)

    def _carry(self, source: socket.socket, target: socket.socket, epoch: int) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                target.sendall(data)
                with self._lock:
                    self.bytes_carried += len(data)
        except OSError:
            pass
        with self._lock:
            if self._epoch == epoch:  # else cut() has ended both
                for end in (source, target):
                    if end in self._sockets:
                        self._sockets.discard(end)
                        _reset(end)


def _reset(end: socket.socket) -> None:
    """Ends a socket at once; a thread that waits in it wakes up."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
