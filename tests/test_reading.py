"""Reading one record beside its writers: what is kept of it, and when a reader waits for a mirror."""

from __future__ import annotations

from typing import Any

import pytest

import mynosql
from mynosql.idkey import pack_id
from tests.waiting import wait_until


def test_a_kept_record_is_dropped_when_it_is_no_longer_the_winner(db: Any) -> None:
    reading, id_key = db._open.reading, pack_id("a")
    first = db.savedoc({"id": "a", "n": 1})
    leaf = reading.find(id_key).winner
    db.savedoc({**first, "n": 2})
    reading.keep_whole(id_key, leaf, b"made from the first revision")
    assert reading.read_whole(id_key) is None
    reading.keep_whole(id_key, reading.find(id_key).winner, None)
    assert reading.read_whole(id_key) is None


def test_the_body_of_a_leaf_that_is_gone_is_none(db: Any) -> None:
    reading, id_key = db._open.reading, pack_id("a")
    first = db.savedoc({"id": "a", "n": 1})
    leaf = reading.find(id_key).winner
    assert reading.read_leaf(id_key, leaf) is not None
    db.savedoc({**first, "n": 2})
    assert reading.read_leaf(id_key, leaf) is None
    assert reading.read_leaf(pack_id("never"), leaf) is None


def test_once_no_mirror_answers_a_read_never_waits(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    db.addpeer("http://127.0.0.1:1")
    wait_until(lambda: not db._open.replica.has_live_mirror, 20, "the first dial failed")
    with monkeypatch.context() as patched:
        patched.setattr(db._open.workers, "wait", lambda *_: pytest.fail("it waited"))
        with pytest.raises(mynosql.RecordUnavailable, match="no mirror is connected"):
            db.readdoc("a", timeout=60)
    assert db.docinfo("a").state == "unknown"
