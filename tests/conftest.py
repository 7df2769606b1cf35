"""What every test gets: no settings of the machine, deterministic Hypothesis, databases that are checked afterwards.

With `pytest -n`, the tests of one file run in one process, and files that are marked `long` are begun first.

`db` is an open peer in an empty folder; `make_db` opens more of them. After the test each of their folders passes
checkdb(), whatever the test did to it, and nothing stays open.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.tables import Printing

# The same examples in every run: a failure in CI is a failure here. --hypothesis-profile explore looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True, max_examples=2_000)
hypothesis.settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores SIGINT, and so would every process that a test starts in order to interrupt it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Printing())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes a person's own databases, or works only because a secret is set."""
    monkeypatch.delenv("MYNOSQL_SECRET", raising=False)
    monkeypatch.setenv("MYNOSQL_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture
def make_db(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """make_db("Name", location=..., **options of mynosql.opendb) opens a database that is checked after the test.

    The location defaults to a folder of its own under tmp_path, named in order of opening: "node1", "node2"…
    """
    yield from open_checked(tmp_path)


def open_checked(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """The body of make_db, for the tests of this file."""
    import mynosql

    opened: list[tuple[Any, dict[str, Any]]] = []

    def make_db(name: str = "Test", **options: Any) -> Any:
        options.setdefault("location", tmp_path / f"node{len(opened) + 1}")
        database = mynosql.opendb(name, **options)
        opened.append((database, {"name": name, **options}))
        return database

    yield make_db
    with contextlib.ExitStack() as checks:  # all of them are checked and closed, whichever fails
        for database, how in opened:
            checks.callback(_check_and_close, database, how)


@pytest.fixture
def db(make_db: Callable[..., Any]) -> Any:
    """An open database, a peer without mirrors, in an empty folder; checkdb() runs on it after the test."""
    return make_db()


def _check_and_close(database: Any, how: dict[str, Any]) -> None:
    """Check the database, opened anew in its folder if the test closed it; leaves it closed.

    It listens on any port then: the one that the folder remembers may meanwhile be another test's.
    """
    import mynosql

    try:
        report = database.checkdb()
    except mynosql.NotOpen:
        with mynosql.opendb(how["name"], location=how["location"], listen="127.0.0.1:0") as reopened:
            report = reopened.checkdb()
    finally:
        database.closedb()
    assert report.ok, f"checkdb() of {how['name']} in {how['location']}: {report.problems}"
