"""The rules of the house (DESIGN §7), read from the sources; the checks themselves are tested with planted mistakes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests import house
from tests.house import Tree, doc_findings, findings_in, floor_of, sizes_in

ROOT = Path(__file__).resolve().parents[1]
TREE = Tree(ROOT)
DOCS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]


class HouseWarning(UserWarning):
    """Something to decide about, not a failure."""


# This checkout


@pytest.mark.parametrize("path", TREE.paths)
def test_a_module_reaches_only_what_its_floor_may(path: str) -> None:
    findings = findings_in((ROOT / path).read_text(encoding="utf-8"), path)
    assert not findings, "\n".join(findings)


def test_every_module_has_a_floor() -> None:
    placed = {*house.FLOORS, "__init__"}
    lost = [path for path in TREE.paths if path.split("/")[1].removesuffix(".py") not in placed]
    assert not lost, f"{lost}: give each its floor in FLOORS of tests/house.py, the lowest that its imports allow"


def test_every_module_has_its_test_file() -> None:
    missing = [
        f"{path} has no {test}" for path in TREE.paths
        if (test := house.test_file_of(path)) is not None and not (ROOT / test).exists()
    ]
    assert not missing, "write a test that reads like the module's specification:\n" + "\n".join(missing)


@pytest.mark.parametrize("path", DOCS, ids=[path.name for path in DOCS])
def test_files_and_names_in_the_docs_exist(path: Path) -> None:
    findings = doc_findings(path.read_text(encoding="utf-8"), path.name, TREE)
    assert not findings, "\n".join(findings)


@pytest.mark.filterwarnings("default::tests.test_house.HouseWarning")
def test_long_files_and_functions_are_warned_of() -> None:
    for path in TREE.paths:
        for finding in sizes_in((ROOT / path).read_text(encoding="utf-8"), path):
            warnings.warn(finding, HouseWarning, stacklevel=1)


# Planted mistakes: what is found, and the repair that is named

PLANTED: dict[str, tuple[str, str, str]] = {
    "values import the store": ("mynosql/row.py", "from mynosql.store import index", "move what is needed down"),
    "store imports the replica": ("mynosql/store/x.py", "import mynosql.replica", "move what is needed down"),
    "sync imports net, relatively": ("mynosql/sync/x.py", "from ..net import io", "imports mynosql.net.io of F3 net"),
    "net imports the face": ("mynosql/net/io.py", "from mynosql import opendb", "F3 net imports mynosql.opendb"),
    "net imports the package": ("mynosql/net/io.py", "import mynosql", "of F4 the face"),
    "the replica imports net for types": (
        "mynosql/replica.py", "if TYPE_CHECKING:\n    from mynosql.net.io import IoThread", "F2 replica imports"
    ),
    "the face imports the command, late": (
        "mynosql/database.py", "def f():\n    from mynosql.cli import main", "take it as an argument"
    ),
    "store imports sync": ("mynosql/store/x.py", "from mynosql.sync import node", "never import each other"),
    "sync imports store": ("mynosql/sync/x.py", "from mynosql.store.types import FeedSlice", "never import each other"),
    "sync imports store, relatively": ("mynosql/sync/__init__.py", "from ..store import types", "never import each"),
    "zmq in the replica": ("mynosql/replica.py", "import zmq", "only net/"),
    "zmq in the face": ("mynosql/bridge.py", "from zmq.utils import z85", "only net/"),
    "sqlite in the ledger": ("mynosql/ledger.py", "import sqlite3 as sql", "only store/"),
    "time in the store": ("mynosql/store/seal.py", "import time", "take `now`"),
    "time in the ledger": ("mynosql/ledger.py", "from time import monotonic", "take `now`"),
    "now in a session": ("mynosql/sync/x.py", "import datetime as d\nd.datetime.now()", "take `now`"),
    "today in a value": ("mynosql/scalars.py", "from datetime import date\ndate.today()", "take `now`"),
    "random in a session": ("mynosql/sync/node.py", "import random", "take an rng"),
    "urandom in the store": ("mynosql/store/folder.py", "import os\nmint = os.urandom", "take an rng"),
    "urandom by name": ("mynosql/store/folder.py", "from os import urandom", "take an rng"),
    "uuid4 in the codec": ("mynosql/codec.py", "from uuid import uuid4", "take an rng"),
    "secrets in the ledger": ("mynosql/ledger.py", "import secrets", "take an rng"),
    "a lock in the store": ("mynosql/store/store.py", "import threading", "step(now)"),
    "a future in the replica": ("mynosql/replica.py", "from concurrent.futures import Future", "step(now)"),
    "print in the face": ("mynosql/database.py", "print('hello')", "only cli/ prints"),
    "print passed on": ("mynosql/net/io.py", "say = print", "only cli/ prints"),
    "logging in a session": ("mynosql/sync/x.py", "import logging", "an effect"),
    "logging in a value": ("mynosql/codec.py", "from logging import getLogger", "do not log"),
    "a file in a session": ("mynosql/sync/x.py", "data = open('x').read()", "no I/O"),
    "os in a value": ("mynosql/options.py", "import os.path", "no I/O"),
    "pickle in the command": ("mynosql/cli/main.py", "import pickle", "nothing is ever unpickled"),
    "eval in the face": ("mynosql/database.py", "eval('1')", "dispatch with a table"),
}


@pytest.mark.parametrize(("path", "source", "repair"), PLANTED.values(), ids=list(PLANTED))
def test_a_planted_mistake_is_found_and_its_repair_named(path: str, source: str, repair: str) -> None:
    findings = findings_in(source, path)
    assert len([finding for finding in findings if repair in finding]) == 1, findings
    assert findings[0].startswith(f"{path}, line ")


ALLOWED: dict[str, tuple[str, str]] = {
    "lower floors": ("mynosql/replica.py", "from mynosql.store.store import Store\nfrom mynosql.sync import node"),
    "the same floor": ("mynosql/idkey.py", "from mynosql.codec import pack_value"),
    "a value by its package": ("mynosql/store/x.py", "from mynosql import row"),
    "inside a folder, relatively": ("mynosql/store/x.py", "from . import index\nfrom .types import FeedSlice"),
    "the command": ("mynosql/cli/main.py", "import mynosql, os, sys, time, threading\nprint(mynosql.opendb)"),
    "net": ("mynosql/net/io.py", "import zmq, time, random, threading, logging, os"),
    "the replica's clock": ("mynosql/replica.py", "import time, random\nfrom os import urandom"),
    "the disk": ("mynosql/store/index.py", "import sqlite3, os, logging, uuid\nuuid.getnode()\nopen('x')"),
    "types of a value": ("mynosql/scalars.py", "from datetime import datetime\nfrom uuid import UUID\ndatetime.max"),
    "an annotation": ("mynosql/sync/x.py", "if TYPE_CHECKING:\n    import random\ndef f(rng: random.Random): ..."),
    "a method called print or open": ("mynosql/sync/x.py", "dials.open(1)\nscreen.print(2)\nx = a().time"),
}


@pytest.mark.parametrize(("path", "source"), ALLOWED.values(), ids=list(ALLOWED))
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    assert findings_in(source, path) == []


def test_the_floors_are_those_of_the_design() -> None:
    names = ("errors", "store.store", "sync.node", "ledger", "replica", "net.io", "database", "feed", "cli.main")
    assert [floor_of(f"mynosql.{name}") for name in names] == [0, 1, 1, 2, 2, 3, 4, 4, 5]
    assert floor_of("mynosql") == floor_of("mynosql.opendb") == 4


def test_sizes_count_code_without_docstrings() -> None:
    body = "    x = 1\n" * (house.FUNCTION_LINES_MAX - 1)
    docstring = '    """Long.\n' + "    More.\n" * 50 + '    """\n'
    assert sizes_in("def f():\n" + docstring + body, "x.py") == []
    assert sizes_in("def f():\n" + docstring + body + "    x = 2\n", "x.py") == [
        "x.py: f has 61 lines: which step of it deserves a name?"
    ]
    assert sizes_in("x = 1\n" * house.FILE_LINES_MAX, "x.py") == []
    assert sizes_in("x = 1\n" * (house.FILE_LINES_MAX + 1), "x.py") == [
        "x.py has 501 lines: does a second noun live in it?"
    ]


def test_test_files_stand_where_their_modules_do() -> None:
    assert house.test_file_of("mynosql/codec.py") == "tests/test_codec.py"
    assert house.test_file_of("mynosql/store/index.py") == "tests/store/test_index.py"
    assert house.test_file_of("mynosql/net/__init__.py") is None


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A small checkout with one module."""
    for folder in ("mynosql/store", "tests", "docs", "examples"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mynosql/__init__.py").write_text("from mynosql.database import opendb\n")
    (tmp_path / "mynosql/store/index.py").write_text(
        "LIMIT = 5\nclass Base:\n    def close(self): self.closed = True\n"
        "class Index(Base):\n    seq: int\n    def find(self): ...\n"
    )
    (tmp_path / "mynosql/database.py").write_text("class MyNoSQL:\n    def savedoc(self): ...\ndef opendb(): ...\n")
    return Tree(tmp_path)


@pytest.mark.parametrize("token", [
    "mynosql/store/index.py", "mynosql/store/", "index.py", "index.LIMIT", "index.Index.find", "Index.seq",
    "Index.closed", "mynosql.opendb", "mynosql.opendb(name)", "mynosql.store.index.Index.close", "db.savedoc",
    "db.savedoc(rec)", "os.fsync", "unknown.thing", "index.sqlite", "1.5", "a.b c", "x/y.txt",
    "application/json", "struct.pack",
])
def test_names_that_exist_or_are_not_ours_pass(tree: Tree, token: str) -> None:
    assert doc_findings(f"See `{token}`.", "X.md", tree) == []


@pytest.mark.parametrize("token", [
    "mynosql/store/indexes.py", "store/index.py", "mynosql/stores/", "tests/x", "indexes.py", "docs/GONE.md", "GONE.md",
    "index.LIMITS", "index.Index.found", "Index.sequence", "mynosql.open", "mynosql.store.indexes", "db.save",
    "db.save(rec)",
])
def test_a_file_or_name_that_is_not_there_is_found(tree: Tree, token: str) -> None:
    (finding,) = doc_findings(f"See `{token}`.\n", "X.md", tree)
    assert finding.startswith(f"X.md names `{token}`")
    assert "correct the" in finding


def test_code_blocks_are_not_prose(tree: Tree) -> None:
    assert doc_findings("```python\n`index.LIMITS`\n# x.py:12\n```\nThen `index.LIMITS`.", "X.md", tree) == [
        "X.md names `index.LIMITS`, which nothing defines: correct the name"
    ]


@pytest.mark.parametrize("text", ["index.py:12", "index.py#L12", "see line 12", "lines 12-20 of it"])
def test_line_numbers_are_found(tree: Tree, text: str) -> None:
    (finding,) = doc_findings(f"It is at {text}.", "X.md", tree)
    assert "name the function instead" in finding


def test_ten_lines_of_text_are_no_line_number(tree: Tree) -> None:
    assert doc_findings("In 10 lines; 12 lines later; the line of 1990; pipelines 5.", "X.md", tree) == []
