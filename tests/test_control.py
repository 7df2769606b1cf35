"""The verbs of control.py: what RemoteDatabase asks, answer() performs, and errors come back as the class they were."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mynosql
from mynosql import control
from mynosql.codec import pack_value, unpack_value
from mynosql.control import NOW, RemoteDatabase, answer, changes_page
from mynosql.errors import (
    AddressInvalid,
    MyNoSQLError,
    NotOpen,
    OptionInvalid,
    PeerError,
    RecordInvalid,
    RecordNotFound,
    RecordUnavailable,
    RevisionConflict,
    StorageCorrupt,
)

DEADLINE_S = 10.0


@pytest.fixture
def remote(db: Any) -> RemoteDatabase:
    """The client's half, joined to the open database without a socket between them."""
    return RemoteDatabase(lambda payload, timeout_s: answer(db, payload))


class FailingDatabase:
    """Raises the given error from every call."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def syncstatus(self) -> Any:
        raise self._error


def failing(error: BaseException) -> RemoteDatabase:
    db: Any = FailingDatabase(error)
    return RemoteDatabase(lambda payload, timeout_s: answer(db, payload))


def test_a_record_put_through_the_process_is_in_its_database(db: Any, remote: RemoteDatabase) -> None:
    saved = remote.savedoc({"id": "lamp", "on": True, "tags": {"a", "b"}, "size": (1, 2)})
    assert db.readdoc("lamp") == saved
    assert remote.readdoc("lamp") == saved
    assert type(saved["size"]) is tuple


def test_a_batch_is_saved_whole_or_not_at_all(db: Any, remote: RemoteDatabase) -> None:
    remote.savedoc({"id": "b", "n": 1})
    with pytest.raises(RevisionConflict) as caught:
        remote.savedocs([{"id": "a", "n": 1}, {"id": "b", "n": 2}])
    assert (caught.value.position, caught.value.id, caught.value.latest) == (1, "b", db.docinfo("b").rev)
    assert db.listdocs() == ["b"]


def test_ids_of_any_type_pass(remote: RemoteDatabase) -> None:
    ids = [5, True, ("a", 1), b"raw", 1.5]
    remote.savedocs([{"id": id, "of": repr(id)} for id in ids])
    for id in ids:
        assert remote.readdoc(id)["of"] == repr(id)
    assert sorted(map(repr, remote.listdocs())) == sorted(map(repr, ids))


def test_conflicts_are_listed_shown_and_resolved(db: Any, remote: RemoteDatabase) -> None:
    for id in ("a", "b", "c"):
        base = db.savedoc({"id": id, "n": (0,)})
        db.savedoc({**base, "n": (1,)})
        db.savedoc({**base, "n": (2,)}, branch=True)
    assert remote.conflicteddocs() == db.conflicteddocs() == ["a", "b", "c"]
    assert remote.conflicteddocs(after="a", limit=1) == db.conflicteddocs(after="a", limit=1) == ["b"]
    assert remote.conflicteddocs(limit=0) == db.conflicteddocs(limit=0) == []
    assert remote.conflicteddocs(prefix="c") == ["c"]
    assert remote.getconflicts("a") == db.getconflicts("a")
    resolved = remote.resolvedoc("a", {"id": "ignored", "rev": "ignored", "n": {3}})
    assert resolved == db.readdoc("a") == {"id": "a", "rev": resolved["rev"], "n": {3}}
    assert remote.conflicteddocs() == ["b", "c"]
    with pytest.raises(RecordNotFound):
        remote.getconflicts("none")


def test_what_was_refused_is_listed_and_retried(
    monkeypatch: pytest.MonkeyPatch, db: Any, remote: RemoteDatabase
) -> None:
    rejection = mynosql.Rejection(id=("a", 1), rev="1-x", code="too-many-leaves", reason="eight")
    monkeypatch.setattr(db, "rejecteddocs", lambda: [rejection])
    assert remote.rejecteddocs() == [rejection]
    db.savedoc({"id": "a"})
    remote.retrydoc("a")
    with pytest.raises(RecordNotFound, match="cannot retry 'none'"):
        remote.retrydoc("none")


def test_the_argument_is_not_changed(remote: RemoteDatabase) -> None:
    rec = {"id": "lamp", "on": True}
    remote.savedoc(rec)
    assert rec == {"id": "lamp", "on": True}


def test_docinfo_and_status_come_back_as_their_classes(db: Any, remote: RemoteDatabase) -> None:
    db.savedoc({"id": "lamp"})
    assert remote.docinfo("lamp") == db.docinfo("lamp")
    found, ours = remote.syncstatus(), db.syncstatus()
    assert type(found) is mynosql.SyncStatus
    assert (found.node, found.mode, found.records, found.mirrors) == (ours.node, ours.mode, 1, ours.mirrors)


def test_listdocs_is_asked_for_page_by_page(
    db: Any, remote: RemoteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LIST_PAGE_MAX", 3)
    db.savedocs([{"id": f"k{n}"} for n in range(10)])
    assert remote.listdocs() == db.listdocs()
    assert remote.listdocs("k", after="k4", limit=4) == ["k5", "k6", "k7", "k8"]
    assert remote.listdocs(limit=0) == []
    assert remote.listdocs(limit=3) == ["k0", "k1", "k2"]
    assert remote.listdocs("none") == []


def test_checkdb_comes_back_with_its_problems(remote: RemoteDatabase) -> None:
    report = remote.checkdb()
    assert (report.ok, report.problems) == (True, ())


def test_problems_of_a_check_are_problems_on_the_other_side() -> None:
    class Damaged:
        def checkdb(self) -> mynosql.CheckReport:
            problem = mynosql.Problem(file="shard-1", offset=7, what="crc differs", records=3)
            return mynosql.CheckReport(ok=False, problems=(problem,), records=9, blocks=1)

    damaged: Any = Damaged()
    remote = RemoteDatabase(lambda payload, timeout_s: answer(damaged, payload))
    assert remote.checkdb() == damaged.checkdb()


# Changes


def test_changes_since_a_token_are_paged(db: Any, remote: RemoteDatabase) -> None:
    db.savedocs([{"id": f"k{n}"} for n in range(5)])
    first, token = remote.changes_page(None, prefix="", limit=3, wait_s=0)
    rest, last = remote.changes_page(token, prefix="", limit=3, wait_s=0)
    assert [change.id for change in first + rest] == ["k0", "k1", "k2", "k3", "k4"]
    assert remote.changes_page(last, prefix="", limit=3, wait_s=0) == ([], last)


def test_changes_from_now_on_leave_out_what_is_there(db: Any, remote: RemoteDatabase) -> None:
    db.savedoc({"id": "old"})
    nothing, token = remote.changes_page(NOW, prefix="", limit=10, wait_s=0)
    db.savedoc({"id": "new"})
    found, _ = remote.changes_page(token, prefix="", limit=10, wait_s=0)
    assert (nothing, [change.id for change in found]) == ([], ["new"])


def test_a_page_waits_for_the_first_change_and_no_longer(db: Any, remote: RemoteDatabase) -> None:
    _, token = remote.changes_page(NOW, prefix="", limit=10, wait_s=0)
    timer = threading.Timer(0.05, lambda: db.savedoc({"id": "late"}))
    timer.start()
    found, _ = remote.changes_page(token, prefix="", limit=10, wait_s=DEADLINE_S)
    timer.join()
    assert [change.id for change in found] == ["late"]


def test_a_prefix_limits_the_changes(db: Any) -> None:
    db.savedocs([{"id": "a/1"}, {"id": "b/1"}, {"id": "a/2"}])
    found, token = changes_page(db, None, prefix="a/", limit=10, wait_s=0)
    assert [change.id for change in found] == ["a/1", "a/2"]
    assert changes_page(db, token, prefix="a/", limit=10, wait_s=0)[0] == []


def test_a_request_never_waits_longer_than_its_bound(remote: RemoteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "WAIT_S_MAX", 0.01)
    assert remote.changes_page(NOW, prefix="", limit=1, wait_s=1e9)[0] == []


def test_the_process_bounds_the_waiting_that_a_request_asks_for() -> None:
    class Patient:
        def readdoc(self, id: str, timeout: float) -> dict[str, Any]:
            return {"id": id, "waited": timeout}

        def waitsync(self, timeout: float) -> bool:
            return timeout == control.WAIT_S_MAX

    patient: Any = Patient()
    for asked, bounded in ((1e9, control.WAIT_S_MAX), (-1.0, 0.0), (1.5, 1.5)):
        found = unpack_value(answer(patient, pack_value({"v": 1, "verb": "get", "id": "a", "timeout": asked})))
        assert unpack_value(found["ok"])["waited"] == bounded
    assert unpack_value(answer(patient, pack_value({"v": 1, "verb": "wait", "timeout": 1e9})))["ok"] is True


def test_a_database_that_is_closing_does_nothing_and_says_so(make_db: Callable[..., Any]) -> None:
    db = make_db()
    node, ask = db._open, RemoteDatabase(lambda payload, timeout_s: db._answer(payload))
    ask.savedoc({"id": "before"})
    db.closedb()
    for was in (node, None):
        db._open = was
        with pytest.raises(NotOpen, match="ask again"):
            ask.savedoc({"id": "after"})
    db.closedb()


# Errors


@pytest.mark.parametrize(("call", "kind"), [
    (lambda r: r.readdoc("none"), RecordNotFound),
    (lambda r: r.savedoc({"id": "x", "bad": object()}), RecordInvalid),
    (lambda r: r.savedoc({"id": ["no", "id"]}), RecordInvalid),
    (lambda r: r.savedocs([7]), RecordInvalid),
    (lambda r: r.changes_page("no token", prefix="", limit=1, wait_s=0), OptionInvalid),
    (lambda r: r.addpeer("http://192.0.2.1:8800"), AddressInvalid),
    (lambda r: r.addpeer("no address"), AddressInvalid),
])
def test_an_error_comes_back_as_its_class(
    remote: RemoteDatabase, call: Callable[[RemoteDatabase], Any], kind: type[MyNoSQLError]
) -> None:
    with pytest.raises(kind) as caught:
        call(remote)
    assert type(caught.value) is kind
    assert str(caught.value)


@pytest.mark.parametrize("error", [
    StorageCorrupt("shard-3", 4096, "crc differs"), RecordUnavailable("not held", id=("a", 1)),
    RevisionConflict("older", id=5, given="1-a", latest="2-b"), mynosql.DatabaseLocked("locked", pid=17),
    RecordInvalid("bad", path="a[3]", position=4), NotOpen("closed"), MyNoSQLError("other"),
], ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_text_and_its_attributes(error: MyNoSQLError) -> None:
    with pytest.raises(type(error)) as caught:
        failing(error).syncstatus()
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


def test_a_mistake_inside_the_process_is_an_error_with_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MyNoSQLError, match="ZeroDivisionError: boom"):
        failing(ZeroDivisionError("boom")).syncstatus()
    assert "a request of a command failed" in caplog.text


def test_an_attribute_that_cannot_travel_is_left_out() -> None:
    error = RecordNotFound("gone", id=object())
    with pytest.raises(RecordNotFound, match="gone"):
        failing(error).syncstatus()


def test_an_unknown_verb_is_told_with_those_that_are_known(db: Any) -> None:
    found = unpack_value(answer(db, pack_value({"v": 1, "verb": "drop"})))
    assert found["error"] == "OptionInvalid"
    assert "'drop'" in found["text"]
    assert "put, get, info, ls, status, watch, check, wait, addpeer" in found["text"]


@pytest.mark.parametrize("request_", [
    {"v": 2, "verb": "ls"}, {"verb": "ls"}, [], None, 5, {"v": 1, "verb": 3}, {"v": 1, "verb": "get"},
    {"v": 1, "verb": "ls", "prefix": 5, "after": None, "limit": "x"}, {"v": 1, "verb": "put", "records": [b"\xc1"]},
    {"v": 1, "verb": "put", "records": 7}, {"v": 1, "verb": "watch", "since": 7, "prefix": "", "limit": 1, "wait": 0},
    {"v": 1, "verb": "get", "id": "a", "timeout": None},
])
def test_a_request_of_another_shape_is_an_error_and_changes_nothing(db: Any, request_: Any) -> None:
    found = unpack_value(answer(db, pack_value(request_)))
    assert found["error"] in ("PeerError", "OptionInvalid", "RecordInvalid")
    assert len(db) == 0


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_get_an_answer(payload: bytes) -> None:
    nothing: Any = object()
    assert unpack_value(answer(nothing, payload))["error"]


@pytest.mark.parametrize("sent", [
    b"", b"\xc1", pack_value(None), pack_value({}), pack_value({"error": 5}), pack_value({"ok": 5}),
    pack_value({"ok": {"mode": "Peer"}}),
])
def test_a_wrong_answer_is_the_other_sides_fault(sent: bytes) -> None:
    with pytest.raises(PeerError):
        RemoteDatabase(lambda payload, timeout_s: sent).syncstatus()


@pytest.mark.parametrize("name", ["Nonsense", "annotations", "Exception"])
def test_an_error_class_that_is_unknown_here_is_a_plain_error(name: str) -> None:
    sent = pack_value({"error": name, "text": "of a newer release", "with": {}})
    with pytest.raises(MyNoSQLError, match="of a newer release") as caught:
        RemoteDatabase(lambda payload, timeout_s: sent).syncstatus()
    assert type(caught.value) is MyNoSQLError


def test_what_a_newer_process_says_beyond_is_left_out(db: Any) -> None:
    fields = unpack_value(answer(db, pack_value({"v": 1, "verb": "status"})))["ok"]
    sent = pack_value({"ok": {**fields, "temperature": 30}})
    assert RemoteDatabase(lambda payload, timeout_s: sent).syncstatus().mode == "Peer"


def test_a_class_registered_only_over_there_is_told(db: Any) -> None:
    sent: list[bytes] = []

    @dataclass
    class Point:
        x: int

    class Colour(enum.Enum):
        RED = 1

    mynosql.register_type(Point, name="test_control.Point")
    mynosql.register_type(Colour, name="test_control.Colour")
    db.savedoc({"id": "p", "at": Point(3), "colour": Colour.RED})
    sent.append(answer(db, pack_value({"v": 1, "verb": "get", "id": "p", "timeout": 1.0})))
    known = RemoteDatabase(lambda payload, timeout_s: sent[0])
    assert known.readdoc("p")["at"] == Point(3)
    stranger = sent[0].replace(b"test_control.Point", b"test_control.Paint")
    with pytest.raises(RecordInvalid, match="Paint"):
        RemoteDatabase(lambda payload, timeout_s: stranger).readdoc("p")


def test_waiting_for_delivery_longer_than_one_request_may_wait(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "WAIT_S_MAX", 0.01)
    asked: list[float] = []

    def request(payload: bytes, timeout_s: float) -> bytes:
        asked.append(unpack_value(payload)["timeout"])
        return pack_value({"ok": len(asked) == 3})

    assert RemoteDatabase(request).waitsync(timeout=1.0)
    assert asked == [0.01, 0.01, 0.01]
