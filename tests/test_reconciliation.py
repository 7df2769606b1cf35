"""Real nodes whose large indexes differ in little: a copied folder that meets its original, and a damaged index."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mynosql.idkey import id_hash, pack_id
from mynosql.store.index import short_hash
from tests.mesh import SETTLE_DEADLINE_S, wait_equal
from tests.waiting import wait_until

COUNT = 9_000
"""More than mynosql.sync.options.SyncOptions.compare_count_min."""


@pytest.fixture
def original(make_db: Callable[..., Any], tmp_path: Path) -> Any:
    """A mirror whose folder was copied to `tmp_path / "copy"` while it was closed."""
    with_location = {"location": tmp_path / "original", "mode": "mirror", "listen": "127.0.0.1:0"}
    db = make_db(**with_location)
    db.savedocs([{"id": f"reading/{number}", "celsius": 20 + number % 7} for number in range(COUNT)])
    db.closedb()
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    return make_db(**with_location)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mirror", "peer"])
def test_a_copied_folder_gets_the_difference_and_gives_it(
    original: Any, make_db: Callable[..., Any], tmp_path: Path, mode: str
) -> None:
    copy = make_db(location=tmp_path / "copy", mode=mode, **({"listen": "127.0.0.1:0"} if mode == "mirror" else {}))
    for number in range(20):
        original.savedoc({"id": f"of the original/{number}"})
        copy.savedoc({"id": f"of the copy/{number}"})
    original.deletedoc("reading/7")
    copy.addpeer(original.endpoint)

    wait_until(lambda: "of the copy/19" in original and "of the original/19" in copy, SETTLE_DEADLINE_S)
    wait_equal(original, copy)

    assert len(copy) == len(original) == COUNT + 39
    assert copy.syncstatus().bytes_received < 60_000, "all of the feed would be 250,000"


@pytest.mark.slow
def test_an_index_that_lost_an_entry_gets_it_back_unprompted(
    original: Any, make_db: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"location": tmp_path / "copy", "mode": "mirror", "listen": "127.0.0.1:0", "peers": [original.endpoint]}
    copy = make_db(**options)
    wait_equal(original, copy)
    copy.closedb()
    lost = short_hash(id_hash(pack_id("reading/7")))
    (path,) = (tmp_path / "copy").rglob("index")
    with sqlite3.connect(path) as index:
        assert index.execute("DELETE FROM place WHERE hash=?", (lost,)).rowcount == 1

    copy = make_db(**options)
    wait_until(lambda: "reading/7" in copy, 60.0, lambda: f"it came back: {copy.syncstatus()}")
    assert copy.readdoc("reading/7")["celsius"] == 20
    assert not copy.checkdb().ok, "its counters are wrong until the index is made anew"

    copy.closedb()
    copy = make_db(**options)
    assert len(copy) == COUNT
    assert copy.checkdb().ok
