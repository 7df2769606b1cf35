"""What a run showed is printed at its end, whether it failed or not: each table under a heading of its own."""

from __future__ import annotations

import pytest

TABLES = pytest.StashKey[dict[str, list[str]]]()


def add_table(config: pytest.Config, heading: str, lines: list[str]) -> None:
    """These lines stand at the end of the output of this run."""
    config.stash.setdefault(TABLES, {})[heading] = lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for heading, lines in config.stash.get(TABLES, {}).items():
        terminalreporter.section(heading)
        for line in lines:
            terminalreporter.write_line(line)
