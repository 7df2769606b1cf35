"""The command run in the test's own process, for what does not need one of its own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mynosql.cli.main import main
from tests.cli.running import Done


@pytest.fixture
def mynosql_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Runs the command in this process: mynosql_here("put", "Notes", "a", "{}"), databases under tmp_path."""
    monkeypatch.setenv("MYNOSQL_HOME", str(tmp_path / "home"))

    def run_here(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run_here
