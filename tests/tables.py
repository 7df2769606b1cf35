"""What a run showed is printed at its end, whether it failed or not: each table under a heading of its own.

With `pytest -n`, tests run in processes of their own: their tables reach the one that prints with their results.
"""

from __future__ import annotations

from typing import Any

import pytest

TABLES = pytest.StashKey[dict[str, list[str]]]()
_SENT = "tables"


def add_table(config: pytest.Config, heading: str, lines: list[str]) -> None:
    """These lines stand at the end of the output of this run."""
    config.stash.setdefault(TABLES, {})[heading] = lines


class Printing:
    """The plugin: tests/conftest.py registers it."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        sent = getattr(session.config, "workeroutput", None)
        if sent is not None:
            sent[_SENT] = session.config.stash.get(TABLES, {})

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for heading, lines in getattr(node, "workeroutput", {}).get(_SENT, {}).items():
            add_table(node.config, heading, lines)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        for heading, lines in config.stash.get(TABLES, {}).items():
            terminalreporter.section(heading)
            for line in lines:
                terminalreporter.write_line(line)
