"""The commands on conflicts and on what a mirror refused: directly, and through a process that has it all open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.cli import exits
from mynosql.revision import LEAVES_MAX_PUSHED
from tests.cli.running import Run
from tests.mesh import wait_connected
from tests.waiting import wait_until


@pytest.fixture(params=["closed", "open"])
def notes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The revs of "lamp", winner first, in a database with two conflicts; closed, or open in this process."""
    db = mynosql.opendb("Notes", location=tmp_path / "home")
    try:
        for id in ("lamp", "door", "wall"):
            base = db.savedoc({"id": id, "n": 0})
            if id != "wall":
                db.savedoc({**base, "n": 1})
                db.savedoc({**base, "n": 2}, branch=True)
        revs = [db.readdoc("lamp")["rev"], *(each.rev for each in db.getconflicts("lamp"))]
        if request.param == "closed":
            db.closedb()
        yield revs
    finally:
        db.closedb()


def test_the_ids_in_conflict_are_listed(mynosql_here: Run, notes: list[str]) -> None:
    assert mynosql_here("conflicts", "Notes").out == "door\nlamp\n"
    assert mynosql_here("conflicts", "Notes", "--json").json_lines == ["door", "lamp"]
    assert mynosql_here("conflicts", "Notes", "--prefix", "la").out == "lamp\n"


def test_the_revisions_of_a_record_are_shown_the_winner_first(mynosql_here: Run, notes: list[str]) -> None:
    shown = mynosql_here("conflicts", "Notes", "lamp", "--json").json_lines
    assert [(each["rev"], each["winner"], each["held"]) for each in shown] == [
        (notes[0], True, True), (notes[1], False, True),
    ]
    assert {each["rec"]["n"] for each in shown} == {1, 2}
    assert all(each["rev"].endswith(each["node"]) for each in shown)
    text = mynosql_here("conflicts", "Notes", "lamp").out
    assert f"{notes[0]} by node {shown[0]['node']}, the winner:\n" in text
    assert f"{notes[1]} by node {shown[1]['node']}:\n" in text
    assert '"n": 1' in text
    assert len(mynosql_here("conflicts", "Notes", "wall", "--json").json_lines) == 1


def test_resolve_takes_a_record_or_one_of_the_revisions(mynosql_here: Run, notes: list[str]) -> None:
    taken = mynosql_here("conflicts", "Notes", "lamp", "--json").json_lines[1]
    resolved = mynosql_here("resolve", "Notes", "lamp", "--take", notes[1], "--json")
    assert (resolved.code, resolved.err) == (exits.OK, "")
    assert mynosql_here("get", "Notes", "lamp", "--json").json == {**taken["rec"], "rev": resolved.json["rev"]}
    assert mynosql_here("conflicts", "Notes").out == "door\n"
    assert mynosql_here("resolve", "Notes", "door", stdin='{"n": 7}').out.startswith("door 3-")
    assert mynosql_here("get", "Notes", "door", "--json").json["n"] == 7
    assert mynosql_here("conflicts", "Notes").out == ""


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["conflicts", "Notes", "none"], exits.NOT_FOUND, "none"),
    (["conflicts", "Absent"], exits.NOT_FOUND, "no database"),
    (["resolve", "Notes", "none", "{}"], exits.NOT_FOUND, "none"),
    (["resolve", "Notes", "lamp", "[1]"], exits.USAGE, "a record is a JSON object"),
    (["resolve", "Notes", "lamp", "{"], exits.USAGE, "not JSON"),
    (["resolve", "Notes", "lamp", "{}", "--take", "1-x"], exits.USAGE, "exclude"),
    (["resolve", "Notes", "lamp", "--take", "1-x"], exits.USAGE, "expected one of 2-"),
    (["resolve", "Notes"], exits.USAGE, "ID"),
    (["rejected", "Notes", "--wait", "1"], exits.USAGE, "--retry"),
])
def test_what_is_wrong_is_said_in_a_line(
    mynosql_here: Run, notes: list[str], arguments: list[str], code: int, said: str
) -> None:
    done = mynosql_here(*arguments)
    assert (done.code, said in done.err) == (code, True), done
    assert mynosql_here("conflicts", "Notes").out == "door\nlamp\n"


def test_nothing_was_refused(mynosql_here: Run, notes: list[str]) -> None:
    done = mynosql_here("rejected", "Notes", "--retry")
    assert (done.code, done.out) == (exits.OK, "")


def test_what_a_mirror_refused_is_listed_and_tried_again(
    mynosql_here: Run, make_db: Callable[..., Any], tmp_path: Path
) -> None:
    mirror = make_db("Notes", mode="mirror", listen="127.0.0.1:0")
    peer = make_db("Notes", location=tmp_path / "home", peers=[mirror.endpoint])
    wait_connected(peer)
    base = mirror.savedoc({"id": "lamp", "n": 0})
    wait_until(lambda: "lamp" in peer, 10, "the peer knows it")
    for url in peer.listpeers():
        peer.delpeer(url)
    for number in range(LEAVES_MAX_PUSHED):
        mirror.savedoc({**base, "n": number + 1}, branch=True)
    peer.savedoc({**base, "n": "ours"})
    peer.addpeer(mirror.endpoint)
    wait_until(peer.rejecteddocs, 20, "refused")
    (shown,) = mynosql_here("rejected", "Notes", "--json").json_lines
    assert (shown["id"], shown["code"]) == ("lamp", "too-many-leaves")
    text = mynosql_here("rejected", "Notes").out
    assert text == f"lamp {shown['rev']} too-many-leaves: {shown['reason']}\n"
    mirror.resolvedoc("lamp", {"n": 0})
    retried = mynosql_here("rejected", "Notes", "--retry", "--wait", "20")
    assert retried.code == exits.OK, retried.err
    wait_until(lambda: len(mirror.getconflicts("lamp")) == 1, 10, "the mirror has it")
    assert mynosql_here("rejected", "Notes").out == ""
