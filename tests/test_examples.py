"""Every example runs as its own text says, as real processes, and does what it is there to show."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mynosql
from mynosql.net.ports import find_free_pair
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DEADLINE_S = 60.0


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-u", str(EXAMPLES / name), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(name: str, *arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        command(name, *arguments), capture_output=True, text=True, env=environment(), timeout=DEADLINE_S, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@contextlib.contextmanager
def started(name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A running example, killed at the end if the test has not ended it."""
    with subprocess.Popen(
        command(name, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line that the pattern is found in."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(pattern, line)
        if found:
            return found
    raise AssertionError(f"{pattern!r} never came; it said:\n{''.join(lines)}")


def send(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


@contextlib.contextmanager
def mirror(folder: Path, name: str, listen: str = "127.0.0.1:0") -> Iterator[mynosql.MyNoSQL]:
    with mynosql.opendb(name, location=folder, mode="mirror", listen=listen) as db:
        yield db


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    """The first 500 of the real temperature readings."""
    path = tmp_path / "temps.csv"
    lines = (ROOT / "tests" / "data" / "sf-temps.csv").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:501]))
    return path


# iot_logger.py


def test_the_logger_saves_figures_of_this_machine_without_any_network(tmp_path: Path) -> None:
    said = run("iot_logger.py", "--folder", tmp_path, "--count", 3, "--interval", 0.01)
    assert "saved 3" in said
    assert "no mirror reached" in said
    with mynosql.opendb("Readings", location=tmp_path) as db:
        assert len(db) == 3
        assert all(db[id]["disk_free_mb"] > 0 for id in db)


def test_a_replay_reaches_the_mirror_and_may_be_repeated(tmp_path: Path, readings: Path) -> None:
    with mirror(tmp_path / "m", "Readings") as db:
        arguments = ("--folder", tmp_path / "l", "--replay", readings, "--mirror", db.endpoint, "--wait", 30)
        assert "saved 500, pending 0" in run("iot_logger.py", *arguments)
        assert len(db) == 500
        assert db["temps/000001"]["temp"] == 47.4
        revs = {id: db.docinfo(id).rev for id in db}
        assert "500 readings here, 0 pending from before" in run("iot_logger.py", *arguments)
        assert {id: db.docinfo(id).rev for id in db} == revs


def test_the_logger_survives_a_missing_mirror_and_being_killed(tmp_path: Path, readings: Path) -> None:
    listen = f"127.0.0.1:{find_free_pair()}"
    endpoint, folder = f"http://{listen}", ("--folder", tmp_path / "l")
    offline = run("iot_logger.py", *folder, "--replay", readings, "--count", 200, "--mirror", endpoint, "--wait", 0)
    assert "saved 200, pending 200, no mirror reached" in offline
    with started("iot_logger.py", *folder, "--replay", readings, "--mirror", endpoint, "--report", 10) as logger:
        read_until(logger, "saved 300")
        logger.kill()
    with mirror(tmp_path / "m", "Readings", listen) as db:
        said = run("iot_logger.py", *folder, "--replay", readings, "--mirror", endpoint, "--wait", 30)
        assert re.search(r"^[345]\d\d readings here, [345]\d\d pending from before", said)
        assert "saved 500, pending 0" in said
        assert len(db) == 500


def test_the_logger_closes_its_database_on_ctrl_c(tmp_path: Path) -> None:
    with started("iot_logger.py", "--folder", tmp_path, "--interval", 0.01) as logger:
        read_until(logger, "saved 2,")
        logger.send_signal(signal.SIGINT)
        assert logger.wait(DEADLINE_S) == 0
    assert not list((tmp_path / "Readings").glob("*journal*"))


# game_server.py, game_client.py


@contextlib.contextmanager
def game_server(tmp_path: Path, listen: str = "127.0.0.1:0") -> Iterator[tuple[subprocess.Popen[str], str]]:
    resources = tmp_path / "resources.json"
    if not resources.exists():
        items = json.loads((ROOT / "tests" / "data" / "items.json").read_text())[:50]
        resources.write_text(json.dumps(items))
    arguments = ("--resources", resources, "--folder", tmp_path / "server", "--listen", listen, "--look", 0.05)
    with started("game_server.py", *arguments) as server:
        yield server, read_until(server, r"serving at (\S+)")[1]


def client(tmp_path: Path, endpoint: str, *arguments: object, device: str = "one") -> list[object]:
    return ["game_client.py", "--server", endpoint, "--player", "ann", "--folder", tmp_path / device, *arguments]


def play(arguments: list[object], lines: str) -> str:
    with started(*arguments) as process:  # type: ignore[arg-type]
        return process.communicate(lines, timeout=DEADLINE_S)[0]


def test_resources_are_fetched_once_and_again_only_when_they_change(tmp_path: Path) -> None:
    with game_server(tmp_path) as (server, endpoint):
        read_until(server, "50 resources, 50 new or changed")
        load = client(tmp_path, endpoint, "--load", "stone", "granite")
        first = play(load, "q\n")
        assert "stone: fetched" in first
        assert "granite: fetched" in first
        second = play(load, "q\n")
        assert "stone: already here" in second
        assert "granite: already here" in second

        resources = json.loads((tmp_path / "resources.json").read_text())
        next(item for item in resources if item["name"] == "stone")["stackSize"] = 99
        (tmp_path / "new.json").write_text(json.dumps(resources))
        (tmp_path / "new.json").rename(tmp_path / "resources.json")
        read_until(server, "50 resources, 1 new or changed")
        third = play(load, "q\n")
        assert "stone: fetched, was stale" in third
        assert "granite: already here" in third
    with mynosql.opendb("Game", location=tmp_path / "one") as db:
        assert db["resource/stone"]["stackSize"] == 99
        assert len(db) == 50  # it knows all
        assert db.docinfo("resource/diorite").state == "remote"  # and holds what it used


