"""How a command reaches a database: one that is missing is not made, a secret must be a secret, no endless waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.cli import access, exits
from mynosql.codec import unpack_value
from mynosql.errors import NotOpen
from mynosql.net.local import AnswerLost, request
from tests.cli.running import Run


def test_looking_into_a_database_that_is_not_there_makes_none(mynosql_here: Run, tmp_path: Path) -> None:
    for command in (["get", "Absent", "a"], ["ls", "Absent"], ["status", "Absent"], ["check", "Absent"]):
        assert mynosql_here(*command).code == exits.NOT_FOUND
    assert not (tmp_path / "home" / "Absent").exists()


def test_a_record_that_no_mirror_delivers_is_unavailable(mynosql_here: Run) -> None:
    nobody = "http://127.0.0.1:9"
    assert mynosql_here("put", "Notes", "a", "{}", "--peer", nobody, "--wait", "0").code == exits.NOT_FOUND
    assert mynosql_here("get", "Notes", "b", "--timeout", "0.2").code == exits.UNAVAILABLE


def test_a_secret_file_that_others_can_read_is_refused(mynosql_here: Run, tmp_path: Path) -> None:
    path = tmp_path / "cluster.secret"
    mynosql_here("keygen", "--out", str(path))
    assert mynosql_here("put", "Notes", "a", "{}", "--secret-file", str(path)).code == exits.OK
    path.chmod(0o644)
    done = mynosql_here("ls", "Notes", "--secret-file", str(path))
    assert done.code == exits.USAGE
    assert f"chmod 600 {path}" in done.err


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff\xfe", b"x" * 100_000])
def test_a_file_that_holds_no_secret_is_refused(mynosql_here: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cluster.secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert mynosql_here("put", "Notes", "a", "{}", "--secret-file", str(path)).code == exits.USAGE


# While other processes open and close the database


class Unsteady:
    """Stands before the process that has the database open: loses the answers to the first requests of a verb."""

    def __init__(self, verb: str, *, times: int, error: Exception, is_performed: bool) -> None:
        self._verb = verb
        self.left = times
        self._error = error
        self._is_performed = is_performed

    def __call__(self, folder: str, payload: bytes, timeout_s: float) -> bytes:
        if unpack_value(payload)["verb"] == self._verb and self.left:
            self.left -= 1
            if self._is_performed:
                request(folder, payload, timeout_s)
            raise self._error
        return request(folder, payload, timeout_s)


@pytest.mark.parametrize(("error", "is_performed"), [
    (NotOpen("closing"), False), (AnswerLost("gone"), False), (AnswerLost("gone"), True),
])
@pytest.mark.parametrize("arguments", [["lamp", '{"n": {"$float": "nan"}}'], ['{"n": 1}']])
def test_a_record_is_saved_once_whatever_happens_to_the_process_that_was_asked(
    mynosql_here: Run, make_db: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    error: Exception, is_performed: bool, arguments: list[str],
) -> None:
    db = make_db("Notes", location=tmp_path / "home")
    unsteady = Unsteady("put", times=2, error=error, is_performed=is_performed)
    monkeypatch.setattr(access.local, "request", unsteady)
    done = mynosql_here("put", "Notes", *arguments)
    assert done.code == exits.OK, done.err
    id, rev = done.out.split()
    assert unsteady.left == (1 if is_performed else 0)
    assert (db.listdocs(), db.docinfo(id).rev, rev[:2]) == ([id], rev, "1-")


@pytest.mark.parametrize("is_performed", [True, False])
def test_an_edit_whose_answer_was_lost_is_saved_and_no_conflict_with_itself(
    mynosql_here: Run, make_db: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    is_performed: bool,
) -> None:
    db = make_db("Notes", location=tmp_path / "home")
    rec = db.savedoc({"id": "lamp", "n": 1})
    monkeypatch.setattr(
        access.local, "request", Unsteady("put", times=1, error=AnswerLost("gone"), is_performed=is_performed)
    )
    done = mynosql_here("put", "Notes", json.dumps({**rec, "n": 2}))
    assert (done.code, done.out) == (exits.OK, f"lamp {db.docinfo('lamp').rev}\n")
    assert db.readdoc("lamp")["n"] == 2


def test_a_read_is_asked_again(
    mynosql_here: Run, make_db: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_db("Notes", location=tmp_path / "home").savedoc({"id": "lamp"})
    for verb, arguments in (("get", ["get", "Notes", "lamp"]), ("ls", ["ls", "Notes"]), ("check", ["check", "Notes"])):
        monkeypatch.setattr(
            access.local, "request", Unsteady(verb, times=2, error=AnswerLost("gone"), is_performed=True)
        )
        assert mynosql_here(*arguments).code == exits.OK


def test_a_process_that_holds_the_folder_and_never_answers_is_given_up(
    mynosql_here: Run, make_db: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_db("Notes", location=tmp_path / "home")
    monkeypatch.setattr(access, "CHANGE_OF_HANDS_S", 0.1)
    monkeypatch.setattr(
        access.local, "request", Unsteady("status", times=10**9, error=NotOpen("silent"), is_performed=False)
    )
    done = mynosql_here("ls", "Notes")
    assert done.code == exits.UNAVAILABLE
    assert "in use" in done.err


def test_a_command_that_finds_the_process_gone_opens_the_database_itself(
    mynosql_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = mynosql.opendb("Notes", location=tmp_path / "home")

    def close_instead(folder: str, payload: bytes, timeout_s: float) -> bytes:
        if unpack_value(payload)["verb"] != "put":
            return request(folder, payload, timeout_s)
        other.closedb()
        raise AnswerLost("gone")

    monkeypatch.setattr(access.local, "request", close_instead)
    assert mynosql_here("put", "Notes", "lamp", "{}").code == exits.OK
    monkeypatch.undo()
    with mynosql.opendb("Notes", location=tmp_path / "home") as db:
        assert db.listdocs() == ["lamp"]
