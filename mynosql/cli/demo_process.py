"""One node's process as the demo sees it: started, asked, killed, ended, and never left behind.

Owns the process, its pipes and the thread that reads them. Knows nothing of the demo's story.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from typing import Any

from mynosql.errors import MyNoSQLError

START_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 10.0
ANSWER_MARGIN_S = 5.0
TAIL_BYTES = 2000
POLL_S = 0.05


class DemoFailed(MyNoSQLError):
    """The demo could not do what it shows; the text says what was missing."""


class NodeProcess:
    """A running node. `status` is the newest report of its state."""

    def __init__(self, name: str, folder: str, **options: Any) -> None:
        """The process is started; wait_open() says when its database is open. folder: for data and error output."""
        self.name = name
        self.status: dict[str, Any] = {}
        self.endpoint: str | None = None
        self.records_at_open: int | None = None
        self.is_ended_on_purpose = False
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._numbers = itertools.count(1)
        os.makedirs(folder, exist_ok=True)
        self._errors_path = os.path.join(folder, "stderr.txt")
        setup = json.dumps({"role": name, "folder": folder, "options": options})
        environment = {key: value for key, value in os.environ.items() if key != "MYNOSQL_SECRET"}
        with open(self._errors_path, "ab") as errors:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "mynosql.cli.demo_worker", setup], env=environment, text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                )
            except OSError as error:
                raise DemoFailed(f"the {name}'s process could not be started: {error}") from error
        self._reader = threading.Thread(target=self._take_messages, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_open(self) -> bool:
        """Its database is open: it has said so."""
        return self.records_at_open is not None

    def check(self) -> None:
        """Raises DemoFailed, with what the process wrote at the end, when it ended by itself."""
        code = self._process.poll()
        if code is None or self.is_ended_on_purpose:
            return
        with open(self._errors_path, "rb") as errors:
            said = errors.read()[-TAIL_BYTES:].decode(errors="replace").strip()
        raise DemoFailed(
            f"the {self.name}'s process ended by itself with code {code}; "
            f"its last words: {said or '(none)'}"
        )

    def ask(self, verb: str, *, timeout_s: float = 10.0, **arguments: Any) -> Any:
        """The node's answer to one command, which may take timeout_s seconds there.

        Raises DemoFailed when the command fails there or takes too long.
        """
        number = next(self._numbers)
        self._send({"ask": number, "do": verb, "timeout_s": timeout_s, **arguments})
        deadline = time.monotonic() + timeout_s + ANSWER_MARGIN_S
        while time.monotonic() < deadline:
            self.check()
            try:
                found = self._answers.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if found["answer"] != number:
                continue  # of a question that was given up
            if "error" in found:
                raise DemoFailed(f"the {self.name} could not {verb}: {found['error']}")
            return found["result"]
        raise DemoFailed(f"the {self.name} did not answer {verb!r} within {timeout_s:g} s")

    def kill(self) -> int:
        """SIGKILL: the process has no chance to put anything in order. Returns its exit status, 0 if it had ended."""
        self.is_ended_on_purpose = True
        self._process.kill()
        status = self._process.wait()
        self._let_go()
        return status

    def close(self) -> None:
        """The node closes its database and ends; it is killed when it takes too long, which is reported."""
        self.is_ended_on_purpose = True
        with contextlib.suppress(DemoFailed):
            self._send({"ask": 0, "do": "close"})
        try:
            code = self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoFailed(f"the {self.name} did not close within {CLOSE_TIMEOUT_S:g} s") from None
        self._let_go()
        if code:
            self.is_ended_on_purpose = False
            self.check()

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._reader.join(CLOSE_TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:  # ValueError: we have closed the pipe ourselves
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            self.check()
            raise DemoFailed(f"the {self.name}'s process takes no commands: {error}") from error

    def _take_messages(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # half a line of a killed process
            if "answer" in message:
                self._answers.put(message)
            elif "open" in message:
                self.endpoint = message["open"]
                self.records_at_open = message["records"]
            else:
                self.status = message