def test_saves_made_offline_arrive_later(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{find_free_pair()}"
    with game_server(tmp_path, listen) as (_, endpoint):
        play(client(tmp_path, endpoint), "\nq\n")
    offline = play(client(tmp_path, endpoint, "--timeout", 0.2), "\n\nq\n")
    assert "playing offline" in offline
    assert "ann has 1 coins" in offline
    assert "ann has 3 coins; saved here, on its way" in offline
    assert "1 saves pending" in offline
    with game_server(tmp_path, listen) as (server, _):
        online = play(client(tmp_path, endpoint, "--timeout", 20), "q\n")
        assert "0 saves pending" in online
        read_until(server, "save/ann is now at 3-")


def test_games_played_apart_on_two_machines_become_one_again(tmp_path: Path) -> None:
    with game_server(tmp_path) as (_, endpoint):
        play(client(tmp_path, endpoint), "\nq\n")
        with started(*client(tmp_path, endpoint)) as first:  # type: ignore[arg-type]
            read_until(first, "has 1 coins")
            assert "ann has 3 coins" in play(client(tmp_path, endpoint, device="two"), "\n\nq\n")
            send(first, "\n\n\n\nq\n")  # this machine still plays on from 1 coin
            read_until(first, "ann has 5 coins")
            read_until(first, "0 saves pending")
        again = play(client(tmp_path, endpoint, device="two"), "q\n")
        assert "games played apart are one again: 5 coins" in again
        assert "ann has 5 coins" in play(client(tmp_path, endpoint), "q\n")


# lan_mirrors.py, blockchain.py


def test_three_mirrors_stay_equal_when_one_is_away_for_a_while() -> None:
    said = run("lan_mirrors.py", "--timeout", 40)
    assert "one note written at each, all three hold all three" in said
    assert "note/b: changed at a while c was away" in said
    assert "note/late: written at b while c was away" in said
    assert said.endswith("c is back; all three are equal\n")


def test_a_chain_is_appended_shown_and_valid(tmp_path: Path) -> None:
    folder = ("--folder", tmp_path)
    assert run("blockchain.py", "append", *folder, "Ann pays Bob 5", "Bob pays Cid 2").count("\n") == 2
    run("blockchain.py", "append", *folder, "Cid pays Ann 1")
    shown = run("blockchain.py", "show", *folder).splitlines()
    assert [line.split(maxsplit=4)[4] for line in shown] == ["Ann pays Bob 5", "Bob pays Cid 2", "Cid pays Ann 1"]
    assert shown[1].split()[3] == shown[0].split()[1]  # linked by hash
    assert run("blockchain.py", "validate", *folder) == "3 blocks, valid\n"


def test_a_changed_block_is_found(tmp_path: Path) -> None:
    folder = ("--folder", tmp_path)
    run("blockchain.py", "append", *folder, "one", "two", "three")
    with mynosql.opendb("Chain", location=tmp_path) as db:
        block = db["block/000000001"]
        db.savedoc({**block, "data": "two, but forged"})
    said = run("blockchain.py", "validate", *folder, code=1)
    assert "block 1 was changed" in said
    assert "3 blocks, NOT valid" in said


def test_a_removed_block_is_found(tmp_path: Path) -> None:
    folder = ("--folder", tmp_path)
    run("blockchain.py", "append", *folder, "one", "two", "three")
    with mynosql.opendb("Chain", location=tmp_path) as db:
        db.deletedoc("block/000000001")
    assert "block 1 is missing" in run("blockchain.py", "validate", *folder, code=1)


def test_a_chain_is_read_on_another_machine(tmp_path: Path) -> None:
    with mirror(tmp_path / "m", "Chain") as db:
        first = ("--folder", tmp_path / "a", "--mirror", db.endpoint)
        second = ("--folder", tmp_path / "b", "--mirror", db.endpoint)
        assert "delivered" in run("blockchain.py", "append", *first, "--timeout", 30, "one", "two")
        wait_until(lambda: len(db) == 2, DEADLINE_S)
        run("blockchain.py", "append", *second, "--timeout", 30, "three")
        assert run("blockchain.py", "validate", *second, "--timeout", 30) == "3 blocks, valid\n"
        assert [db[id]["data"] for id in db] == ["one", "two", "three"]


def test_two_chains_grown_apart_are_not_valid(tmp_path: Path) -> None:
    with mirror(tmp_path / "m", "Chain") as db:
        for name in ("a", "b"):
            run("blockchain.py", "append", "--folder", tmp_path / name, f"grown at {name}")  # never met
        for name in ("a", "b"):
            with mynosql.opendb("Chain", location=tmp_path / name, peers=[db.endpoint]) as peer:
                assert peer.waitsync(timeout=DEADLINE_S)
        assert len(db.getconflicts("block/000000000")) == 1
    said = run("blockchain.py", "validate", "--folder", tmp_path / "m", code=1)
    assert "block 0 exists in more than one version" in said


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_has_help_and_a_test(path: Path) -> None:
    assert f'"{path.name}"' in Path(__file__).read_text(encoding="utf-8")
    assert path.name in run(path.name, "--help")
