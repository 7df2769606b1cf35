"""The command `mynosql` as a process, for tests: run to its end, or started and read line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Done:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**added: str) -> dict[str, str]:
    """The test's environment; mynosql is importable from anywhere."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **added}


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mynosql", *arguments]


def run(*arguments: str, stdin: str = "", **added: str) -> Done:
    """One command, from its start to its end."""
    done = subprocess.run(
        command_line(*arguments), input=stdin, capture_output=True, text=True, env=environment(**added),
        timeout=DEADLINE_S, check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def start(*arguments: str, **added: str) -> subprocess.Popen[str]:
    """A command that goes on, in a process group of its own as in a shell; use it in a with statement and end it."""
    return subprocess.Popen(
        command_line(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env=environment(**added), start_new_session=True,
    )


Run = Callable[..., Done]
"""The fixture mynosql_here."""
